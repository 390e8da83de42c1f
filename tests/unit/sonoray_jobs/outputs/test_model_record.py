"""What an exported model keeps of its making: written, read back and pinned."""

import hashlib
import json

import pytest

from sonoray.errors import CheckpointError
from sonoray.metrics import AnswerRecord
from sonoray_jobs.outputs.model_record import (
    RECORD,
    ModelFacts,
    ModelRecord,
    TopicRecord,
    read_record,
    write_record,
)

OPTIONS = ("良性", "恶性")
IMAGES = {"0f" * 32: b"\x01" * 32, "aa" * 32: None, "03" * 32: b"\x02" * 32}


def answer(patient, scores=(-1.0, -2.0)):
    return AnswerRecord(
        study_id=f"study of {patient}", patient_key=patient, topic="pathology", truth="恶性",
        answer="良性", options=OPTIONS, option_scores=dict(zip(OPTIONS, scores, strict=True)),
    )  # fmt: skip


def record(*answers):
    return ModelRecord(
        facts=ModelFacts(
            dtype="int8",
            near_duplicate_distance=24,
            near_duplicate_correlation=0.9,
            num_training_patients=9,
            topics={
                "pathology": TopicRecord(
                    question="良性还是恶性？", options=OPTIONS, answers={"良性": 7}
                )
            },
        ),
        training_images=IMAGES,
        internal_test=answers,
    )


def manifest(digests):
    return {"provenance": {RECORD: digests}}


def test_it_comes_back_and_a_patient_is_a_number(tmp_path):
    keys = ["key-z", "key-a", "key-z"]
    digests = write_record(tmp_path, record(*map(answer, keys)))
    assert sorted(digests) == sorted(path.name for path in tmp_path.iterdir())
    found = read_record(tmp_path, manifest(digests))
    assert found.facts == record().facts
    assert found.training_images == IMAGES
    patients = [each.patient_key for each in found.internal_test]
    assert patients[0] == patients[2] != patients[1]
    assert found.internal_test[0].option_scores == answer("key-z").option_scores
    for path in tmp_path.iterdir():
        for key in keys:
            assert key.encode() not in path.read_bytes()
    assert write_record(tmp_path, record(*map(answer, keys))) == digests  # to the byte


def test_without_an_internal_test_there_are_no_answers(tmp_path):
    digests = write_record(tmp_path, record())
    assert "internal_test.parquet" not in digests
    assert read_record(tmp_path, manifest(digests)).internal_test == []


@pytest.mark.parametrize("name", ["record.json", "training_images.parquet"])
def test_another_or_a_missing_file_is_refused(tmp_path, name):
    digests = write_record(tmp_path, record())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + b" ")
    with pytest.raises(CheckpointError, match=f"{name} of model .* not the exported one"):
        read_record(tmp_path, manifest(digests))
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_record(tmp_path, manifest(digests))


def test_a_model_without_hashes_or_of_another_version_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no hashes of its training images.* export it again"
    ):
        read_record(tmp_path, {"provenance": {}})
    digests = write_record(tmp_path, record())
    facts = json.loads((tmp_path / "record.json").read_text()) | {"new": 1}
    (tmp_path / "record.json").write_text(json.dumps(facts))
    digests["record.json"] = hashlib.sha256((tmp_path / "record.json").read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match="of another version"):
        read_record(tmp_path, manifest(digests))
