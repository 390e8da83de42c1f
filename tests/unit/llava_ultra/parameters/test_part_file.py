import json

import pytest
import torch
from torch import nn

from llava_ultra.parameters.part_file import PartFile
from llava_ultra.towers.tower_config import ModelPart


class Shape(ModelPart):
    width: int


FILE = PartFile(
    weights="part.safetensors", shape="part.json", kind=Shape, what="part", command="sonoray make"
)


def build(shape):
    return nn.Linear(shape.width, 2)


@pytest.fixture
def made(tmp_path):
    part = build(Shape(width=3))
    FILE.save(tmp_path, part.state_dict(), Shape(width=3), {"run": "phantom-1"})
    return part


def test_what_is_saved_is_read_for_use(made, tmp_path):
    again = FILE.load(tmp_path, build)
    assert torch.equal(again.weight, made.weight)
    assert not again.training
    described = json.loads((tmp_path / "part.json").read_text(encoding="utf-8"))
    assert described == {"shape": {"width": 3}, "run": "phantom-1"}


def test_a_tensor_that_lies_by_columns_is_kept(tmp_path):
    part = build(Shape(width=2))
    turned = {**part.state_dict(), "weight": part.weight.detach().T}
    FILE.save(tmp_path, turned, Shape(width=2), {})
    assert torch.equal(FILE.load(tmp_path, build).weight, part.weight.T)


@pytest.mark.parametrize("spoil", ["part.safetensors", "part.json", "width"])
@pytest.mark.usefixtures("made")
def test_a_folder_without_a_whole_part_is_refused(tmp_path, spoil):
    if spoil == "width":
        shape = tmp_path / "part.json"
        shape.write_text(shape.read_text().replace("3", "4"), encoding="utf-8")
    else:
        (tmp_path / spoil).unlink()
    with pytest.raises(ValueError, match=r"holds no part .*; run sonoray make"):
        FILE.load(tmp_path, build)
