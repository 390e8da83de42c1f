import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.questions import asked_about


def test_only_the_topics_that_are_named_are_asked():
    image = StudyImage(image_id="i", uri="", width=8, height=8)

    def study(name, *topics):
        turns = tuple(
            Turn(question="?", answer="有", task=Task.OPEN, topic=topic) for topic in topics
        )
        return Study(
            study_id=name, patient_key="p", split="test", dataset="d", images=(image,), turns=turns
        )

    studies = [study("a", "report", "margin"), study("b", "report")]
    known = {"report", "margin"}
    assert asked_about(studies, ("margin",), known) == [study("a", "margin")]
    with pytest.raises(DataError, match=r"\['edge'\] are asked of no study; use .*'margin'"):
        asked_about(studies, ("margin", "edge"), known)
    with pytest.raises(DataError, match=r"none of the studies is asked about \['margin'\]"):
        asked_about(studies[1:], ("margin",), known)
