"""What CLIP's pretraining is told beside images and captions: terms and classes."""

import pytest

from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.objectives.pretraining.image_text import ImageTextObjective
from llava_ultra.objectives.pretraining.mlip import MlipObjective
from llava_ultra.pretrain.contrastive import pretrain_clip
from llava_ultra.pretrain.pretrain_config import ClipPretrainConfig
from llava_ultra.testing import tiny_config, tiny_image
from sonoray.audit.terms import affirmed_terms
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.road.config import BootstrapConfig, RoadConfig
from sonoray_jobs.towers.clip_knowledge import knowledge_of

TEXTS = {
    "a1": "甲状腺左叶见低回声病灶，边缘毛刺，内见钙化。",
    "a2": "甲状腺左叶回声均匀，未见病灶。",
    "b1": "肝脏右叶见高回声病灶，边缘光滑，未见钙化。",
}


def study(name, kind, shows):
    return Study(
        study_id=name,
        patient_key=name,
        split="train",
        dataset="d",
        images=tuple(
            StudyImage(
                image_id=f"{name}{number + 1}",
                uri="",
                width=8,
                height=8,
                labels={"shows_finding": shown},
            )
            for number, shown in enumerate(shows)
        ),
        turns=(),
        labels={"kind": kind, "finding": "1"},
    )


STUDIES = [study("a", "benign_solid", "10"), study("b", "cyst", "1")]


def knowledge(*objectives, studies=STUDIES):
    clip = ClipPretrainConfig(objectives=objectives)
    road = RoadConfig(bootstrap=BootstrapConfig(clip=clip))
    tokenizer = train_tokenizer(TEXTS.values(), 400)
    return knowledge_of(road, studies, list(TEXTS), TEXTS, tokenizer)


def test_terms_are_those_that_a_caption_affirms():
    assert affirmed_terms(TEXTS["a1"]) >= {"甲状腺", "低回声", "毛刺", "钙化", "病灶"}
    assert not {"钙化", "毛刺"} & affirmed_terms(TEXTS["b1"])
    found = knowledge(MlipObjective())
    assert found.term_ids.shape[0] == found.term_marks.shape[1]
    assert found.term_marks.any(dim=1).all()
    assert not found.term_marks.all(dim=0).any()  # a term of all captions tells nothing
    assert found.labels is None


def test_an_image_without_the_finding_is_of_the_absence():
    found = knowledge(MlipObjective(bank="phantom-zh"))
    # of the bank's classes those that are there: cyst, benign nodule, no lesion
    assert found.labels.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert found.class_of.max() == 2


def test_nothing_is_looked_for_that_no_objective_needs():
    found = knowledge(ImageTextObjective(), MlipObjective(local=0))
    assert found.term_ids is None
    assert found.class_ids is None


def test_a_bank_of_which_one_class_is_there_is_refused():
    one = [study("a", "cyst", "11"), study("b", "cyst", "1")]
    with pytest.raises(DataError, match="are of 1 of the classes of bank 'phantom-zh'"):
        knowledge(MlipObjective(bank="phantom-zh"), studies=one)


def test_a_clip_of_the_configured_shape_learns_from_what_it_is_told():
    clip = tiny_config().clip
    objectives = (ImageTextObjective(), MlipObjective(bank="phantom-zh"))
    pretrain = ClipPretrainConfig(steps=2, batch_size=2, objectives=objectives)
    road = RoadConfig(model=tiny_config(), bootstrap=BootstrapConfig(clip=pretrain))
    tokenizer = train_tokenizer(TEXTS.values(), 400)
    found = knowledge_of(road, STUDIES, list(TEXTS), TEXTS, tokenizer)
    told: dict[str, list[float]] = {}
    images = [tiny_image(seed) for seed in range(len(TEXTS))]
    captions = list(TEXTS.values())
    pretrain_clip(images, captions, tokenizer, clip, pretrain, knowledge=found, told=told)
    assert len(told["mlip_loss"]) == 2
    assert all(loss > 0 for loss in told["mlip_loss"])
