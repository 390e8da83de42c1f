"""One picture under two names: other labels, or other answers to one question.

`links` finds the pictures that several studies show and collects what each study says of them;
here the sayings that disagree are counted and listed.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sonoray.audit.lookalikes import Looks
from sonoray.audit.terms import CAPTION
from sonoray.metrics.text import normalise
from sonoray.study.contract import Study, Task

MAX_STUDIES = 20
"""Most studies that a row names."""
Claims = dict[tuple[bool, int, str, str, str], dict[str, tuple[str, str, int]]]
"""By picture (exact or not, and its number), kind, name and question: by normalised value, the
value, the study that says so and the image that it shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """One picture that is called two things."""

    exact: bool
    """Whether it is the same pixels; else it is near duplicates."""
    kind: str
    """`label`, `image label`, `answer` to a closed question or `text`, a free answer."""
    name: str
    """The label, or the topic of the question."""
    values: tuple[str, ...] = field(repr=False)
    """What it is called; of a `text` a patient's."""
    studies: tuple[str, ...]
    """One study for each value."""
    images: tuple[str, ...]
    """The image that each of them shows."""


def iter_claims(study: Study, image_id: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield what a study says of an image that it shows: kind, name, question, value.

    Reports and captions are left out: two of them may say one thing in two ways.
    """
    for name, value in study.labels.items():
        yield "label", name, "", value
    for image in study.images:
        if image.image_id == image_id:
            for name, value in image.labels.items():
                if name != CAPTION:
                    yield "image label", name, "", value
    for turn in study.turns:
        if turn.task is not Task.REPORT:
            kind = "answer" if turn.options else "text"
            yield kind, turn.topic, normalise(turn.question), turn.answer


def find_conflicts(
    claims: Claims, looks: Looks, *, max_listed: int
) -> tuple[dict[str, int], tuple[Conflict, ...]]:
    """Count and list the claims with several values; exact ones are not repeated as near.

    Args:
        claims: what shared pictures are called.
        looks: the dataset's images.
        max_listed: most rows of each level; all are counted.

    Returns:
        How many are `exact` and `near`, and the rows.
    """
    counts = Counter({"exact": 0, "near": 0})
    found: list[Conflict] = []
    known: set[tuple[int, str, str, str]] = set()
    for exact in (True, False):
        for (is_exact, picture, kind, name, question), said in claims.items():
            if is_exact is not exact or len(said) < 2:
                continue
            group = (int(looks.groups[picture]), kind, name, question)
            if not exact and group in known:
                continue
            known.add(group)
            level = "exact" if exact else "near"
            counts[level] += 1
            if counts[level] <= max_listed:
                values, studies, images = zip(*list(said.values())[:MAX_STUDIES], strict=True)
                found.append(
                    Conflict(
                        exact=exact,
                        kind=kind,
                        name=name,
                        values=values,
                        studies=studies,
                        images=tuple(looks.image_ids[image] for image in images),
                    )
                )
    return dict(counts), tuple(found)
