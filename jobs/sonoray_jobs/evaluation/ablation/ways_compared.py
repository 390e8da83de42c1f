"""What an ablation of recognition says: its table, its runs, and what it would train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.metrics import Estimate
from sonoray.metrics.tables import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class WaysCompared:
    """The table of an ablation of recognition."""

    bank: str
    split: str
    command: str
    seeds: tuple[int, ...]
    unseen: tuple[str, ...]
    """Classes of which every study was held out of training."""
    num_studies: int
    values: Mapping[str, Mapping[str, Estimate | None]]
    """By way, and by class: the AUC; `mean` is that over classes, `seen` over those that training
    had, `unseen` over the others."""
    runs: Mapping[str, Sequence[str]]
    """By way: the MLflow runs of its trainings, one a seed."""
    path: Path

    def lines(self) -> list[str]:
        """What a person reads."""
        columns = list(next(iter(self.values.values())))
        table = Table(
            header=("way", *columns),
            rows=tuple(
                (way, *("-" if each is None else str(each) for each in of_way.values()))
                for way, of_way in self.values.items()
            ),
        )
        held = f"held out of training: {', '.join(self.unseen)}; " if self.unseen else ""
        return [
            f"AUC on {self.num_studies} studies of {self.split}, bank {self.bank}, seeds "
            f"{', '.join(map(str, self.seeds))}; {held}95 % intervals over patients and seeds",
            *table.text(),
            *(f"{way}: MLflow runs {', '.join(runs)}" for way, runs in self.runs.items() if runs),
            f"report: {self.path}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "bank": self.bank,
            "split": self.split,
            "command": self.command,
            "seeds": list(self.seeds),
            "unseen": list(self.unseen),
            "num_studies": self.num_studies,
            "auc": {
                way: {name: each and each.to_json() for name, each in of_way.items()}
                for way, of_way in self.values.items()
            },
            "runs": {way: list(runs) for way, runs in self.runs.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class WaysPlanned:
    """What would be trained."""

    trainings: tuple[tuple[str, bool], ...]
    """Way and seed, and whether it is finished."""

    def lines(self) -> list[str]:
        """What a person reads."""
        return [f"  {name}: {'done' if done else 'to do'}" for name, done in self.trainings]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"trainings": [{"name": name, "done": done} for name, done in self.trainings]}
