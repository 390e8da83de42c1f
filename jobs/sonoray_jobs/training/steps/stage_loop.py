"""One stage of a training on one worker: steps, and what happens between them.

After a step, in this order: the stage's losses are added up, the studies of the validation split
are judged where that is due, metrics are reported at an epoch's end, and a checkpoint is saved. All
of it is decided from what all ranks know (`steps.train_step`), so that all make the same collective
calls: gathering, judging, reporting.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from sonoray.errors import JobFailedError
from sonoray_jobs.road.train_config import TrainConfig, TrainStage
from sonoray_jobs.training.saving.notice import is_told_to_leave, leave
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.steps.hang import named_hang
from sonoray_jobs.training.steps.train_step import StepOutcome, Stepper, Wish
from sonoray_jobs.training.steps.validation import ValidationTimes, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from sonoray_jobs.training.saving.saver import Saver
    from sonoray_jobs.training.step_loader import LoadedStep

ANSWERS = "answers"
"""Key of a report for sample answers, as `sonoray.tracking.callback` reads it; a worker does not
import MLflow's side."""

FLOOR_RATE = 0.1
"""What the learning rate falls to, as a share of the stage's."""


class StoppedError(JobFailedError):
    """Why a training ends that no restart of its workers mends; raised on all ranks at once."""


@dataclass(kw_only=True, slots=True)
class Meter:
    """Means over the answers of an epoch, the same on all ranks."""

    sums: dict[str, float] = field(default_factory=dict)
    answers: float = 0.0

    def add(self, outcome: StepOutcome) -> None:
        """Take a step in that was learned from."""
        for name, value in outcome.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.answers += outcome.answers

    def means(self) -> dict[str, float]:
        """By loss; empty where every step was skipped."""
        return {name: total / self.answers for name, total in self.sums.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveTimes:
    """When a checkpoint is due within an epoch."""

    every_steps: int = 0
    """0: never by steps."""
    every_s: float = 0.0
    """0: never by the clock."""

    @classmethod
    def read(cls, text: str) -> "SaveTimes":
        """Read `train.save_every`, as in `50 steps` or `10 minutes`."""
        number, unit = text.split()
        return cls(every_steps=int(number)) if unit == "steps" else cls(every_s=60 * int(number))


@dataclass(kw_only=True)
class StageLoop:
    """A stage that is under way; `run` ends it."""

    stepper: Stepper
    stage: TrainStage
    optimizer: Any
    """The engine's AdamW."""
    position: Position
    """How far it is."""
    steps_before: int
    """Of the stages before."""
    saver: "Saver | None"
    """Of rank 0; None on the others."""
    validation: int
    """Steps of this rank in a validation; 0: there is none."""
    post: "Callable[[int, int, float], None]"
    say: "Callable[[str], None]"

    def __post_init__(self) -> None:
        self._settings: TrainConfig = self.stepper.settings
        self._per_epoch = self.position.steps_per_epoch
        self._total = self.stage.epochs * self._per_epoch
        self._times = SaveTimes.read(self._settings.save_every)
        self._judged = ValidationTimes.of(self._settings, self._per_epoch, self.stage.epochs)
        self._meter = Meter(sums=dict(self.position.sums), answers=self.position.answers)
        self._saved_at = self._epoch_at = time.monotonic()
        self._in_a_row = 0
        self._saving_s = 0.0

    def run(self, stream: Iterator["LoadedStep"]) -> Position:
        """Go on from the position to the end of the stage; collective.

        Args:
            stream: what this rank gets of the steps from the position on, and between them of
                those that judge the model.

        Raises:
            StoppedError: too many steps in a row had a loss that is not finite.
            JobFailedError: another worker hangs.
        """
        timeout_s = self._settings.collective_timeout_s
        with named_hang(self.stepper.rank, timeout_s, self._where):
            while self.position.steps < self._total and not self.position.stopped:
                self._step(stream)
        return self.position

    def _where(self) -> str:
        return f"step {self.position.steps + 1} of stage {self.stage.name!r}"

    def _step(self, stream: Iterator["LoadedStep"]) -> None:
        number = self.position.steps
        rate = self._set_rate(number)
        outcome = self.stepper.step(next(stream), number, self._wishes())
        done = number + 1
        epochs, in_epoch = divmod(done, self._per_epoch)
        self._count(outcome, done, rate)
        if self.stepper.rank == 0:
            self.post(done, self._total, outcome.loss)
        metrics: dict[str, float] = {}
        times: dict[str, Any] = {}
        if not in_epoch:
            metrics, times = self._metrics(epochs, rate), self._times_of_epoch()
            self._meter = Meter()
        self.position = self.position.model_copy(
            update={
                "steps": done,
                "epochs": epochs,
                "sums": dict(self._meter.sums),
                "answers": self._meter.answers,
                "validation_loss": None,
            }
        )
        if self.validation and self._judged.is_due(done):
            judged = judge(self.stepper, itertools.islice(stream, self.validation))
            metrics |= self._note(judged.metrics)
            times[ANSWERS] = judged.answers
        if metrics:
            metrics["step"] = self.steps_before + done
            self.position = self.position.model_copy(
                update={"metrics": self.position.metrics | metrics, "reported": metrics}
            )
            self._report(metrics | times)
        leaving = Wish.LEAVE in outcome.wishes
        if metrics or leaving or Wish.SAVE in outcome.wishes or self._is_due(done):
            self._save()
        if leaving:
            self._leave()

    def _note(self, metrics: dict[str, float]) -> dict[str, float]:
        """Note what a validation found, and decide whether the stage goes on."""
        loss, position = metrics["validation_loss"], self.position
        is_better = position.best_loss is None or loss < position.best_loss
        update: dict[str, Any] = {
            "validation_loss": loss,
            "best_loss": loss if is_better else position.best_loss,
            "stale": 0 if is_better else position.stale + 1,
        }
        if 0 < self._settings.patience <= update["stale"] and position.steps < self._total:
            update["stopped"] = True
            if self.stepper.rank == 0:
                self.say(
                    f"stage {self.stage.name!r} ends at step {position.steps} of {self._total}: "
                    f"{update['stale']} validations without a lower loss than "
                    f"{update['best_loss']:.4f}"
                )
        self.position = position.model_copy(update=update)
        return metrics

    def _set_rate(self, number: int) -> float:
        """Give the optimiser the learning rate of a step, and return it."""
        from llava_ultra.parameters.schedule import cosine_rate

        share = cosine_rate(number, self._total, self._settings.warmup_fraction, floor=FLOOR_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * share
        return self.stage.learning_rate * share

    def _wishes(self) -> Wish:
        """What this rank wants to be done after the step that it starts."""
        late = time.monotonic() - self._saved_at > self._times.every_s > 0
        wishes = Wish.SAVE if late and self.stepper.rank == 0 else Wish.NOTHING
        return wishes | Wish.LEAVE if is_told_to_leave() else wishes

    def _is_due(self, done: int) -> bool:
        return bool(self._times.every_steps) and done % self._times.every_steps == 0

    def _count(self, outcome: StepOutcome, done: int, rate: float) -> None:
        """Count a step as learned from or as skipped."""
        if outcome.applied:
            self._in_a_row = 0
            self._meter.add(outcome)
            return
        self._in_a_row += 1
        self.position = self.position.model_copy(update={"skipped": self.position.skipped + 1})
        if self._in_a_row > self._settings.max_skipped:
            raise diverged(self.stage, done, rate, self._in_a_row)
        if self.stepper.rank == 0:
            self.say(
                f"step {done} of stage {self.stage.name!r} is skipped: its loss or a gradient is "
                f"not finite ({self.position.skipped} skipped in this stage)"
            )

    def _metrics(self, epochs: int, rate: float) -> dict[str, float]:
        """What is reported at the end of an epoch."""
        return {
            **self._meter.means(),
            **connector_metrics(self.stepper.engine.module),
            "learning_rate": rate,
            "stage": self.position.stage,
            "epoch": epochs,
            "lora": int(self.stage.lora),
            "skipped_steps": self.position.skipped,
        }

    def _times_of_epoch(self) -> dict[str, Any]:
        """How fast the epoch was, or what of it came after the start of this worker."""
        now = time.monotonic()
        told = {"epoch_s": now - self._epoch_at, "saving_s": self._saving_s}
        self._epoch_at, self._saving_s = now, 0.0
        return told

    def _report(self, metrics: Mapping[str, Any]) -> None:
        import ray.train

        ray.train.report(dict(metrics))

    def _save(self) -> None:
        """Gather what was learned and have it written; collective."""
        from sonoray_jobs.training.checkpoint import gather_state

        start = time.monotonic()
        weights, moments = gather_state(self.stepper.engine)
        if self.saver is not None:
            self.saver.save(self.position, weights, moments)
        self._saved_at = time.monotonic()
        self._saving_s += self._saved_at - start

    def _leave(self) -> NoReturn:
        """End after all is saved, because a worker is about to be taken away; collective."""
        if self.saver is not None:
            self.saver.wait()
            self.say(
                f"a worker was told to end: saved at step {self.position.steps} of stage "
                f"{self.stage.name!r}, the training goes on with those that are left"
            )
        from llava_ultra.objectives.ranks import sum_over_ranks

        sum_over_ranks([0.0])  # all wait for what rank 0 writes
        leave()


def diverged(stage: TrainStage, step: int, rate: float, in_a_row: int) -> StoppedError:
    """The error of losses that are not finite, again and again."""
    return StoppedError(
        f"the loss or a gradient of stage {stage.name!r} is not finite at its step {step}, "
        f"learning rate {rate:.3g}, nor at the {in_a_row - 1} before it (train.max_skipped); lower "
        f"the learning_rate {stage.learning_rate:g} of this stage in train.stages"
    )


def connector_metrics(model: Any) -> dict[str, float]:  # noqa: ANN401 - LlavaUltra
    """The blend's alpha, where the fusion has one: its mean over channels or tokens; collective."""
    from sonoray_jobs.training.steps.engine import whole_parameters

    with whole_parameters(model.fusion):
        alpha = getattr(model.fusion, "alpha", None)
        return {} if alpha is None else {"alpha": float(alpha.mean().detach())}
