"""Judging a model while it trains: the validation split's answers, as they are used later.

Each worker reads its share of the same studies, in the same order at every time; the images are
picked by the question alone. The loss is that of `answer` (`llava_ultra.objectives.answer`): the
other objectives help to train, and say nothing about answers. No gradient is computed and no random
number drawn that training would miss.

A few answers are shown too, the same questions each time: of closed questions, whose words are
those of all studies. What a report says is a patient's and stays in the workspace.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.steps.train_step import Stepper

if TYPE_CHECKING:
    from sonoray.study.sample_order import Plan
    from sonoray_jobs.training.step_loader import LoadedStep

VALIDATION = "validation"
"""The split."""

_SAMPLED = 12
"""Closed questions of each validation whose answers are shown."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a validation found."""

    metrics: dict[str, float]
    """`validation_loss`, and `validation_hit`: the share of answers of which every token is more
    likely than all others together, so that they would be given word for word."""
    answers: list[dict[str, Any]]
    """Sample answers of this rank's studies, see `sample_answers`."""


def judge(stepper: Stepper, steps: Iterator["LoadedStep"]) -> Judged:
    """Answer the validation questions; collective.

    Args:
        stepper: has the model.
        steps: this rank's share.
    """
    from llava_ultra.objectives.ranks import sum_over_ranks

    model = stepper.engine.module
    model.eval()
    try:
        shown: list[dict[str, Any]] = []
        columns = zip(*_judged(stepper, steps, shown), strict=True)
        answers, loss, hits = sum_over_ranks([math.fsum(column) for column in columns])
    finally:
        model.train()
    metrics = {"validation_loss": loss / answers, "validation_hit": hits / answers}
    return Judged(metrics=metrics, answers=shown)


def _judged(
    stepper: Stepper, steps: Iterator["LoadedStep"], shown: list[dict[str, Any]]
) -> Iterator[tuple[float, float, float]]:
    """Number of answers, sum of their losses and number of hits, of each step.

    The sample answers of the first one go into `shown`.
    """
    import torch

    from llava_ultra.batch import collate_features, collate_texts
    from llava_ultra.parameters.precision import matmul_precision

    model, device = stepper.engine.module, stepper.engine.device
    for number, loaded in enumerate(steps):
        visual = collate_features(loaded.features).to(device)
        text = collate_texts(stepper.tokenizer, loaded.rows, max_tokens=stepper.context_length).to(
            device
        )
        with torch.no_grad(), matmul_precision(stepper.settings.matmul_precision, device.type):
            tokens = model.fuse_studies(visual)
            reading = model.read(tokens, visual.image_mask, text)
            log_probs = model.answer_log_probs(reading, text).double()
        num_tokens = text.num_answer_tokens().clamp(min=1).to(log_probs.device)
        losses = -log_probs.sum(dim=1) / num_tokens
        hits = (log_probs > math.log(0.5)).all(dim=1)
        yield float(len(loaded.rows)), float(losses.sum()), float(hits.sum())
        if not number:
            shown += sample_answers(stepper, loaded)


def sample_answers(stepper: Stepper, loaded: "LoadedStep") -> list[dict[str, Any]]:
    """What the model answers to some closed questions of a step; every rank calls the decoder once.

    Returns:
        For each: `study` (its number in the step, from 1), `question`, `truth`, `answer` (the
        likeliest option) and `probability` (its share among the options).
    """
    import torch

    from llava_ultra.batch import collate_features, collate_texts
    from llava_ultra.parameters.precision import matmul_precision

    model, device = stepper.engine.module, stepper.engine.device
    closed = [
        (row, options)
        for row, options in zip(loaded.rows, loaded.options, strict=True)
        if len(options) > 1
    ][:_SAMPLED]
    asked = [
        (study, texts, option) for (study, texts, _), options in closed for option in options
    ] or loaded.rows[:1]  # nothing to show, but the other ranks may have something
    visual = collate_features(loaded.features).to(device)
    text = collate_texts(stepper.tokenizer, asked, max_tokens=stepper.context_length).to(device)
    with torch.no_grad(), matmul_precision(stepper.settings.matmul_precision, device.type):
        tokens = model.fuse_studies(visual)
        reading = model.read(tokens, visual.image_mask, text)
        scores = model.answer_log_probs(reading, text).double().sum(dim=1)
    shown = []
    for (study, texts, truth), options in closed:
        shares, scores = scores[: len(options)].softmax(dim=0), scores[len(options) :]
        best = int(shares.argmax())
        shown.append(
            {
                "study": study + 1,
                "question": texts[-1],
                "truth": truth,
                "answer": options[best],
                "probability": round(float(shares[best]), 4),
            }
        )
    return shown
