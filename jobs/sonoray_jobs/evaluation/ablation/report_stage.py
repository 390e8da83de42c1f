"""The report of an ablation as a stage: made once for its trainings, shown by the parent run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.tracking.connection import Store
from sonoray.tracking.runs import log_results
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation import figure
from sonoray_jobs.evaluation.ablation.children import Child, Outcome
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.report import make_report, to_markdown
from sonoray_jobs.evaluation.ablation.variants import Ablation
from sonoray_jobs.road.config import RoadConfig

_CODE = (
    "sonoray_jobs.evaluation.ablation.report",
    "sonoray_jobs.evaluation.ablation.figure",
)
REPORT_FILES = ("report.md", "report.json", "report.png")


def write_report(
    workspace: Workspace,
    road: RoadConfig,
    choice: Choice,
    ablation: Ablation,
    outcomes: Sequence[tuple[Child, Outcome]],
    failures: Mapping[str, str],
    store: Store,
    parent: str,
) -> StageOutput:
    """Write the report as a stage and add it to the parent run."""
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)

    def make(folder: Path) -> dict[str, Any]:
        report = make_report(
            ablation,
            outcomes,
            sorted(failures),
            dataset=choice.dataset,
            split=choice.split,
            command=choice.command,
            parent_run_id=parent,
            bootstrap=bootstrap,
        )
        write_json(folder / "report.json", report)
        markdown = "\n".join(to_markdown(report, "report.png"))
        (folder / "report.md").write_text(markdown + "\n", encoding="utf-8")
        figure.draw(report, folder / "report.png")
        return {"run_id": parent, "num_children": len(outcomes), "num_failed": len(failures)}

    stage = Stage(
        name=f"ablate-{ablation.name}",
        config={
            "command": choice.command,
            "parent": parent,
            "bootstrap": bootstrap.model_dump(mode="json"),
            "failures": sorted(failures),
            "trainings": [[left.trained.name, left.trained.run_id] for _, left in outcomes],
        },
        inputs=[found.key for _, left in outcomes for found in left.evaluations.values()],
        code=_CODE,
    )
    output = run_stage(stage, workspace.stages, make)
    # every time: the parent may show the report of other seeds or variants
    log_results(store, parent, {}, {name: output.path / name for name in REPORT_FILES})
    return output


def read_report(output: StageOutput) -> dict[str, Any]:
    """The report that such a stage holds."""
    report: dict[str, Any] = json.loads((output.path / "report.json").read_text(encoding="utf-8"))
    return report
