"""Show the phantom: a contact sheet and a few whole studies as files.

The studies themselves need no file: `sonoray ingest phantom` generates them as it reads. This job
is for looking at what the configuration means, and for the picture in the README. It draws some
forty images in the driver and starts no Ray.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sonoray.errors import ConfigError, DataError
from sonoray.images.decode import encode_png
from sonoray.phantom import PhantomConfig, StudyPlan, build_study, plan_study, render_view
from sonoray.phantom.lesion import Kind, SizeClass
from sonoray.phantom.physics import Gray
from sonoray.study.raw import RawStudy
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig

_NUM_EXAMPLES = 6
_CAPTION_HEIGHT = 16
_NUM_GRAYS = 32
"""Gray levels of the sheet: speckle does not compress, and five bits look the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomSamples:
    """What was written."""

    folder: str
    sheet: str
    examples: tuple[str, ...]
    studies: int
    """Studies that the whole configuration yields."""
    constant_answers: Mapping[str, float]
    """By closed topic: the share of its most frequent answer over all studies."""

    def lines(self) -> list[str]:
        """Return what a person reads."""
        shares = ", ".join(f"{topic} {share:.0%}" for topic, share in self.constant_answers.items())
        return [
            f"contact sheet: {self.sheet}",
            f"{len(self.examples)} of {self.studies} studies as files: {self.folder}",
            f"constant answer over all studies: {shares or 'no closed question'}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        return asdict(self)


def run(*, workspace: Workspace, road: RoadConfig, out: Path | None = None) -> PhantomSamples:
    """Write the contact sheet and the first studies.

    Args:
        workspace: gives the default folder, `<workspace>/phantom`.
        road: its section `phantom` counts.
        out: another folder; files of the same name are replaced.

    Raises:
        ConfigError: another modality than ultrasound is asked for.
        DataError: the folder cannot be written.
    """
    config = road.phantom
    if config.modality != "ultrasound":
        raise ConfigError(
            f"the contact sheet shows ultrasound, and phantom.modality is {config.modality!r}; "
            "leave it out here, or look at an ingested dataset with sonoray audit"
        )
    folder = out if out is not None else workspace.root / "phantom"
    plans = [
        plan_study(config, patient, number)
        for patient in range(config.num_patients)
        for number in range(config.studies_per_patient)
    ]
    sheet = folder / "contact_sheet.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_sheet(config, plans).save(sheet, optimize=True)
        examples = [
            _write_study(build_study(config, plan), folder) for plan in plans[:_NUM_EXAMPLES]
        ]
    except OSError as error:
        raise DataError(
            f"folder {str(folder)!r} cannot be written ({error.strerror}); choose another --out"
        ) from None
    return PhantomSamples(
        folder=str(folder),
        sheet=str(sheet),
        examples=tuple(examples),
        studies=len(plans),
        constant_answers=constant_answers(plans),
    )


def constant_answers(plans: list[StudyPlan]) -> dict[str, float]:
    """Return the share of the most frequent answer, by closed topic."""
    answers: dict[str, list[str]] = {}
    for plan in plans:
        for turn in plan.turns:
            if turn.options:
                answers.setdefault(turn.topic, []).append(turn.answer)
    return {
        topic: max(given.count(answer) for answer in set(given)) / len(given)
        for topic, given in sorted(answers.items())
    }


def draw_sheet(config: PhantomConfig, plans: list[StudyPlan]) -> Image.Image:
    """Draw one row per organ, one column without a lesion and one per kind of lesion.

    Each cell shows the first study that fits, at its largest section, lesions of medium size
    first; it stays black where the configuration has none.
    """
    columns: tuple[Kind | None, ...] = (None, *Kind)
    size = config.image_size
    height = size + _CAPTION_HEIGHT
    sheet = Image.new("L", (len(columns) * size, len(config.organs) * height))
    pen = ImageDraw.Draw(sheet)
    for row, organ in enumerate(config.organs):
        for column, kind in enumerate(columns):
            fitting = [
                plan
                for plan in plans
                if plan.organ is organ and (plan.lesion.kind if plan.lesion else None) is kind
            ]
            if not fitting:
                continue
            plan = min(fitting, key=lambda plan: not _is_medium(plan))
            left, top = column * size, row * height
            sheet.paste(Image.fromarray(_best_view(config, plan)), (left, top + _CAPTION_HEIGHT))
            pen.text((left + 4, top + 2), _describe(plan), fill=220)
    return sheet.quantize(_NUM_GRAYS)


def _best_view(config: PhantomConfig, plan: StudyPlan) -> Gray:
    scales = [view.section.scale if view.section else 0.0 for view in plan.views]
    image, _ = render_view(config, plan, int(np.argmax(scales)))
    return image


def _is_medium(plan: StudyPlan) -> bool:
    return plan.lesion is not None and plan.lesion.size_class is SizeClass.MEDIUM


def _describe(plan: StudyPlan) -> str:
    if plan.lesion is None:
        return f"{plan.organ}, no finding"
    return f"{plan.organ}, {plan.lesion.kind.replace('_', ' ')}, {plan.lesion.size_mm:.0f} mm"


def _write_study(study: RawStudy, folder: Path) -> str:
    target = folder / study.ref.replace("/", "-")
    target.mkdir(exist_ok=True)
    images = []
    for number, image in enumerate(study.images):
        assert isinstance(image.data, np.ndarray)
        assert isinstance(image.mask, np.ndarray)
        names = f"image-{number:02d}.png", f"mask-{number:02d}.png"
        (target / names[0]).write_bytes(encode_png(image.data))
        (target / names[1]).write_bytes(encode_png(image.mask))
        images.append({"image": names[0], "mask": names[1], "labels": dict(image.labels)})
    truth = {
        "study": study.ref,
        "labels": dict(study.labels),
        "images": images,
        "turns": [asdict(turn) for turn in study.turns],
    }
    text = json.dumps(truth, indent=1, ensure_ascii=False)
    (target / "study.json").write_text(text + "\n", encoding="utf-8")
    return str(target)
