"""What was asked for on the command line of a sweep, and Ray Tune's part of it.

Optuna's tree of Parzen estimators proposes from what the trials so far reached; `random` and `grid`
do not look at it. ASHA ends trials early that stand in the worse two thirds after the same number
of validations. Settings are chosen on the validation split: the test split is for the end.
"""

import shlex
from dataclasses import dataclass
from math import prod
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.sweeping.space import Field, read_fields
from sonoray_jobs.outputs.find import TRAINING_VERSION
from sonoray_jobs.road.config import RoadConfig

SEARCHES = ("optuna", "random", "grid")
VALIDATION_METRICS = ("validation_loss", "validation_hit")
"""Reported while a training goes, so that it can be ended early."""
EVALUATED = "validation/"
"""Beginning of the headlines of an evaluation on the validation split."""
OBJECTIVE = "objective"
"""What a trial tells Ray Tune of the metric."""
_REDUCTION = 3
_NEVER = 1_000_000
"""Validations after which a trial would end in any case."""
_STARTUP = 10
"""Trials that Optuna draws at random before it proposes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What decides a sweep besides the road."""

    dataset: str
    over: tuple[str, ...]
    """`KEY:SPEC` each."""
    method: str = "optuna"
    trials: int = 20
    """Of a grid as many as it has points."""
    metric: str = "validation_loss"
    mode: str = ""
    """`min` or `max`; by default `min` of a loss."""
    stop_early: bool = False
    grace: int = 2
    """Validations before a trial may be ended early."""
    seed: int = 0
    """Of the search."""
    config: str = "tiny"
    """As on the command line, for the report."""
    overrides: tuple[str, ...] = ()

    @property
    def direction(self) -> str:
        """`min` or `max`."""
        return self.mode or ("min" if self.metric.endswith("loss") else "max")

    def fields(self, road: RoadConfig) -> tuple[Field, ...]:
        """The settings that are searched.

        Raises:
            ConfigError: they, the method or the metric do not fit each other or the road.
        """
        if self.method not in SEARCHES:
            raise ConfigError(f"--search {self.method!r} is unknown; use {', '.join(SEARCHES)}")
        if self.mode not in ("", "min", "max"):
            raise ConfigError(f"--mode {self.mode!r} must be min or max")
        if self.metric in VALIDATION_METRICS:
            if road.train.validate_every == "never":
                raise ConfigError(
                    f"--metric {self.metric} is not known where train.validate_every is never; add "
                    "--set train.validate_every=epoch"
                )
        elif not self.metric.startswith(EVALUATED):
            raise ConfigError(
                f"--metric {self.metric!r} must be {' or '.join(VALIDATION_METRICS)}, or a "
                "headline of an evaluation on the validation split, as validation/accuracy"
            )
        elif self.stop_early:
            raise ConfigError(
                f"--stop-early needs a metric that is known while a training goes "
                f"({' or '.join(VALIDATION_METRICS)}), not {self.metric}"
            )
        fields = read_fields(self.over, road)
        ranges = [field.key for field in fields if not field.choices]
        if self.method == "grid" and ranges:
            raise ConfigError(
                f"--search grid takes lists, and {', '.join(ranges)} is a range; write [A, B], or "
                "--search random"
            )
        return fields

    def num_trials(self, fields: tuple[Field, ...]) -> int:
        """How many trials there are."""
        return prod(len(each.choices) for each in fields) if self.method == "grid" else self.trials

    def name(self, road: RoadConfig) -> str:
        """Of the sweep: the same command goes on with it."""
        decisive = {
            "search": [self.dataset, self.over, self.method, self.trials, self.metric],
            "how": [self.direction, self.stop_early, self.grace, self.seed],
            "road": road.model_dump(mode="json"),
            "version": TRAINING_VERSION,
        }
        return f"sweep-{self.dataset}-{content_hash(decisive)[:12]}"

    @property
    def command(self) -> str:
        """The command line that goes on with it."""
        words = ["sonoray", "sweep", "--config", self.config, "--dataset", self.dataset]
        words += [word for text in self.over for word in ("--over", text)]
        words += ["--search", self.method, "--trials", str(self.trials), "--metric", self.metric]
        words += ["--mode", self.direction, "--seed", str(self.seed)]
        words += ["--stop-early", "--grace", str(self.grace)] if self.stop_early else []
        return shlex.join([*words, *(word for text in self.overrides for word in ("--set", text))])

    def tune_config(self, fields: tuple[Field, ...], at_once: int) -> Any:  # noqa: ANN401 - TuneConfig
        """Searcher, scheduler and numbers, for Ray Tune."""
        from ray.tune import TuneConfig
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

        search: Any = BasicVariantGenerator(max_concurrent=at_once, random_state=self.seed)
        if self.method == "optuna":
            from optuna.samplers import TPESampler
            from ray.tune.search.optuna import OptunaSearch

            sampler = TPESampler(seed=self.seed, n_startup_trials=_STARTUP)
            search = ConcurrencyLimiter(OptunaSearch(sampler=sampler), max_concurrent=at_once)
        scheduler = None
        if self.stop_early:
            scheduler = ASHAScheduler(
                max_t=_NEVER, grace_period=self.grace, reduction_factor=_REDUCTION
            )
        return TuneConfig(
            metric=OBJECTIVE,
            mode=self.direction,
            search_alg=search,
            scheduler=scheduler,
            num_samples=1 if self.method == "grid" else self.trials,
        )

    def param_space(self, fields: tuple[Field, ...]) -> dict[str, Any]:
        """The settings, for Ray Tune."""
        return {field.key: field.domain(grid=self.method == "grid") for field in fields}
