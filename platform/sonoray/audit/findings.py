"""From counts to findings: what a reader must know before anything else, in one line each.

Leakage, and one set of pixels under two labels or answers, make every later number doubtful:
these are `serious`, and `sonoray audit --strict` fails on them. The rest are warnings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sonoray.audit.census import Counts, TopicCount
from sonoray.audit.links import LinkReport
from sonoray.audit.terms import TermCheck
from sonoray.study.contract import SPLITS

CONSTANT_SHARE = 0.9
"""Share of equal answers in the test from which a closed topic says little of a model."""
SEEN_SHARE = 0.5
"""Share of test texts that occur in training from which a free topic rewards reciting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was found."""

    kind: str
    """`leakage` (also into another dataset), `conflict`, `contradiction`, `duplicates`, `texts`,
    `labels`, `incomplete`, `quarantine`, `masks` or `files`."""
    serious: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that was counted of a dataset."""

    counts: Counts
    links: LinkReport
    terms: TermCheck
    summary: Mapping[str, Any]
    """What ingest wrote into the manifest."""
    num_masks: int
    num_empty_masks: int
    mask_share: float | None
    """Median share of the image that a mask marks, of those that mark anything."""
    changed_files: tuple[str, ...]
    """Tables that are not as ingest wrote them."""
    against: Mapping[str, Any] | None = None
    """What another dataset shares with it (`sonoray_jobs.data.overlap`), where one was named."""


def find_all(audit: Audit) -> list[Finding]:
    """Return the findings, the serious ones first."""
    return [
        Finding(kind=kind, serious=serious, message=message)
        for serious in (True, False)
        for kind, is_serious, message in (*_links(audit), *_contents(audit))
        if is_serious is serious
    ]


_Row = tuple[str, bool, str]


def _links(audit: Audit) -> Iterator[_Row]:
    links = audit.links
    plurals = {"patient": "patients", "image": "images", "near duplicate": "near duplicates"}
    for kind, number in links.leakage.items():
        if number:
            name = kind if number == 1 else plurals[kind]
            yield "leakage", True, f"{number} {name} in more than one split; ingest again"
    if number := links.conflicts["exact"]:
        yield (
            "conflict", True,
            f"{number} times the same pixels have different labels or answers to one question",
        )  # fmt: skip
    if number := links.conflicts["near"]:
        yield "conflict", False, f"{number} times near duplicates have different labels or answers"
    if links.linked_patients:
        yield (
            "duplicates", False,
            f"{links.linked_patients} patients share an image or a near duplicate with another "
            "one; they may be one person under two identifiers",
        )  # fmt: skip
    within = sum(each["within"] for each in links.duplicates.values())
    if within:
        yield "duplicates", False, f"{within} pictures stand in several studies of one patient"
    if links.missing_images:
        yield "files", True, f"{links.missing_images} images of studies are not in the image table"
    if links.unused_images:
        yield "files", False, f"{links.unused_images} images of the image table are in no study"
    if audit.changed_files:
        yield "files", False, f"changed since ingest: {', '.join(audit.changed_files)}"
    if audit.against is not None:
        yield from _against(audit.against)


def _against(other: Mapping[str, Any]) -> Iterator[_Row]:
    name = other["dataset"]
    if learned := other["learned"]:
        yield (
            "leakage", True,
            f"{learned} images of validation and test are training images of {name}, or near "
            "duplicates of one; a model that learned from it has seen them",
        )  # fmt: skip
    if shared := other["shared"]:
        yield (
            "duplicates", False,
            f"{shared} of {other['images']} images are also in {name}, {other['exact']} of them "
            "with the same pixels",
        )  # fmt: skip
    if same := other["same_patients"]:
        yield "duplicates", False, f"{same} patients have their identifier in {name} too"


def _contents(audit: Audit) -> Iterator[_Row]:
    counts, summary = audit.counts, audit.summary
    for label, number in audit.terms.checked.items():
        if found := audit.terms.num_found[label]:
            yield (
                "contradiction", False,
                f"the texts of {found} of {number} studies name another {label} than their label",
            )  # fmt: skip
    for split in SPLITS:
        if not counts.studies[split]:
            yield "labels", False, f"split {split} is empty"
    for counted in counts.labels:
        if counts.studies[SPLITS[0]] and (values := counted.missing_in_training()):
            yield "labels", False, f"{counted.name}: training lacks {', '.join(values)}"
    for topic in counts.topics:
        yield from _topic(topic)
    without_text, without_images = summary["without_text"], summary["without_images"]
    if without_text or without_images:
        yield (
            "incomplete", False,
            f"{without_text} studies without text and {without_images} without images; training "
            "and evaluation leave them out",
        )  # fmt: skip
    studies, images = summary["studies"]["quarantined"], summary["images"]["quarantined"]
    if studies or images:
        yield "quarantine", False, f"{studies} studies and {images} images were rejected"
    if rows := summary["rows"]:
        yield "quarantine", False, f"{rows} rows of tables were rejected: no study took them"
    if number := summary["mask_conflicts"]:
        yield "masks", False, f"{number} copies of an image came with another mask"


def _topic(topic: TopicCount) -> Iterator[_Row]:
    test = SPLITS[-1]
    if topic.empty:
        yield "texts", False, f"{topic.topic}: {topic.empty} answers are empty"
    constant, seen = topic.constant_share[test], topic.seen_share[test]
    if constant is not None and constant >= CONSTANT_SHARE:
        yield (
            "texts", False,
            f"{topic.topic}: always giving the same answer is right in {constant:.0%} of the test",
        )  # fmt: skip
    if not topic.is_closed and seen is not None and seen >= SEEN_SHARE:
        yield (
            "texts", False,
            f"{topic.topic}: {seen:.0%} of the test's texts occur in training; a model can recite",
        )  # fmt: skip
