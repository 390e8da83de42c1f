"""From a source's raw studies to the study contract on disk.

1. `prepare` decodes every image safely, de-identifies those of private sources, hashes and encodes
   them as PNG, here on threads or in other processes;
2. images, then studies, are kept, counted as duplicates or quarantined with a reason;
3. each unique image goes into the image table once, whichever studies show it;
4. images that very many patients show, a start page of the scanner, are set aside;
5. patients who share an image or a near duplicate, other than a blank frame, are linked, and every
   linked group goes into the split of its smallest patient key (`split_studies`);
6. studies and quarantine are written.

Nothing is dropped silently: `seen = kept + duplicate + quarantined` is asserted for images and for
studies, and the quarantine table has exactly one row per quarantined image and study, and per
refused row of a table beside them.

Pixels stream through, and study rows wait on disk until the splits are known (`kept_studies`). In
memory stay identifiers and hashes.
"""

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from sonoray.cluster.progress import progress
from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.ingest.kept_studies import KeptStudies, TableWriter
from sonoray.ingest.prepare import PreparedStudy, RejectedImage, lacking
from sonoray.ingest.sources.base import RemoteSource, Source
from sonoray.ingest.split_studies import describe_parts, place_studies
from sonoray.privacy.deidentify import clean_problem
from sonoray.study.contract import QUARANTINE_SCHEMA, Study, Task, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage, read_hashes
from sonoray.study.same_patients import (
    count_linked,
    find_shared_images,
    group_images,
    link_patients,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Accounting:
    """What became of everything that was seen."""

    seen: int
    kept: int
    duplicate: int
    quarantined: int

    def __post_init__(self) -> None:
        assert self.seen == self.kept + self.duplicate + self.quarantined, self


def make_dataset(
    folder: Path, source: Source, prepared: Iterable[PreparedStudy], config: IngestConfig
) -> dict[str, Any]:
    """Write the dataset of a source's prepared studies, in its order, into `folder`.

    Returns:
        The summary of the manifest.

    Raises:
        DataError: no study was kept.
    """
    intake = _Intake(source, folder)
    total = len(source) if isinstance(source, Sized) else None
    for study in progress(prepared, f"ingest {source.name}", total):
        intake.add(study)
    return intake.finish(config)


class _Intake:
    """Sorts what was prepared into kept, duplicate and quarantined, and writes the tables."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._table = ImageTableWriter(folder)
        self._images: Counter[str] = Counter()
        self._studies: Counter[str] = Counter()
        self._num_rows = 0
        self._num_partly_read = 0
        self._remarks: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._quarantine = TableWriter(folder / "quarantine.parquet", QUARANTINE_SCHEMA)
        self._first_problem = ""
        self._kept = KeptStudies(folder)
        self._study_ids: set[bytes] = set()
        self._contents: set[bytes] = set()
        self._spellings: dict[str, str] = {}
        self._published: dict[str, str] = {}

    def add(self, prepared: PreparedStudy) -> None:
        """Account for one study and its images, or for one refused row."""
        study_id, outcomes = prepared.study_id, prepared.outcomes
        if prepared.is_row:
            self._reject("row", study_id, prepared.source_ref, prepared.problem)
            return
        self._studies["seen"] += 1
        self._images["seen"] += len(outcomes)
        accepted: dict[str, PreparedImage] = {}
        for outcome in outcomes:
            if isinstance(outcome, RejectedImage):
                self._reject("image", study_id, outcome.source_ref, outcome.problem)
            elif outcome.image.image_id in accepted:
                self._images["duplicate"] += 1
            else:
                accepted[outcome.image.image_id] = outcome
        study = Study(
            study_id=study_id,
            patient_key=prepared.patient_key,
            split="",
            dataset=self._source.name,
            images=tuple(item.image for item in accepted.values()),
            turns=prepared.turns,
            labels=prepared.labels,
            provenance=prepared.provenance,
        )
        content = _content(study)
        problem = prepared.problem or _find_problem(
            study, lost_images=len(outcomes) - len(accepted)
        )
        if not problem and content in self._contents:
            self._studies["duplicate"] += 1
            self._images["duplicate"] += len(accepted)
            return
        if not problem and bytes.fromhex(study_id) in self._study_ids:
            problem = "repeated_ref: another study has the same reference and other content"
        if problem:
            self._reject("study", study_id, prepared.source_ref, problem)
            for item in accepted.values():
                rejected = f"study_rejected: {problem}"
                self._reject("image", study_id, item.image.source_ref, rejected)
            return
        self._remarks.update(prepared.remarks)
        self._num_partly_read += bool(lacking(outcomes))
        self._study_ids.add(bytes.fromhex(study_id))
        self._contents.add(content)
        self._spellings[study.patient_key] = prepared.spelling
        if prepared.split:
            self._published[study_id] = prepared.split
        images = tuple(self._table.add(item) for item in accepted.values())
        self._kept.add(dataclasses.replace(study, images=images), prepared.source_ref)

    def finish(self, config: IngestConfig) -> dict[str, Any]:
        """Draw the splits, write the study and quarantine tables, return the summary.

        Raises:
            DataError: no study was kept.
        """
        self._table.close()
        self._kept.close()
        rule = config.near_duplicate_distance, config.near_duplicate_correlation
        hashes = read_hashes(self._folder)
        looks = group_images(hashes, *rule)
        shared = find_shared_images(
            self._kept, hashes, looks, rule, min_patients=config.shared_image_patients
        )
        if shared:
            self._set_aside(shared)
            # what was alike through one of them is not alike any more
            hashes = {key: value for key, value in hashes.items() if key not in shared}
            looks = group_images(hashes, *rule)
        del hashes
        images = _account(self._images, self._kept.num_images)
        studies = _account(self._studies, len(self._kept))
        rejected = images.quarantined + studies.quarantined + self._num_rows
        assert self._quarantine.num_rows == rejected
        if not self._kept:
            raise DataError(f"source {self._source.name!r}: {self._why_nothing()}")
        groups = link_patients(self._kept, self._spellings, looks)
        placed = place_studies(self._kept, self._published, groups, config)
        write_studies(self._folder, placed)
        self._quarantine.close()
        is_published = bool(self._published)
        name = self._source.name
        parts = describe_parts(name, placed, groups, config, is_published=is_published)
        self._kept.remove()
        return {
            "images": dataclasses.asdict(images),
            "studies": dataclasses.asdict(studies),
            "rows": self._num_rows,
            **parts,
            "shared_images": {"images": len(shared), "patients": max(shared.values(), default=0)},
            "partly_read": self._num_partly_read,
            "remarks": dict(sorted(self._remarks.items())),
            "reasons": dict(sorted(self._reasons.items())),
            "unique_images": self._table.num_images,
            "masks": self._table.num_masks,
            "mask_conflicts": self._table.num_mask_conflicts,
            "near_duplicates": count_linked(groups),
            "spellings": count_linked(self._spellings),
        }

    def _set_aside(self, shared: Mapping[str, int]) -> None:
        """Take the pictures that many patients show out of the studies and the table.

        Args:
            shared: by image id, how many show it.
        """
        before, self._kept = self._kept, KeptStudies(self._folder)
        for study, source_ref in before.with_refs():
            images = tuple(image for image in study.images if image.image_id not in shared)
            for image in study.images:
                if number := shared.get(image.image_id):
                    problem = (
                        f"shared_image: {number} patients show it or nearly the same picture; it "
                        "is a page of the scanner or a template, or set "
                        "ingest.shared_image_patients to 0"
                    )
                    self._reject("image", study.study_id, image.source_ref, problem)
            lost = len(study.images) - len(images)
            changed = dataclasses.replace(study, images=images)
            if lost and (problem := _find_problem(changed, lost_images=lost)):
                self._reject("study", study.study_id, source_ref, problem)
            else:
                self._kept.add(changed, source_ref)
        self._kept.close()
        before.remove()
        self._table.drop(shared)

    def _why_nothing(self) -> str:
        if isinstance(self._source, RemoteSource) and not self._studies["seen"]:
            return "no study with objects matches the query; change it with --query"
        why = ", ".join(f"{reason} {n}" for reason, n in self._reasons.most_common())
        if self._first_problem:  # cleaned, where names are a secret
            why += f"; the first: {textwrap.shorten(self._first_problem, 160, placeholder=' …')}"
        return (
            f"none of {self._studies['seen']} studies could be kept "
            f"({why or 'it yields nothing'}); check the path and the files"
        )

    def _reject(self, item: str, study_id: str, ref: str, problem: str) -> None:
        shown = problem if self._source.public else clean_problem(problem)
        reason, _, message = shown.partition(":")
        if item == "row":
            self._num_rows += 1
        else:
            counts = self._studies if item == "study" else self._images
            counts["quarantined"] += 1
        self._reasons[reason] += 1
        self._first_problem = self._first_problem or message.strip()
        self._quarantine.add(
            {
                "item": item,
                "source_ref": ref,
                "study_id": study_id,
                "reason": reason,
                "message": message.strip(),
            }
        )


def _find_problem(study: Study, *, lost_images: int) -> str:
    """Why the study breaks the contract, as `reason: detail`; empty where it does not."""
    if not study.images and lost_images:
        return "empty_study: none of its images could be used"
    if not study.images and not study.turns:
        return "empty_study: it has no image, no question and no answer"
    for turn in study.turns:
        if not turn.question.strip() or not turn.answer.strip():
            return f"empty_turn: a {turn.task} turn on {turn.topic!r} has no question or no answer"
        if turn.task is Task.CLOSED and turn.answer not in turn.options:
            return f"bad_options: the answer on {turn.topic!r} is not among its options"
    return ""


def _content(study: Study) -> bytes:
    """Hash of what the study says and shows of whom, whatever it is called."""
    told = {
        "patient": study.patient_key,
        "images": [image.image_id for image in study.images],
        "turns": [dataclasses.asdict(turn) for turn in study.turns],
        "labels": dict(study.labels),
    }
    return bytes.fromhex(content_hash(told))


def _account(counts: Counter[str], kept: int) -> Accounting:
    duplicate, quarantined = counts["duplicate"], counts["quarantined"]
    return Accounting(seen=counts["seen"], kept=kept, duplicate=duplicate, quarantined=quarantined)
