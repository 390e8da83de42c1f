"""The bank of a training has the classes that training has, and nothing names the others."""

import logging

import pytest

from llava_ultra.config import ModelConfig
from llava_ultra.objectives.recognise import RecognitionObjective
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.class_bank import prepare_bank

BANK = """
label = "kind"
[[classes]]
name = "囊肿"
values = ["cyst"]
[[classes]]
name = "结节"
values = ["nodule"]
[[classes]]
name = "癌"
values = ["cancer"]
aliases = ["恶性"]
"""


def write(folder, texts, kinds=("cyst", "nodule", "cancer")):
    image = StudyImage(image_id="i", uri="", width=8, height=8)
    write_studies(
        folder,
        [
            Study(
                study_id=kind,
                patient_key=kind,
                split="train",
                dataset="d",
                images=(image,),
                turns=(
                    Turn(question="报告？", answer=texts.get(kind, "无"), topic="report"),
                    Turn(
                        question="是癌吗？", answer="是" if kind == "cancer" else "否", topic="kind"
                    ),
                ),
                labels={"kind": kind},
            )
            for kind in kinds
        ],
    )


def road(folder, **train):
    path = folder / "bank.toml"
    path.write_text(BANK, "utf-8")
    return RoadConfig(
        model=ModelConfig(objectives=(RecognitionObjective(bank=str(path)),)),
        train=TrainConfig(**train),
    )


def test_classes_without_a_training_study_take_no_part_and_are_named(tmp_path, caplog):
    write(tmp_path, {})
    assert prepare_bank(tmp_path, road(tmp_path)).names == ("囊肿", "结节", "癌")
    with caplog.at_level(logging.INFO):
        bank = prepare_bank(tmp_path, road(tmp_path, hold_out={"kind": ("cancer",)}))
    assert bank.names == ("囊肿", "结节")
    assert "2 of 2 training studies are of a class; without any, and left out of training: 癌" in (
        caplog.text
    )


@pytest.mark.parametrize("text", ["考虑癌。", "恶性可能。"])
def test_a_text_that_names_a_held_out_class_is_refused(tmp_path, text):
    write(tmp_path, {"nodule": text})
    with pytest.raises(DataError, match=r"a training text names it .report of study 'nodule'"):
        prepare_bank(tmp_path, road(tmp_path, hold_out={"kind": ("cancer",)}))


def test_a_value_that_no_study_has_is_refused(tmp_path):
    write(tmp_path, {})
    with pytest.raises(DataError, match=r"no study has a label of train.hold_out = .*'none'"):
        prepare_bank(tmp_path, road(tmp_path, hold_out={"kind": ("none",)}))


def test_labels_that_the_bank_lacks_are_refused(tmp_path):
    write(tmp_path, {}, kinds=("cyst", "abscess"))
    with pytest.raises(ValueError, match="kind = 'abscess' is of no class"):
        prepare_bank(tmp_path, road(tmp_path))
    write(tmp_path, {}, kinds=("cyst",))
    with pytest.raises(DataError, match=r"are of 1 of the 3 classes of bank 'bank' \(kind\)"):
        prepare_bank(tmp_path, road(tmp_path))


def test_nothing_is_read_where_nothing_is_recognised(tmp_path):
    assert prepare_bank(tmp_path / "missing", RoadConfig()) is None
