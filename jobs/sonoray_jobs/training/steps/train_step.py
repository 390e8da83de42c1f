"""One optimisation step of a worker: its share of the studies, one exchange with the others.

All that ranks have to agree on goes through one small sum: how many answers the step has, whether
a loss is not finite, the losses to report, and what some rank wishes to be done after this step.
The losses are therefore those of the whole step on every rank, and what follows from them, a skip,
a checkpoint, an end, is the same everywhere.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from sonoray_jobs.road.train_config import TrainConfig

if TYPE_CHECKING:
    from llava_ultra.recognition.pairs import BankTokens, Pairs
    from sonoray_jobs.training.step_loader import LoadedStep


class Wish(IntFlag):
    """What some rank wants all of them to do after a step."""

    NOTHING = 0
    SAVE = 1
    """By the clock, a checkpoint is due."""
    LEAVE = 2
    """The rank is about to be taken away: save, and go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """What a step came to, the same on all ranks."""

    sums: Mapping[str, float]
    """By loss: the sum over all answers of the step."""
    answers: float
    applied: bool
    """False where a loss or a gradient was not finite, so that nothing was changed."""
    wishes: Wish
    """Those of all ranks."""

    @property
    def loss(self) -> float:
        """Mean over the step's answers."""
        return self.sums["loss"] / self.answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepper:
    """What a worker steps with in one stage."""

    engine: Any
    """DeepSpeed's, around the model."""
    tokenizer: Any
    settings: TrainConfig
    stage: int
    """Index of the stage."""
    rank: int
    world: int
    context_length: int
    bank: "BankTokens | None" = None
    """Descriptions of the classes that recognition is trained for."""

    def step(self, loaded: "LoadedStep", number: int, wishes: Wish = Wish.NOTHING) -> StepOutcome:
        """Learn from this rank's share of a step; collective.

        Args:
            loaded: the share.
            number: of the step in its stage.
            wishes: this rank's.
        """
        import torch

        from llava_ultra.batch import Batch, collate_features, collate_texts
        from llava_ultra.parameters.precision import matmul_precision
        from llava_ultra.steps.accumulate import forward_share
        from llava_ultra.steps.micro_batches import PartLimits
        from sonoray_jobs.training.steps.engine import take_step

        settings, engine = self.settings, self.engine
        torch.manual_seed(step_seed(settings.seed, self.stage, number, self.rank))
        visual = collate_features(loaded.features)
        if settings.feature_noise:
            # of each study, so that it does not depend on how many workers share the step
            seeds = [
                step_seed(settings.seed, self.stage, number, study) for study in loaded.step.studies
            ]
            visual = visual.with_noise(settings.feature_noise, seeds)
        text = collate_texts(self.tokenizer, loaded.rows, max_tokens=self.context_length)
        with matmul_precision(settings.matmul_precision, engine.device.type):
            share = forward_share(
                engine.module,
                Batch(visual=visual, text=text, pairs=self._pairs(loaded)),
                PartLimits(studies=settings.micro_studies, tokens=settings.micro_tokens),
                run=engine,
                device=engine.device,
            )
        told = _Told.of(share.losses, float(len(loaded.rows)), wishes)
        if told.num_broken:  # on all ranks; they wait for each other in the backward pass
            return told.outcome(applied=False)
        # The mean over ranks, which DeepSpeed takes, is the mean over the step's answers, however
        # many ranks and parts they are spread over.
        with matmul_precision(settings.matmul_precision, engine.device.type):
            engine.backward(share.owed)
        applied = take_step(engine)
        if applied:
            engine.module.after_step()
        return told.outcome(applied=applied)

    def _pairs(self, loaded: "LoadedStep") -> "Pairs | None":
        from llava_ultra.language.report_pairs import collate_pairs

        settings = self.engine.module.config.recognition
        if settings is None:
            return None
        return collate_pairs(
            self.tokenizer,
            loaded.reports,
            settings,
            context_length=self.context_length,
            classes=loaded.classes,
            bank=self.bank,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """What all ranks told each other of a step."""

    sums: Mapping[str, float]
    answers: float
    num_broken: float
    wishes: Wish

    @classmethod
    def of(cls, means: Mapping[str, float], answers: float, wishes: Wish) -> "_Told":
        """Add up what the ranks tell; collective."""
        from llava_ultra.objectives.ranks import sum_over_ranks

        broken = float(not math.isfinite(means["loss"]))
        flags = [float(wish in wishes) for wish in Wish]
        sums = [value * answers for value in means.values()]
        told = sum_over_ranks([answers, broken, *flags, *sums])
        all_answers, num_broken, *rest = told
        return cls(
            sums=dict(zip(means, rest[len(flags) :], strict=True)),
            answers=all_answers,
            num_broken=num_broken,
            wishes=Wish(sum(wish for wish, flag in zip(Wish, rest, strict=False) if flag)),
        )

    def outcome(self, *, applied: bool) -> StepOutcome:
        return StepOutcome(
            sums=self.sums, answers=self.answers, applied=applied, wishes=self.wishes
        )


def step_seed(*parts: int) -> int:
    """A seed that is a function of these numbers alone."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "little")
