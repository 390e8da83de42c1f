"""Studies of the phantom: who has what, which images show it, and what is asked about it.

A study is planned before it is drawn: the plan holds its whole truth and text and takes half a
millisecond, so thousands can be counted without rendering one. Every random choice hangs on
(seed, patient, study, image) alone: study i is the same whatever number is generated, and any
image can be drawn by itself.

Choices:

- The studies of one patient are repeat examinations of the same lesion. They are what a split by
  study, instead of by patient, would leak.
- At least one image shows the finding and at most half of them do; one of these cuts it at its
  largest diameter. The other images show either side of the same organ without it.
- Where 20 % of the patients have no finding, a model that always says "there is one" would be right
  in 80 %. The question is therefore asked of all of the rarer kind and of as many, on average, of
  the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from sonoray.config.model import Config
from sonoray.phantom.anatomy import PRESETS, Circle, Organ, build_body
from sonoray.phantom.language import WORDINGS, LanguageName, write_turns
from sonoray.phantom.lesion import (
    Lesion,
    Section,
    Side,
    draw_lesion,
    lesion_mask,
    paint_lesion,
)
from sonoray.phantom.marks import burn_marks
from sonoray.phantom.physics import (
    SOFT_TISSUE_DB_CM_MHZ,
    Gray,
    echo_envelope,
    image_grid,
    log_compress,
    scan_convert,
)
from sonoray.phantom.wording import Wording
from sonoray.study.contract import Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawImage, RawStudy

_NOISE_DB = -66.0
_WHITE_DB = 27.0
"""Echo level shown white, against parenchyma at the face of the probe."""
_TGC_RESIDUE = (0.95, 1.03)
"""How well the operator's time-gain compensation meets the tissue's loss."""
_MAX_IMAGES = 64


class PhantomConfig(Config):
    """What the phantom generates."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Every value gives another, equally likely, set of patients."""
    num_patients: int = Field(default=120, ge=1)
    """Patients; their number never changes what a patient looks like."""
    studies_per_patient: int = Field(default=1, ge=1)
    """Repeat examinations of each patient."""
    image_size: int = Field(default=192, ge=64, le=1024)
    """Side of the square images in pixels; the field of view does not depend on it."""
    images: tuple[int, int] = (3, 9)
    """Smallest and largest number of images in a study, both included."""
    max_showing: int = Field(default=0, ge=0)
    """Most images of a study that show its finding, never more than half of them; 0 allows half.
    With 1, a study of K images hides its finding among K - 1 others."""
    fraction_without_finding: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of patients with nothing to find."""
    organs: tuple[Organ, ...] = tuple(Organ)
    """What is scanned, equally often."""
    language: LanguageName = "zh"
    """Of captions, reports, questions and answers; the pictures do not depend on it."""
    modality: Literal["ultrasound", "projection"] = "ultrasound"
    """What is simulated; `projection` is a chest film with findings of known kind, in one to three
    views (`sonoray.phantom.chest`), of which `organs`, `max_showing` and `dynamic_range_db` say
    nothing."""
    dynamic_range_db: float = Field(default=60.0, ge=30.0, le=100.0)
    """Echo levels between black and white; a smaller range gives more contrast."""

    @field_validator("images")
    @classmethod
    def _check_images(cls, value: tuple[int, int]) -> tuple[int, int]:
        low, high = value
        if not 1 <= low <= high <= _MAX_IMAGES:
            raise ValueError(
                f"a study needs 1 to {_MAX_IMAGES} images and the range must not fall, "
                f"got {low} to {high}; write it like [3, 9]"
            )
        return value

    @model_validator(mode="after")
    def _check_organs(self) -> Self:
        if not self.organs or len(set(self.organs)) != len(self.organs):
            names = [organ.value for organ in self.organs]
            raise ValueError(
                f"organs = {names} must name each organ once and at least one of {', '.join(Organ)}"
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What one image shows."""

    side: Side
    section: Section | None
    """The cut through the lesion; None where the image does not show it."""
    caption: str
    """A sentence about this image alone."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StudyPlan:
    """The truth of one study."""

    patient: int
    number: int
    """Of the patient's studies, from 0."""
    organ: Organ
    site: str
    """The organ's name in the language of the texts."""
    lesion: Lesion | None
    views: tuple[View, ...]
    turns: tuple[Turn, ...]

    @property
    def ref(self) -> str:
        """Name of the study."""
        return f"patient-{self.patient:06d}/study-{self.number}"


def iter_phantom(config: PhantomConfig) -> Iterator[RawStudy]:
    """Yield all studies, patient by patient."""
    for patient in range(config.num_patients):
        for number in range(config.studies_per_patient):
            yield build_study(config, plan_study(config, patient, number))


def plan_study(config: PhantomConfig, patient: int, number: int = 0) -> StudyPlan:
    """Draw the truth of one study; costs no image."""
    words = WORDINGS[config.language]
    person = _generator(config, patient)
    organ = config.organs[int(person.integers(len(config.organs)))]
    found = person.uniform() >= config.fraction_without_finding
    bounds = PRESETS[organ].size_bounds_mm
    lesion = draw_lesion(person, size_bounds_mm=bounds) if found else None
    rng = _generator(config, patient, number)
    num_images = int(rng.integers(config.images[0], config.images[1] + 1))
    most = max(1, num_images // 2)
    most = min(most, config.max_showing or most)
    num_showing = int(rng.integers(1, most + 1)) if lesion else 0
    order = rng.permutation(num_images)  # place 0 is the largest cut, wherever it comes
    return StudyPlan(
        patient=patient,
        number=number,
        organ=organ,
        site=words.organs[organ],
        lesion=lesion,
        views=tuple(
            _draw_cut(rng, organ, lesion, words, largest=place == 0)
            if lesion is not None and place < num_showing
            else _draw_plain(rng, organ, words)
            for place in order
        ),
        turns=write_turns(
            rng,
            organ,
            lesion,
            words=words,
            organs=config.organs,
            ask_finding=bool(rng.uniform() < _finding_rate(config, found=found)),
        ),
    )


def build_study(config: PhantomConfig, plan: StudyPlan) -> RawStudy:
    """Render the images of a plan."""
    return RawStudy(
        ref=plan.ref,
        patient_ref=f"patient-{plan.patient:06d}",
        images=tuple(_build_image(config, plan, index) for index in range(len(plan.views))),
        turns=plan.turns,
        labels=study_labels(plan),
        provenance=f"phantom, seed {config.seed}",
    )


def study_labels(plan: StudyPlan) -> dict[str, str]:
    """Return the truth of a study as flat text values."""
    labels = {"organ": plan.organ.value, SITE_LABEL: plan.site, "finding": "0"}
    if (lesion := plan.lesion) is not None:
        labels |= {
            "finding": "1",
            "kind": lesion.kind.value,
            "pathology": "malignant" if lesion.malignant else "benign",
            "size_mm": f"{lesion.size_mm:.1f}",
            "size_class": lesion.size_class.value,
            "side": lesion.side.value,
            "margin": lesion.margin.value,
            "echogenicity": lesion.echogenicity.value,
            "calcification": "1" if lesion.calcified else "0",
            "posterior": lesion.posterior.value,
        }
    return labels


def render_view(config: PhantomConfig, plan: StudyPlan, index: int) -> tuple[Gray, Gray]:
    """Draw image `index` of a plan.

    Returns:
        The image and its mask (see `lesion_mask`), both uint8 (S, S).
    """
    rng = _generator(config, plan.patient, plan.number, index)
    view, probe = plan.views[index], PRESETS[plan.organ].probe
    mask = np.zeros((config.image_size, config.image_size), np.uint8)
    if plan.lesion is None or view.section is None:
        tissue = build_body(plan.organ, view.side, rng)
    else:
        radius = plan.lesion.size_mm * view.section.scale / 2 + 5
        circle = Circle(view.section.x_mm, view.section.z_mm, radius)
        tissue = build_body(plan.organ, view.side, rng, keep_free=circle)
        grains = paint_lesion(tissue, plan.lesion, view.section, rng)
        grid = image_grid(probe, config.image_size)
        mask = lesion_mask(plan.lesion, view.section, grains, *grid)
    gain = probe.loss_db_mm(SOFT_TISSUE_DB_CM_MHZ) * rng.uniform(*_TGC_RESIDUE)
    envelope = echo_envelope(tissue, rng, noise_db=_NOISE_DB, gain_db_mm=gain)
    white = _WHITE_DB + rng.uniform(-2.5, 2.5)
    gray = log_compress(envelope, range_db=config.dynamic_range_db, white_db=white)
    image = scan_convert(gray, probe, config.image_size)
    burn_marks(image, plan.organ, view.side)
    return image, mask


def _build_image(config: PhantomConfig, plan: StudyPlan, index: int) -> RawImage:
    image, mask = render_view(config, plan, index)
    view = plan.views[index]
    spacing = PRESETS[plan.organ].probe.side_mm / config.image_size
    return RawImage(
        ref=f"{plan.ref}/image-{index:02d}",
        data=image,
        mask=mask,
        labels={
            "shows_finding": "0" if view.section is None else "1",
            "caption": view.caption,
            "side": view.side.value,
            "mm_per_pixel": f"{spacing:.4f}",
        },
    )


def _draw_plain(rng: np.random.Generator, organ: Organ, words: Wording) -> View:
    side = list(Side)[int(rng.integers(2))]
    caption = words.normal_sentence(words.place_name(organ, side), int(rng.integers(2)))
    return View(side=side, section=None, caption=caption)


def _draw_cut(
    rng: np.random.Generator, organ: Organ, lesion: Lesion, words: Wording, *, largest: bool
) -> View:
    preset = PRESETS[organ]
    mirror = 1.0 if lesion.side is Side.RIGHT else -1.0
    room_mm = preset.probe.side_mm / 2 - 0.8 * lesion.size_mm  # spicules reach beyond the diameter
    x_mm = float(np.clip(rng.uniform(*preset.bed_x_mm), -room_mm, room_mm))
    section = Section(
        x_mm=mirror * x_mm,
        z_mm=float(rng.uniform(*preset.bed_z_mm)),
        scale=1.0 if largest else float(rng.uniform(0.65, 0.95)),
        tilt_rad=float(rng.normal(0.0, 0.12)),
        shift=int(rng.integers(720)),
    )
    size_mm = lesion.size_mm * section.scale
    caption = words.finding_sentence(organ, lesion, size_mm, int(rng.integers(2)))
    return View(side=lesion.side, section=section, caption=caption)


def _finding_rate(config: PhantomConfig, *, found: bool) -> float:
    """Share of the studies with (or without) a finding that are asked whether there is one."""
    without = config.fraction_without_finding
    own, other = (1 - without, without) if found else (without, 1 - without)
    return min(1.0, other / own)


def _generator(config: PhantomConfig, *path: int) -> np.random.Generator:
    """Random numbers of one patient, one of his studies, or one of its images."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=path))
