"""What texts claim about pictures: answers that are doubted.

The texts are those of another dataset of the same pictures, read by the audit's table of terms. A
study whose pictures' texts claim no option, or several, has no answer then.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sonoray.audit.terms import CAPTION, LABEL_TERMS
from sonoray.errors import DataError
from sonoray.study.contract import Study, iter_studies
from sonoray_jobs.evaluation.opinion.labels import find_turn, require_several


def claimed(
    studies: Sequence[Study], topic: str, texts: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """What texts claim about the pictures of studies.

    Args:
        studies: those that are asked.
        topic: of the closed question; the label of the same name must have terms.
        texts: by image id.

    Raises:
        DataError: the topic has no terms, or too few studies have a claim.
    """
    if topic not in LABEL_TERMS:
        raise DataError(
            f"texts can claim nothing about {topic!r}, whose words are not known; known are "
            f"{', '.join(LABEL_TERMS)}"
        )
    terms = LABEL_TERMS[topic]
    found: dict[str, str] = {}
    for study in studies:
        turn = find_turn(study, topic)
        if turn is None:
            continue
        named = {
            value
            for image in study.images
            for text in texts.get(image.image_id, ())
            for value in terms.named(text, negation_names=False)
            if value in turn.options
        }
        if len(named) == 1:
            found[study.study_id] = named.pop()
    if not found:
        raise DataError(
            f"no text claims one option of {topic!r} about a picture of these studies; is it a "
            "dataset of the same pictures?"
        )
    return require_several(found, topic)


def read_texts(dataset: Path) -> dict[str, list[str]]:
    """All answers and captions of a dataset, by the id of each image that they are about."""
    found: dict[str, list[str]] = {}
    for study in iter_studies(dataset, complete=False):
        told = [turn.answer for turn in study.turns]
        for image in study.images:
            found.setdefault(image.image_id, []).extend(
                [*told, *filter(None, [image.labels.get(CAPTION)])]
            )
    return found
