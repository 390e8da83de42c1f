"""What an ablation returns: the report and what it lacks, or the plan of what would be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sonoray.stages import StageOutput
from sonoray_jobs.evaluation.ablation.report import overview
from sonoray_jobs.evaluation.ablation.report_stage import REPORT_FILES


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablated:
    """The report, and what is missing in it."""

    output: StageOutput | None
    """None where no child ended well."""
    report: Mapping[str, Any]
    parent_run_id: str
    num_children: int
    failures: Mapping[str, str] = field(default_factory=dict)
    """By child: why it failed."""

    @property
    def exit_code(self) -> int:
        """1 where a child failed."""
        return 1 if self.failures else 0

    def lines(self) -> list[str]:
        """What a person reads."""
        shown = []
        if self.output is not None:
            shown += [*overview(self.report).text(), "", self.report["method"]]
            shown += [f"report: {self.output.path / name}" for name in REPORT_FILES]
        shown.append(f"MLflow parent run {self.parent_run_id}")
        if self.failures:
            shown.append(
                f"{len(self.failures)} of {self.num_children} children failed; run the command "
                "again to go on with them"
            )
            shown += [f"  {label}: {reason}" for label, reason in self.failures.items()]
        return shown

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": None if self.output is None else str(self.output.path),
            "parent_run_id": self.parent_run_id,
            "failures": dict(self.failures),
            "report": dict(self.report),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What an ablation would do."""

    shared: Sequence[tuple[str, str]]
    """Dataset and state of what several children need."""
    children: Sequence[tuple[str, str]]
    """Label and state of each child."""

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            "shared stages:",
            *(f"  {name}: {state}" for name, state in self.shared),
            f"{len(self.children)} children:",
            *(f"  {name}: {state}" for name, state in self.children),
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "shared": [{"dataset": name, "state": state} for name, state in self.shared],
            "children": [{"child": name, "state": state} for name, state in self.children],
        }
