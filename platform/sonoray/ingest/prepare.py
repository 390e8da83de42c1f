"""From raw to prepared: decode, check, hash and encode the images of a study, in parallel.

Studies of private sources pass `sonoray.privacy.deidentify` here, so that an image's identity is
that of the pixels which are stored.

Threads are enough: Pillow releases the interpreter lock while it decodes and encodes, and hashlib
while it hashes. Order is kept, and a few studies are in flight at a time, so memory stays flat
however long the source is; files that sources name are read here, and no sooner.
"""

import dataclasses
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
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
from sonoray.ingest.sources.base import Source
from sonoray.privacy.deidentify import (
    DeidentifyConfig,
    Masked,
    clean_picture,
    clean_study,
    describe,
)
from sonoray.privacy.keys import IdentityKey
from sonoray.study.contract import TEXT_MASKED_LABEL, StudyImage
from sonoray.study.identifiers import Identifiers
from sonoray.study.image_table import PreparedImage
from sonoray.study.near_duplicates import perceptual_hash
from sonoray.study.raw import UNWANTED, RawImage, RawStudy

TRANSPARENT = f"transparent_pixels: {LAID_OVER_BLACK}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedImage:
    """An image that was not accepted."""

    source_ref: str
    problem: str
    """`reason: detail`."""


Outcome = PreparedImage | RejectedImage


def prepare_all(
    source: Source, key: IdentityKey, limits: ImageLimits, policy: DeidentifyConfig
) -> Iterator[tuple[RawStudy, list[Outcome]]]:
    """Yield every study of `source` with one outcome per image, and without raw images, in order.

    Those of a private source are de-identified as `policy` says; a public one stays as published.
    """
    workers = os.cpu_count() or 1
    applied = None if source.public else policy
    pending: deque[Future[tuple[RawStudy, list[Outcome]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool:
        for raw in source.iter_studies():
            pending.append(pool.submit(_prepare_study, raw, key, limits, applied))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        for prepared in pending:
            yield prepared.result()


def _prepare_study(
    raw: RawStudy, key: IdentityKey, limits: ImageLimits, policy: DeidentifyConfig | None
) -> tuple[RawStudy, list[Outcome]]:
    study = None if policy is None else clean_study(raw, key, policy)
    shown = raw if study is None else study.raw
    outcomes = [_prepare(image, key, limits, policy, shown.identifiers) for image in shown.images]
    accepted = [each for each in outcomes if isinstance(each, PreparedImage)]
    remarks = Counter(raw.remarks) + Counter(chain(*(each.remarks for each in accepted)))
    notes = [raw.provenance]
    if study is not None and policy is not None:
        labels = [each.image.labels.get(TEXT_MASKED_LABEL) for each in accepted]
        masked = Counter(Masked(label) for label in labels if label)
        notes = [describe(study, policy, masked=masked, num_images=len(accepted))]
    notes += [f"{remark.partition(': ')[2]} ({count})" for remark, count in remarks.items()]
    notes += _tell_lacking(outcomes)
    provenance = "; ".join(filter(None, notes))
    # a finished study waits for its turn, and pixels take many times what their PNGs do
    return (
        dataclasses.replace(shown, images=(), provenance=provenance, remarks=remarks),
        outcomes,
    )


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


def _prepare(
    raw: RawImage,
    key: IdentityKey,
    limits: ImageLimits,
    policy: DeidentifyConfig | None,
    known: Identifiers,
) -> Outcome:
    ref = key.source_ref(raw.ref)
    if raw.problem:
        return RejectedImage(source_ref=ref, problem=raw.problem)
    try:
        return _prepare_image(raw, ref, limits, policy, known)
    except RejectedImageError as error:
        return RejectedImage(source_ref=ref, problem=str(error))


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
