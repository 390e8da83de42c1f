import json

import pytest

from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task
from sonoray_jobs.evaluation.recognition.asked_in_words import asked_of_classes, word_scores

BANK = ClassBank(label="kind", classes=(BankClass(name="囊肿"), BankClass(name="结节")))
STUDIES = [
    Study(
        study_id=kind,
        patient_key=kind,
        split="test",
        dataset="d",
        images=(StudyImage(image_id="i", uri="u", width=1, height=1),),
        turns=(),
        labels={"kind": kind},
    )
    for kind in BANK.names
]


def test_each_class_is_one_closed_question():
    first, second = asked_of_classes(STUDIES, BANK)
    assert [turn.question for turn in first.turns] == ["图像中有无囊肿？", "图像中有无结节？"]
    assert [turn.answer for turn in first.turns] == ["有", "无"]
    assert [turn.answer for turn in second.turns] == ["无", "有"]
    assert {turn.task for turn in first.turns} == {Task.CLOSED}


def test_scores_are_what_was_said_and_the_probability_of_yes():
    rows = [
        {
            "study_id": study,
            "topic": topic,
            "generated": said,
            "option_scores": json.dumps({"有": likelihood, "无": -1.0}),
        }
        for study, topic, said, likelihood in (
            ("结节", "囊肿", "无", -3.0),
            ("结节", "结节", "有", -1.0),
            ("囊肿", "囊肿", "有病灶", 1.0),
            ("囊肿", "结节", "", -1.0),
        )
    ]
    found = word_scores(rows, STUDIES, BANK)
    assert found.said.tolist() == [[1, 0], [0, 1]]
    assert found.probability[0].tolist() == pytest.approx([0.8808, 0.5], abs=1e-4)
    assert found.probability[1].tolist() == pytest.approx([0.1192, 0.5], abs=1e-4)


def test_a_language_without_a_wording_is_refused():
    other = BANK.model_copy(update={"language": "fr"})
    with pytest.raises(DataError, match="is in 'fr'; classes are asked in words in zh, en"):
        asked_of_classes(STUDIES, other)


def test_an_absence_is_asked_by_what_is_absent_and_no_speaks_for_it():
    bank = ClassBank(
        label="kind",
        classes=(BankClass(name="囊肿"), BankClass(name="结节", absence_of="病灶")),
    )
    first, second = asked_of_classes(STUDIES, bank)
    assert first.turns[1].question == "图像中有无病灶？"
    assert [first.turns[1].answer, second.turns[1].answer] == ["有", "无"]
    rows = [
        {
            "study_id": study.study_id,
            "topic": "结节",
            "generated": said,
            "option_scores": json.dumps({"有": 0.0, "无": 1.0}),
        }
        for study, said in zip(STUDIES, ("有", "无"), strict=True)
    ]
    found = word_scores(rows, STUDIES, bank)
    assert found.said[:, 1].tolist() == [0, 1]
    assert found.probability[0, 1] == pytest.approx(0.7311, abs=1e-4)
