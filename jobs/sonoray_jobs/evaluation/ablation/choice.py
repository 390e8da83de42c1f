"""What was asked for on the command line of an ablation, and the command that asks for it again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray.phantom import PhantomConfig
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import (
    DEFAULT_LABEL,
    Ablation,
    Request,
    build_ablation,
)
from sonoray_jobs.road.config import RoadConfig

DEFAULT_SPLIT = "test"
EVALUATED_SPLITS = ("validation", DEFAULT_SPLIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which ablation, of what, with which seeds: what decides the result besides the road."""

    name: str
    dataset: str
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = ()
    """Some of the variants; all where empty."""
    redundancies: tuple[int, ...] = ()
    split: str = DEFAULT_SPLIT
    """Whose studies the variants answer about."""
    label: str | None = None
    """Of the modality ablation; by default `organ`."""
    config: str = "tiny"
    """As on the command line, for the report."""
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"--seeds {list(self.seeds)} must name one or more, each once")
        if len(set(self.redundancies)) < len(self.redundancies):
            raise ConfigError(f"--redundancy {list(self.redundancies)} must name each once")
        for number in self.redundancies:
            validate_config(PhantomConfig, {"images": [number] * 2}, f"--redundancy {number}")
        if self.split not in EVALUATED_SPLITS:
            raise ConfigError(
                f"--split {self.split} must be {' or '.join(EVALUATED_SPLITS)}: what variants "
                "learned from says nothing of them"
            )
        if self.label is not None and self.name != "modality":
            raise ConfigError(
                f"--label {self.label} is for the modality ablation, not {self.name}; leave it out"
            )

    @property
    def command(self) -> str:
        """The command line that makes the same report."""
        words = ["sonoray", "ablate", self.name, "--config", self.config]
        words += ["--dataset", self.dataset, "--seeds", _listed(self.seeds)]
        if self.variants:
            words += ["--variants", _listed(self.variants)]
        if self.redundancies:
            words += ["--redundancy", _listed(self.redundancies)]
        if self.split != DEFAULT_SPLIT:
            words += ["--split", self.split]
        if self.label is not None:
            words += ["--label", self.label]
        return shlex.join(words + [word for text in self.overrides for word in ("--set", text)])

    def ablation(self, workspace: Workspace, road: RoadConfig) -> Ablation:
        """The table of its variants."""
        request = Request(
            workspace=workspace,
            dataset=self.dataset,
            redundancies=self.redundancies,
            label=self.label or DEFAULT_LABEL,
            split=self.split,
        )
        return build_ablation(self.name, road, request).chosen(self.variants)


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
