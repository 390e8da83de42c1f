"""Under which conditions a model is asked, and what each makes of a study.

Condition 0 is clean. The others are a perturbation of the images, or a wording of the questions, at
a strength. What a strength leaves open, a direction or a place, is drawn from the image or the
question and the kind of the condition alone: a picture under more strength has the same shadow,
wider and deeper, and not another one.

To the reader of features a condition of images is a view (`sonoray_jobs.towers.views`). No store
keeps it: its key is the number in front of the image's id.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llava_ultra.perturbations.gallery import PERTURBATIONS, PerturbationConfig
from sonoray.errors import ConfigError
from sonoray.study.contract import Study, Task
from sonoray_jobs.evaluation.robustness.wording import WORDINGS

CLEAN = "clean"
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
_SEPARATOR = ":"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One change at one strength; both empty for the clean one."""

    kind: str
    """Type of the perturbation, name of the wording, or `clean`."""
    strength: float = 0.0
    perturbation: PerturbationConfig | None = None

    @property
    def name(self) -> str:
        """As `gain 0.4`."""
        return self.kind if self.kind == CLEAN else f"{self.kind} {self.strength:g}"

    def to_json(self) -> dict[str, Any]:
        """What decides the pictures and questions of this condition."""
        settings = self.perturbation.model_dump(mode="json") if self.perturbation else None
        return {"kind": self.kind, "strength": self.strength, "perturbation": settings}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """All conditions of a judgement, by number; the first one is clean."""

    conditions: tuple[Condition, ...]

    def __len__(self) -> int:
        return len(self.conditions)

    def of_images(self) -> list[int]:
        """Numbers of the conditions that change images."""
        return [at for at, each in enumerate(self.conditions) if each.perturbation is not None]

    def keys(self, image_ids: Sequence[str], view: int) -> list[str]:
        """Names of these images under a condition; their ids where it leaves images alone."""
        if self.conditions[view].perturbation is None:
            return list(image_ids)
        return [f"{view}{_SEPARATOR}{image_id}" for image_id in image_ids]

    def draw(self, image: np.ndarray, key: str) -> np.ndarray:
        """The image, uint8, under the condition that its key names."""
        number, _, image_id = key.partition(_SEPARATOR)
        condition = self.conditions[int(number)]
        assert condition.perturbation is not None
        rng = _generator(condition, image_id)
        return condition.perturbation.apply(image, condition.strength, rng)

    def word(self, study: Study, number: int) -> Study:
        """The study with its questions under a condition; the answers stay."""
        condition = self.conditions[number]
        change = WORDINGS.get(condition.kind)
        if change is None:
            return study
        turns = [
            turn
            if turn.task is Task.CONTEXT
            else replace(
                turn,
                question=change(
                    turn, condition.strength, _generator(condition, f"{study.study_id} {place}")
                ),
            )
            for place, turn in enumerate(study.turns)
        ]
        return replace(study, turns=tuple(turns))


def make_conditions(kinds: Sequence[str], strengths: Sequence[float]) -> Conditions:
    """Cross kinds with strengths, after the clean condition.

    Args:
        kinds: types of perturbations and names of wordings; empty stands for all.
        strengths: above 0, at most 1.

    Raises:
        ConfigError: a kind is unknown, or a strength is out of range or named twice.
    """
    perturbations: dict[str, PerturbationConfig] = {each.type: each for each in PERTURBATIONS}
    known = [*perturbations, *WORDINGS]
    chosen = list(dict.fromkeys(kinds)) or known
    if unknown := sorted(set(chosen).difference(known)):
        raise ConfigError(f"--perturb {unknown[0]!r} is unknown; use {', '.join(known)}")
    if not strengths or len(set(strengths)) < len(strengths):
        raise ConfigError(f"--strengths {list(strengths)} must be different numbers, at least one")
    if wrong := [each for each in strengths if not 0 < each <= 1]:
        raise ConfigError(f"--strengths {wrong[0]:g} must be above 0 and at most 1")
    made = [
        Condition(kind=kind, strength=strength, perturbation=perturbations.get(kind))
        for kind in chosen
        for strength in sorted(strengths)
    ]
    return Conditions(conditions=(Condition(kind=CLEAN), *made))


def _generator(condition: Condition, name: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(condition.kind.encode()), zlib.crc32(name.encode())])
