"""What became of a sweep: its trials from best to worst, as text, JSON and two pictures.

The pictures are Optuna's own, of a study that is made of the trials whatever drew them: parallel
coordinates, and the importance of each setting (fANOVA, which needs a few trials to say anything).
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sonoray.files.json_files import write_json
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.listing.selection import short_names
from sonoray_jobs.evaluation.sweeping.search import Search
from sonoray_jobs.evaluation.sweeping.space import Field

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
REPORT, DATA = "sweep.md", "sweep.json"
PICTURES = ("parallel_coordinates.png", "importance.png")
_LEAST_TRIALS = 4
"""For the importance of settings."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial that has ended."""

    number: str
    point: Mapping[str, Any]
    """As it was drawn."""
    settings: Mapping[str, str]
    """As a person reads them."""
    state: str
    objective: float | None
    """None where it failed before it had one."""
    step: int
    """Of the training, where the objective was measured."""
    training: str
    """Its name; empty where it failed before it had one."""
    run_id: str
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """A sweep that has ended."""

    name: str
    search: Search
    fields: Sequence[Field]
    trials: Sequence[Trial]
    """The finished ones first, from best to worst, then those that were stopped or failed."""
    parent_run_id: str
    folder: Path

    @property
    def exit_code(self) -> int:
        """1 where a trial failed."""
        return int(any(trial.state == FAILED for trial in self.trials))

    @property
    def best(self) -> Trial | None:
        """The best of the finished trials."""
        return next((trial for trial in self.trials if trial.state == FINISHED), None)

    @property
    def table(self) -> Table:
        """One trial a row."""
        metric = f"{self.search.metric} ({self.search.direction})"
        keys = [field.key for field in self.fields]
        return Table(
            header=("trial", metric, *keys, "state", "step", "training"),
            rows=tuple(
                (
                    trial.number,
                    "-" if trial.objective is None else f"{trial.objective:.4f}",
                    *(trial.settings[key] for key in keys),
                    trial.state,
                    str(trial.step or "-"),
                    trial.training or "-",
                )
                for trial in self.trials
            ),
        )

    def lines(self) -> list[str]:
        """What a person reads."""
        lines = [*self.table.text(), ""]
        for trial in self.trials:
            if trial.state == FAILED:
                lines.append(f"trial {trial.number} failed: {trial.reason}")
        if self.best is not None:
            chosen = " ".join(f"--set {key}={text}" for key, text in self.best.settings.items())
            lines += [
                f"best: trial {self.best.number}, {chosen}",
                f"on the test split, once: sonoray evaluate --run {self.best.training}",
            ]
        if self.exit_code:
            lines.append("run the command again to go on with the trials that failed")
        lines += [str(path) for path in self.files]
        return [*lines, f"MLflow parent run {self.parent_run_id}"]

    @property
    def files(self) -> list[Path]:
        """What was written."""
        names = (REPORT, DATA, *PICTURES)
        return [self.folder / name for name in names if (self.folder / name).is_file()]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "name": self.name,
            "command": self.search.command,
            "metric": self.search.metric,
            "mode": self.search.direction,
            "parent_run_id": self.parent_run_id,
            "best": None if self.best is None else asdict(self.best),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def write(self) -> None:
        """Write the report and the pictures into the folder."""
        write_json(self.folder / DATA, self.to_json())
        drawn = draw(self.search, self.fields, self.trials, self.folder)
        text = [
            f"# {self.name}",
            "",
            f"`{self.search.command}`",
            "",
            *self.table.markdown(),
            *(line for name in drawn for line in ("", f"![{name}]({name})")),
        ]
        (self.folder / REPORT).write_text("\n".join(text) + "\n", encoding="utf-8")


def ordered(trials: Sequence[Trial], direction: str) -> list[Trial]:
    """The finished trials from best to worst, then those that were stopped, then the failed."""
    sign = 1 if direction == "min" else -1
    states = (FINISHED, STOPPED, FAILED)

    def place(trial: Trial) -> tuple[int, float]:
        lacking = float("inf") if trial.objective is None else sign * trial.objective
        return states.index(trial.state), lacking

    return sorted(trials, key=place)


def draw(
    search: Search, fields: Sequence[Field], trials: Sequence[Trial], folder: Path
) -> list[str]:
    """Draw the pictures of the finished trials; returns the names of those that can be drawn."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from optuna import create_study
    from optuna import logging as optuna_logging
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial
    from optuna.visualization import matplotlib as pictures

    optuna_logging.set_verbosity(optuna_logging.ERROR)
    study = create_study(direction="minimize" if search.direction == "min" else "maximize")
    keys = [field.key for field in fields]
    shown = dict(zip(keys, short_names(keys), strict=True))
    distributions = {shown[field.key]: field.distribution() for field in fields}
    done = [each for each in trials if each.state == FINISHED and each.objective is not None]
    for trial in done:
        params = {shown[key]: value for key, value in trial.point.items()}
        study.add_trial(
            create_trial(params=params, distributions=distributions, value=trial.objective)
        )
    plots: list[Any] = [pictures.plot_parallel_coordinate]
    if len(done) >= _LEAST_TRIALS and len({trial.objective for trial in done}) > 1:
        evaluator = FanovaImportanceEvaluator(seed=search.seed)
        plots.append(partial(pictures.plot_param_importances, evaluator=evaluator))
    drawn = []
    for plot, name in zip(plots if done else [], PICTURES, strict=False):
        # Optuna sets a style of its own for the whole process, which others would draw in
        with warnings.catch_warnings(), matplotlib.rc_context():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of every picture of Optuna's
            figure: Any = plot(study, target_name=search.metric).figure
        figure.set_size_inches(9, 5)
        for lines in (each for part in figure.axes for each in part.collections):
            lines.set_cmap("viridis")  # Optuna's own ends in white, on white
        figure.savefig(folder / name, dpi=120, bbox_inches="tight", metadata={"Software": None})
        pyplot.close(figure)
        drawn.append(name)
    return drawn
