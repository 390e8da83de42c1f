"""What a student says of itself: whose it is, what it answers, how far it can be trusted.

It stands in `student.json` beside the weights and in the manifest of the model that it is exported
with. Torch stays out: the process that receives requests reads it too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from llava_ultra.towers.tower_config import ModelPart

CARD = "student.json"
"""File beside the weights: the student's shape and its card."""

STUDENT = "student"
"""Its folder in an exported model, its key in the manifest and among the digests there."""

UNSEEN = -30.0
"""Log-probability of an option that no training question has."""


class Route(ModelPart):
    """What it costs to give the student all questions of which it is at least so sure."""

    least_confidence: float
    """Probability of its answer among the question's options, calibrated."""
    lost: float
    """By how much the accuracy of student and model together is below the model's."""
    share: float
    """Of the questions that the student answers."""


class StudentCard(ModelPart):
    """See the module's docstring."""

    teacher: str
    """Name of the training whose model it learned from."""
    towers: dict[str, str]
    """Fingerprints of the towers whose features it reads, by name."""
    topics: dict[str, tuple[str, ...]]
    """By topic, the options that it tells apart, in the order of its logits."""
    questions: dict[str, tuple[str, ...]]
    """By topic, the wordings of its question, without the examination site."""
    calibration: dict[str, float] = Field(default_factory=dict)
    """How its log-probabilities become probabilities: `temperature`, `abstain_below`, `error_rate`;
    empty where there were too few questions to find out."""
    routes: tuple[Route, ...] = ()
    """From the surest on; each loses more than the one before. Empty where there were too few
    patients to find out."""

    def topic_of(self, question: str, options: Sequence[str]) -> str | None:
        """The topic of a question without its site; None where the student did not learn it."""
        for topic, wordings in self.questions.items():
            if question.strip() in wordings and set(options) <= set(self.topics[topic]):
                return topic
        return None

    def least_confidence(self, budget: float) -> float | None:
        """How sure it must be, so that no more accuracy is lost than a budget; None for never."""
        return least_confidence(self.routes, budget)


def least_confidence(routes: Sequence[Route], budget: float) -> float | None:
    """The last of some routes that loses no more than a budget; None where there is none."""
    allowed = [route for route in routes if route.lost <= budget + 1e-12]
    return allowed[-1].least_confidence if allowed else None


def scores_of(
    logits: npt.NDArray[np.floating[Any]], known: Sequence[str], options: Sequence[str]
) -> dict[str, float]:
    """Log-probability of each option of a question, from logits of the topic's options (O,)."""
    places = {option: place for place, option in enumerate(known)}
    own = [places[option] for option in options if option in places]
    total = float(np.logaddexp.reduce(logits[own])) if own else 0.0
    return {
        option: float(logits[places[option]]) - total if option in places else UNSEEN
        for option in options
    }


def read_card(folder: Path) -> StudentCard:
    """Read the card beside a student's weights.

    Raises:
        ValueError: there is none, or it is of an earlier version.
    """
    try:
        described: Mapping[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return StudentCard(topics=described["shape"]["topics"], **described["card"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
        raise ValueError(
            f"{str(folder)!r} holds no student that can be served ({type(error).__name__}); run "
            "sonoray distil again"
        ) from error
