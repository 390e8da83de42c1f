"""What becomes of a private study's pictures, texts and dates before anything of it is stored.

One place for all sources: `sonoray.ingest.prepare` calls it on every study of a source that is not
public, after the source has cut its pictures and before images get their identity. Public sets stay
as they were published. The study's provenance says what was done, with the codes of DICOM PS3.16
CID 7050; a code stands there only where something was done.
"""

import dataclasses
import datetime
import enum
import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from sonoray.config.model import Config
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.privacy.keys import IdentityKey
from sonoray.privacy.report_text import CleanText, clean_text
from sonoray.study.contract import STUDY_DATE_LABEL
from sonoray.study.identifiers import NOBODY, Identifiers
from sonoray.study.raw import RawStudy

_QUOTED = re.compile(r"""(?<![A-Za-z])'(?:\\.|[^'\\])*(?:'|$)|"(?:\\.|[^"\\])*(?:"|$)""", re.DOTALL)
"""What a `repr` quotes, to the end of a message that was cut; a word's apostrophe opens nothing."""


class DeidentifyConfig(Config):
    """What is done to studies of private sources."""

    burned_in_text: Literal["mask", "quarantine", "keep"] = "mask"
    """What becomes of pictures in which `sonoray.privacy.burned_in_text` finds text: it is covered,
    the picture is quarantined, or nobody looks."""
    burned_in_text_margin: float = Field(default=0.25, ge=0, le=2)
    """By how much a box is wider than its line of text, on each side, over the line's height."""
    texts: Literal["clean", "keep"] = "clean"
    """Whether `sonoray.privacy.report_text` cleans reports, questions, answers, topics and
    labels."""
    dates: Literal["removed", "shifted"] = "removed"
    """Whether the days of examinations and in cleaned texts are removed or move back by a number of
    days of the patient's own. Shifted, they keep the intervals between his studies, which is what
    they are good for, and with them something that helps to find him again: hence not unasked."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CleanStudy:
    """A study after its texts were cleaned."""

    raw: RawStudy
    replaced: Mapping[str, int]
    """By kind: what was replaced in its texts."""
    is_shifted: bool
    """Whether it holds days that moved."""


def clean_study(raw: RawStudy, key: IdentityKey, config: DeidentifyConfig) -> CleanStudy:
    """Clean the texts of a study, and give it the label `study_date` where dates are shifted."""
    days = key.date_shift_days(raw.patient_ref) if config.dates == "shifted" else None
    known = raw.identifiers.joined(_own_identifiers(raw))
    replaced: Counter[str] = Counter()
    moved = 0

    def clean(text: str) -> str:
        cleaned: CleanText = clean_text(text, known, shift_days=days)
        replaced.update(cleaned.replaced)
        return cleaned.text

    def clean_values(labels: Mapping[str, str]) -> dict[str, str]:
        return {name: clean(value) for name, value in labels.items()}

    if config.texts == "clean":
        raw = dataclasses.replace(
            raw,
            turns=tuple(
                dataclasses.replace(
                    turn,
                    question=clean(turn.question),
                    answer=clean(turn.answer),
                    options=tuple(map(clean, turn.options)),
                    topic=clean(turn.topic),
                )
                for turn in raw.turns
            ),
            labels=clean_values(raw.labels),
            images=tuple(
                dataclasses.replace(image, labels=clean_values(image.labels))
                for image in raw.images
            ),
        )
        moved = replaced["date"] if days is not None else 0
    date = None if days is None else _shifted_day(raw.study_date, days)
    if date is not None:
        raw = dataclasses.replace(raw, labels={**raw.labels, STUDY_DATE_LABEL: date})
    return CleanStudy(raw=raw, replaced=replaced, is_shifted=bool(moved or date))


class Masked(enum.StrEnum):
    """What of burned-in text was covered in a picture."""

    LINES = "lines"
    """Lines, in a picture that was cut to its scan area."""
    UNCUT = "uncut"
    """Lines, in a picture whose scan area is unknown and cannot be told from what is around it."""
    BANNER = "banner"
    """Lines, and the strips beside the scan in which they stand, in a picture that was not cut."""
    HEADER = "header"
    """The same, and words of the object's own header were read there."""


def clean_picture(
    pixels: Pixels, config: DeidentifyConfig, *, known: Identifiers = NOBODY, is_cut: bool = False
) -> tuple[Pixels, Masked | None]:
    """Return a picture without burned-in text, and what was covered; None where nothing was.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        config: what is done.
        known: whose words are looked for in a picture that was not cut.
        is_cut: whether its source cut it to the scan area.

    Raises:
        RejectedImageError: it has text, and the policy is to quarantine it.
    """
    if config.burned_in_text == "keep":
        return pixels, None
    # scipy and OpenCV load here: every command reads this config, and few look at pictures
    from sonoray.privacy.burned_in_text import cover, find_text

    found = find_text(pixels, margin=config.burned_in_text_margin, read_all=not is_cut)
    if not found:
        return pixels, None
    if config.burned_in_text == "quarantine":
        raise RejectedImageError(
            f"burned_in_text: {len(found)} lines of text in the picture; clean it, or set "
            "ingest.burned_in_text=mask"
        )
    boxes = [line.box for line in found]
    if is_cut:
        return cover(pixels, boxes), Masked.LINES
    from sonoray.privacy.banners import find_banners
    from sonoray.privacy.header_words import find_header_words

    banners = find_banners(pixels, boxes)
    named = [line.box for line in found if find_header_words(line.words, known)]
    # what stands before and after a name in its line may be more of it
    rows = [dataclasses.replace(box, left=0, right=pixels.shape[1]) for box in named]
    masked = Masked.HEADER if named else Masked.BANNER if banners else Masked.UNCUT
    return cover(pixels, [*boxes, *banners, *rows]), masked


_MASKED_NOTES = {
    Masked.UNCUT: "of these, scan area unknown and lines of text alone masked",
    Masked.BANNER: "of these, scan area unknown and whole banners masked",
    Masked.HEADER: "of these, scan area unknown, words of the header read and their rows masked",
}


def clean_problem(problem: str) -> str:
    """`reason: detail` without what the detail quotes: a file's name may be a patient's.

    `sonoray quarantine locate` finds the file again.
    """
    return _QUOTED.sub("[…]", problem)


def describe(
    study: CleanStudy,
    config: DeidentifyConfig,
    *,
    masked: Mapping[Masked, int],
    num_images: int,
) -> str:
    """What was done, for the study's provenance.

    Args:
        study: whose texts were cleaned.
        config: what was asked for.
        masked: of how many images what was covered.
        num_images: of all that were accepted.
    """
    notes = []
    if config.burned_in_text == "keep":
        notes.append("pictures not searched for burned-in text")
    elif any(masked.values()):
        notes.append(
            f"burned-in text masked in {sum(masked.values())} of {num_images} images: DCM 113101 "
            "Clean Pixel Data Option"
        )
        notes.extend(
            f"{_MASKED_NOTES[kind]}: {masked[kind]}"
            for kind in Masked
            if masked.get(kind) and kind in _MASKED_NOTES
        )
    else:
        notes.append(f"no burned-in text found in {num_images} images")
    if config.texts == "keep":
        notes.append("texts as supplied, not cleaned")
    elif study.replaced:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(study.replaced.items()))
        notes.append(f"replaced in texts: {listed}: DCM 113105 Clean Descriptors Option")
    elif study.raw.turns:
        notes.append("nothing to replace found in texts")
    if study.is_shifted:
        notes.append(
            "dates moved: DCM 113107 Retain Longitudinal Temporal Information With Modified Dates "
            "Option"
        )
    return "; ".join(filter(None, [study.raw.provenance, *notes]))


def _own_identifiers(raw: RawStudy) -> Identifiers:
    """The references of a study: of a table, whatever somebody wrote into its columns."""
    return Identifiers.of(*(ref for ref in (raw.patient_ref, raw.ref) if "\0" not in ref))


def _shifted_day(day: str, days: int) -> str | None:
    """`YYYY-MM-DD` so many days before `YYYYMMDD`; None where that is no day."""
    try:
        date = datetime.datetime.strptime(day, "%Y%m%d").date()
        return (date - datetime.timedelta(days=days)).isoformat()
    except (ValueError, OverflowError):
        return None
