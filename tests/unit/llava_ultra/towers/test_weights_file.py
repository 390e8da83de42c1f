import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llava_ultra.towers.adopt import read_weights
from llava_ultra.towers.weights_file import check_weights_file


class Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


def save(path, value):
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    "values",
    [
        {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.bfloat16)},
        {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.zeros(2, dtype=torch.int64)},
        {"model": {"a": torch.zeros(2)}, "epoch": 3, "rate": 0.1, "names": ["a"]},
        torch.nn.Linear(2, 2).state_dict(),
        {
            "a": torch.zeros(2).to_sparse(),
            "size": torch.Size([1, 2]),
            "device": torch.device("cpu"),
        },
    ],
    ids=["dtypes", "parameters", "nested", "state_dict", "sparse"],
)
def test_tensors_pass_in_every_format_and_torch_agrees(values, tmp_path):
    path = save(tmp_path / "a.pt", values)
    check_weights_file(path)
    assert torch.load(path, weights_only=True).keys() == values.keys()
    torch.save(values, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    check_weights_file(tmp_path / "old.pth")


def test_safetensors_hold_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    check_weights_file(path)
    assert load_file(path).keys() == {"a"}
    torch.save(Harmful(), path)
    with pytest.raises(ValueError, match="no plain tensors"):
        check_weights_file(path)
    with pytest.raises(SafetensorError):
        load_file(path)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": torch.zeros(2), "config": Harmful()}, "print"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"a": np.float64(1)}, "numpy"),
    ],
    ids=["code", "module", "numpy"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_what_would_run_is_named_and_neither_run_nor_recommended(
    value, named, zipped, tmp_path, capsys
):
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="are no plain tensors: reading them would run") as caught:
        check_weights_file(tmp_path / "a.pt")
    message = str(caught.value)
    assert named in message
    assert "weights_only" not in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_pickle_is_looked_through_in_every_protocol(protocol, tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Harmful(), protocol=protocol))
    with pytest.raises(ValueError, match="no plain tensors"):
        check_weights_file(tmp_path / "a.pth")


def test_a_program_of_torchscript_is_code(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/code/__torch__.py", "pass")
    with pytest.raises(ValueError, match="would run a TorchScript program"):
        check_weights_file(tmp_path / "a.pt")


def test_what_is_not_there_or_of_another_kind_is_said(tmp_path):
    with pytest.raises(ValueError, match="do not exist"):
        check_weights_file(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"none of \.safetensors, \.pt and \.pth"):
        check_weights_file(tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "old.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.97])
def test_a_part_of_a_file_is_refused_before_it_is_read(name, kept, tmp_path):
    path, values = tmp_path / name, {"a": torch.zeros(2000)}
    if name == "a.safetensors":
        save_file(values, path)
    else:
        torch.save(values, path, _use_new_zipfile_serialization=name == "a.pt")
    whole = path.read_bytes()
    check_weights_file(path)
    for content in (whole[: int(kept * len(whole))], b"abc"):
        path.write_bytes(content)
        if name == "old.pth" and len(content) > 100:  # its numbers follow the names of tensors
            with pytest.raises(ValueError, match=r"weights '.*'"):
                read_weights(path)
            continue
        with pytest.raises(ValueError, match=r"no plain tensors .*; get them again"):
            check_weights_file(path)
