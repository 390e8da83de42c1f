"""Labels that nothing can be judged by are refused before a model is loaded."""

import pytest

from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.evaluation.recognition.recognize import _check_labels

BANK = ClassBank(
    name="mine", label="kind", classes=(BankClass(name="囊肿"), BankClass(name="结节"))
)


def study(**labels):
    image = StudyImage(image_id="i", uri="u", width=1, height=1)
    return Study(
        study_id="s",
        patient_key="p",
        split="test",
        dataset="d",
        images=(image,),
        turns=(),
        labels=labels,
    )


@pytest.mark.parametrize(
    ("labels", "known"), [({"kind": "囊肿", "side": "左"}, "kind, side"), ({}, "none")]
)
def test_a_label_that_is_asked_for_and_that_no_study_has_is_refused(labels, known):
    message = f"recognize.label 'knd' is a label of no test study; theirs are: {known}"
    with pytest.raises(DataError, match=message):
        _check_labels([study(**labels)], BANK, "knd", "test")


def test_a_value_of_no_class_is_refused_and_none_is_not():
    _check_labels([study(kind="囊肿"), study()], BANK, "", "test")
    _check_labels([study()], BANK, "", "test")
    with pytest.raises(DataError, match="kind = '脓肿' is of no class"):
        _check_labels([study(kind="脓肿")], BANK, "kind", "all")
