"""A student in an exported model: it answers as outside, and another model's is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_ultra.export.encoder import load_encoder
from llava_ultra.export.hosted import check_hosted
from llava_ultra.export.manifest import read_artifact_manifest
from llava_ultra.export.student_part import load_student, save_student
from llava_ultra.student.network import WEIGHTS, Student, pad_images, pool_tokens
from llava_ultra.student.student_card import CARD, read_card
from llava_ultra.testing import TRAINING, tiny_artifact, tiny_config, tiny_image
from llava_ultra.towers.tower import encode_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("exported") / "model"
    tiny_artifact(made, with_student=True)
    return made


def distilled(folder: Path) -> Path:
    return folder.parent / f"{folder.name}-student"


def test_the_student_of_an_exported_model_answers_as_outside(folder: Path):
    encoder = load_encoder(folder)
    images = [tiny_image(seed) for seed in range(3)]
    logits, looks = encoder.opine(encoder.fuse(images).pooled)
    towers = [encode_images(tower, images, "cpu").numpy() for tower in encoder.towers.values()]
    pooled = np.concatenate([pool_tokens(each) for each in towers], axis=1)
    alone = Student.load(distilled(folder))(*pad_images([pooled]))
    torch.testing.assert_close(logits, alone.logits[0])
    torch.testing.assert_close(looks, alone.image_logits[0].softmax(dim=-1))
    manifest = read_artifact_manifest(folder)
    assert manifest["digests"]["student"] == Student.load(distilled(folder)).digest
    assert manifest["student"] == read_card(distilled(folder)).model_dump(mode="json")


def test_a_model_without_a_student_is_as_before(tmp_path: Path):
    tiny_artifact(tmp_path / "model")
    manifest = read_artifact_manifest(tmp_path / "model")
    assert "student" not in manifest
    assert "student" not in manifest["digests"]
    encoder = load_encoder(tmp_path / "model")
    assert encoder.student is None
    assert encoder.fuse([tiny_image()]).pooled.shape == (1, 0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"training": "other-1"}, "learned from training"),
        ({"towers": {"clip": "0" * 64, "sam": "0" * 64}}, "features of the clip tower"),
        ({"config": "wide"}, "features of an image"),
    ],
)
def test_a_student_of_another_model_is_not_exported(folder: Path, tmp_path: Path, given, reason):
    if given.get("config"):
        config = tiny_config()
        clip = config.clip.model_copy(update={"width": 64})
        given = {"config": config.model_copy(update={"clip": clip})}
    usual = {
        "training": TRAINING,
        "towers": read_artifact_manifest(folder)["digests"],
        "config": tiny_config(),
    }
    with pytest.raises(ValueError, match=f"{reason}.*run sonoray distil --run"):
        save_student(distilled(folder), tmp_path, **{**usual, **given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("weights", "digest"),
        ("card", "does not say what the manifest says"),
        ("training", "learned from training"),
        ("gone", "holds no student"),
    ],
)
def test_a_student_of_another_model_is_refused_at_load(
    folder: Path, tmp_path: Path, spoil: str, reason: str
):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    manifest = read_artifact_manifest(copy)
    if spoil == "weights":
        other = Student.load(copy / "student")
        with torch.no_grad():
            other.head_bias += 1
        other.save(tmp_path)
        shutil.copyfile(tmp_path / WEIGHTS, copy / "student" / WEIGHTS)
    elif spoil == "card":
        path = copy / "student" / CARD
        told = json.loads(path.read_text(encoding="utf-8"))
        told["card"]["routes"] = []
        path.write_text(json.dumps(told), encoding="utf-8")
    elif spoil == "training":
        manifest["provenance"]["training"] = "other-1"
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    else:
        shutil.rmtree(copy / "student")
    with pytest.raises(ValueError, match=reason):
        load_student(copy, manifest)
    with pytest.raises(ValueError, match=reason):
        load_encoder(copy)
    with pytest.raises(ValueError, match=reason):
        check_hosted(copy, folder)
