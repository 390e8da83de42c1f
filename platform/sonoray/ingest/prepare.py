"""From raw to prepared: decode, check, hash and encode the images of a study.

Studies of private sources pass `sonoray.privacy.deidentify` here, so that an image's identity is
that of the pixels which are stored, and every reference is hashed here: a prepared study names
nobody, wherever it waits.

`Preparation.prepare` is a pure function of a study. In one process it runs on threads
(`prepare_all`): Pillow releases the interpreter lock while it decodes and encodes, and hashlib
while it hashes. Order is kept, and a few studies are in flight at a time, so memory stays flat
however long the source is; files that sources name are read here, and no sooner.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from sonoray.images.decode import (
    Decoded,
    ImageLimits,
    Pixels,
    RejectedImageError,
    check_pixels,
    decode_picture,
    encode_png,
    image_id,
    read_bytes,
)
from sonoray.images.transparency import LAID_OVER_BLACK
from sonoray.ingest.sources.base import PublishedSource, Source
from sonoray.privacy.deidentify import (
    DeidentifyConfig,
    Masked,
    clean_picture,
    clean_problem,
    clean_study,
    describe,
)
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import TEXT_MASKED_LABEL, StudyImage, Turn
from sonoray.study.identifiers import Identifiers
from sonoray.study.image_table import PreparedImage
from sonoray.study.near_duplicates import perceptual_hash
from sonoray.study.raw import UNWANTED, RawImage, RawStudy
from sonoray.study.same_patients import plain_spelling

TRANSPARENT = f"transparent_pixels: {LAID_OVER_BLACK}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedImage:
    """An image that was not accepted."""

    source_ref: str
    problem: str
    """`reason: detail`, as it may be stored."""


Outcome = PreparedImage | RejectedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedStudy:
    """A study with all its references hashed, or one refused row."""

    study_id: str
    source_ref: str
    """As `IdentityKey.source_ref` has it."""
    patient_key: str
    spelling: str
    """Key of the plain spelling of the patient's identifier (`sonoray.study.same_patients`)."""
    turns: tuple[Turn, ...]
    labels: Mapping[str, str]
    provenance: str
    split: str
    """As `RawStudy.split`."""
    problem: str
    """`reason: detail` where the source found one; of a private source, without what it quotes."""
    remarks: Mapping[str, int]
    """As `RawStudy.remarks`, with those of its images."""
    is_row: bool
    """As `RawStudy.is_row`."""
    outcomes: tuple[Outcome, ...]
    """One for each image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is done to every study of a source; picklable, and the same in every process."""

    scope: str | None
    """To which set the identifiers belong; None where they are a hospital's, see `_scoped`."""
    key: IdentityKey
    limits: ImageLimits
    policy: DeidentifyConfig | None
    """How studies of a private source are de-identified; None where they stay as published."""

    @classmethod
    def of(
        cls, source: Source, key: IdentityKey, limits: ImageLimits, policy: DeidentifyConfig
    ) -> "Preparation":
        """That of a source: of a private one as `policy` says."""
        name = source.set_name if isinstance(source, PublishedSource) else source.name
        return cls(
            scope=name if source.public else None,
            key=key,
            limits=limits,
            policy=None if source.public else policy,
        )

    def prepare(self, raw: RawStudy) -> PreparedStudy:
        """Prepare a study; it holds no raw pixels, which take many times what their PNGs do."""
        study = None if self.policy is None else clean_study(raw, self.key, self.policy)
        shown = raw if study is None else study.raw
        outcomes = tuple(_prepare(image, self, shown.identifiers) for image in shown.images)
        accepted = [each for each in outcomes if isinstance(each, PreparedImage)]
        remarks = Counter(raw.remarks) + Counter(chain(*(each.remarks for each in accepted)))
        notes = [raw.provenance]
        if study is not None and self.policy is not None:
            labels = [each.image.labels.get(TEXT_MASKED_LABEL) for each in accepted]
            masked = Counter(Masked(label) for label in labels if label)
            notes = [describe(study, self.policy, masked=masked, num_images=len(accepted))]
        notes += [f"{remark.partition(': ')[2]} ({count})" for remark, count in remarks.items()]
        notes += _tell_lacking(outcomes)
        return PreparedStudy(
            study_id=self.key.study_id(self._scoped(raw.ref)),
            source_ref=self.key.source_ref(raw.ref),
            patient_key=self.key.patient_key(self._scoped(raw.patient_ref)),
            spelling=self.key.patient_key(self._scoped(plain_spelling(raw.patient_ref))),
            turns=shown.turns,
            labels=shown.labels,
            provenance="; ".join(filter(None, notes)),
            split=raw.split,
            problem=self.told(raw.problem),
            remarks=remarks,
            is_row=raw.is_row,
            outcomes=outcomes,
        )

    def told(self, problem: str) -> str:
        """A problem as it may be stored."""
        return problem if self.policy is None else clean_problem(problem)

    def _scoped(self, ref: str) -> str:
        """Identifiers of public sets count from 1, so the set's name is part of them.

        That of a published set, whatever the dataset is called. Those of a hospital mean the same
        patient in every export and stay as they are.
        """
        return ref if self.scope is None else f"{self.scope}\0{ref}"


def prepare_all(source: Source, preparation: Preparation) -> Iterator[PreparedStudy]:
    """Yield every study of `source`, prepared, in order."""
    workers = os.cpu_count() or 1
    pending: deque[Future[PreparedStudy]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool:
        for raw in source.iter_studies():
            pending.append(pool.submit(preparation.prepare, raw))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def lacking(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many images a study should have and has not, by reason."""
    rejected = (each.problem for each in outcomes if isinstance(each, RejectedImage))
    reasons = Counter(problem.partition(":")[0] for problem in rejected)
    return Counter({reason: n for reason, n in reasons.items() if reason not in UNWANTED})


def _tell_lacking(outcomes: Sequence[Outcome]) -> list[str]:
    """That some images of a study could not be used, and why; nothing where all could."""
    reasons = lacking(outcomes)
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    told = f"{reasons.total()} of {len(outcomes)} images could not be used ({listed})"
    return [told] if reasons else []


def _prepare(raw: RawImage, preparation: Preparation, known: Identifiers) -> Outcome:
    ref = preparation.key.source_ref(raw.ref)
    if raw.problem:
        return RejectedImage(source_ref=ref, problem=preparation.told(raw.problem))
    try:
        return _prepare_image(raw, ref, preparation.limits, preparation.policy, known)
    except RejectedImageError as error:
        return RejectedImage(source_ref=ref, problem=preparation.told(str(error)))


def _prepare_image(
    raw: RawImage,
    ref: str,
    limits: ImageLimits,
    policy: DeidentifyConfig | None,
    known: Identifiers,
) -> PreparedImage:
    loaded = _load(raw.data, limits)
    pixels, labels = loaded.pixels, raw.labels
    if policy is not None:
        pixels, masked = clean_picture(pixels, policy, known=known, is_cut=raw.is_cut)
        labels = labels if masked is None else {**labels, TEXT_MASKED_LABEL: masked.value}
    mask_png = None if raw.mask is None else _encode_mask(raw.mask, pixels, limits)
    return PreparedImage(
        image=StudyImage(
            image_id=image_id(pixels),
            uri="",
            width=pixels.shape[1],
            height=pixels.shape[0],
            frame_index=raw.frame_index,
            source_ref=ref,
            labels=labels,
        ),
        png=encode_png(pixels),
        mask_png=mask_png,
        perceptual_hash=perceptual_hash(pixels),
        remarks=(*raw.remarks, *((TRANSPARENT,) if loaded.is_transparent else ())),
    )


def _load(
    data: Path | bytes | Pixels, limits: ImageLimits, *, may_be_empty: bool = False
) -> Decoded:
    if isinstance(data, Path):
        data = read_bytes(data, limits)
    if isinstance(data, bytes):
        return decode_picture(data, limits, may_be_empty=may_be_empty)
    return Decoded(pixels=check_pixels(data, limits))


def _encode_mask(data: Path | bytes | Pixels, image: Pixels, limits: ImageLimits) -> bytes:
    """Encode a mask as PNG; one that does not fit its image rejects both.

    A file's mask is brought to 0 and 255, whatever its format made of them, and so is one of 0 and
    1. Another that the source made keeps its values.
    """
    try:
        mask = _load(data, limits, may_be_empty=True).pixels
    except RejectedImageError as error:
        raise RejectedImageError(f"bad_mask: {error}") from None
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    if mask.shape != image.shape[:2]:
        raise RejectedImageError(
            f"bad_mask: the mask has {mask.shape} rows and columns, its image {image.shape[:2]}; "
            "export both at one size"
        )
    if not isinstance(data, np.ndarray) or mask.max() == 1:
        mask = np.where(mask > mask.max() // 2, 255, 0).astype(np.uint8)
    return encode_png(mask)
