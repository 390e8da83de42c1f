"""Judging a model while it trains: the validation split's answers, as they are used later.

Each worker reads its share of the same studies, in the same order at every time; the images are
picked by the question alone. The loss is that of `answer` (`llava_ultra.objectives.answer`): the
other objectives help to train, and say nothing about answers. No gradient is computed and no random
number drawn that training would miss.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.steps.train_step import Stepper

if TYPE_CHECKING:
    from sonoray.study.sample_order import Plan
    from sonoray_jobs.training.step_loader import LoadedStep

VALIDATION = "validation"
"""The split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationTimes:
    """When a stage is judged: after these steps, and after its last one."""

    every: int
    """Steps; 0: never."""
    total: int
    """Steps of the stage."""

    @classmethod
    def of(cls, settings: TrainConfig, per_epoch: int, epochs: int) -> "ValidationTimes":
        """Read `train.validate_every`."""
        named = {"never": 0, "epoch": per_epoch}
        number = settings.validate_every.split()[0]
        every = named[number] if number in named else int(number)
        return cls(every=every, total=per_epoch * epochs)

    def is_due(self, done: int) -> bool:
        """Whether the model is judged when so many steps of the stage are done."""
        return bool(self.every) and (done % self.every == 0 or done == self.total)

    def after(self, done: int) -> list[int]:
        """The steps still to come after which it is."""
        return [step for step in range(done + 1, self.total + 1) if self.is_due(step)]


def validation_plan(settings: TrainConfig, num_studies: int, *, rank: int, world: int) -> "Plan":
    """This rank's share of the validation studies, of which there is one a rank at least.

    Raises:
        ConfigError: there are fewer.
    """
    from sonoray.study.sample_order import Plan

    steps = max(1, min(-(-num_studies // settings.studies_per_step), num_studies // world))
    return Plan(
        num_studies=num_studies,
        seed=settings.seed,
        studies_per_step=-(-num_studies // steps),
        epochs=range(1),
        rank=rank,
        num_ranks=world,
        split=VALIDATION,
    )


def judge(stepper: Stepper, steps: Iterator["LoadedStep"]) -> dict[str, float]:
    """Answer the validation questions; collective.

    Args:
        stepper: has the model.
        steps: this rank's share.

    Returns:
        `validation_loss`, and `validation_hit`: the share of answers of which every token is more
        likely than all others together, so that they would be given word for word.
    """
    from llava_ultra.objectives.ranks import sum_over_ranks

    model = stepper.engine.module
    model.eval()
    try:
        columns = zip(*_judged(stepper, steps), strict=True)
        answers, loss, hits = sum_over_ranks([math.fsum(column) for column in columns])
    finally:
        model.train()
    return {"validation_loss": loss / answers, "validation_hit": hits / answers}


def _judged(
    stepper: Stepper, steps: Iterator["LoadedStep"]
) -> Iterator[tuple[float, float, float]]:
    """Number of answers, sum of their losses and number of hits, of each step."""
    import torch

    from llava_ultra.batch import collate_features, collate_texts
    from llava_ultra.parameters.precision import matmul_precision

    model, device = stepper.engine.module, stepper.engine.device
    for loaded in steps:
        visual = collate_features(loaded.features).to(device)
        text = collate_texts(stepper.tokenizer, loaded.rows, max_tokens=stepper.context_length).to(
            device
        )
        with torch.no_grad(), matmul_precision(stepper.settings.matmul_precision, device.type):
            tokens = model.fuse(visual.clip, visual.sam)
            reading = model.read(tokens, visual.image_mask, text)
            log_probs = model.answer_log_probs(reading, text).double()
        num_tokens = text.num_answer_tokens().clamp(min=1).to(log_probs.device)
        losses = -log_probs.sum(dim=1) / num_tokens
        hits = (log_probs > math.log(0.5)).all(dim=1)
        yield float(len(loaded.rows)), float(losses.sum()), float(hits.sum())
