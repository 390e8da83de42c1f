"""Assist: a served model may call a risk model, and programs, before it answers.

After "Redefining digital health interfaces with LLMs" (arXiv 2310.03560), whose assistant calls a
cardiovascular risk model with its explanation. Asked are the closed questions of the risk's
outcome; beside it stand the same model asked once, and the risk model alone, on the same questions.
The output is a content-addressed stage; its trace holds what was said of patients and stays in the
workspace.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.files.json_files import write_json, write_whole
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import Study, Turn
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import asked_about, asked_studies
from sonoray_jobs.evaluation.roles.all_ways import closed_turns, drawn_studies
from sonoray_jobs.evaluation.structured.risk_stage import Material, risk_stage
from sonoray_jobs.evaluation.toolcalls.assist_report import (
    AskedOne,
    assist_table,
    judge_assisted,
)
from sonoray_jobs.evaluation.toolcalls.clinical_tools import ClinicalTool, ProgramTool, RiskTool
from sonoray_jobs.evaluation.toolcalls.tool_endpoint import ToolAnswering, ToolEndpoint
from sonoray_jobs.evaluation.toolcalls.tool_loop import assist, check_cap
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.connection import check_url, connected, find_model
from sonoray_jobs.service.sent_pictures import pictures_of
from sonoray_jobs.service.service_client import read_key

_TRACE, _REPORT = "trace.jsonl", ("assist.md", "assist-report.json")
_CODE = (
    "sonoray_jobs.evaluation.toolcalls.tool_loop",
    "sonoray_jobs.evaluation.toolcalls.assist_report",
    "sonoray_jobs.evaluation.toolcalls.program_run",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistedSplit:
    """A split's questions, answered with tools."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    remarks: Sequence[str] = ()
    """Of the columns."""

    def lines(self) -> list[str]:
        """What a person reads."""
        values = self.values
        called, asked = values["num_called"], values["num_questions"]
        told = [
            f"{self.split}: {asked} closed questions, tools offered by tool_choice "
            f"{values['tool_choice']}; accuracy with 95 % intervals over patients",
            *assist_table(values).text(),
            f"called in {called} of {asked} questions; "
            + ", ".join(f"{name} {count}" for name, count in values["outcomes"].items() if count),
            f"{values['calls']} calls of the service, {values['tokens']} tokens",
        ]
        if not called:
            told.append("the model called no tool: every answer is the plain one")
        return [*told, *self.remarks, f"trace: {self.output.path / _TRACE}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        told = {"split": self.split, "path": str(self.output.path), "remarks": list(self.remarks)}
        return {**told, **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    table: Path | None = None,
    max_studies: int = 50,
    max_calls: int = 4,
    url: str,
    api_key_file: Path | None = None,
) -> AssistedSplit:
    """Ask the closed questions of the risk's outcome, with tools and without.

    Args:
        workspace: has the dataset, and takes the trace.
        road: sections `assist` and `risk`.
        dataset: name of the dataset.
        split: whose studies are asked.
        table: a CSV of patient columns; by default the labels.
        max_studies: most of them, drawn by `evaluate.seed`.
        max_calls: most calls of the service for a question.
        url: base URL of the service.
        api_key_file: key file; by default the environment's key.

    Raises:
        ConfigError: the cap leaves too few calls, the URL is none, or a program cannot be started.
        DataError: nobody is asked about the outcome, or there is no column.
        ServingError: the service cannot be reached, refuses or answers nonsense.
    """
    check_cap(max_calls, road.assist.tool_choice == "required")
    check_url(url)
    programs = [
        ProgramTool(program=each, timeout_s=road.assist.timeout_s) for each in road.assist.programs
    ]
    for each in programs:
        each.check()
    workspace.require()
    model, risk, material = risk_stage(workspace, road, dataset, split, table)
    data = workspace.dataset(dataset)
    topic = road.risk.outcome
    everyone = asked_studies(data.path, road, split)
    topics = {turn.topic for study in everyone for turn in study.turns}
    studies = asked_about(everyone, [topic], topics)
    drawn = drawn_studies(studies, max_studies, road.evaluate.seed)
    asked = [(study, turn) for study in drawn for turn in closed_turns(study)]
    positive, negative = _options(material, topic)
    records = material.columns.of_study
    tools: list[ClinicalTool] = [
        RiskTool(model=model, records=records, positive=positive),
        *programs,
    ]

    def by_risk(study: Study) -> str:
        return positive if model.calls(records.get(study.study_id, {})) else negative

    with connected(url, read_key(api_key_file)) as connection:
        endpoint = ToolEndpoint(connection=connection, model=find_model(connection))

        def make(folder: Path) -> dict[str, Any]:
            found = _ask(data.path, road, asked, endpoint, tools, max_calls, by_risk)
            return _write(folder, road, found, positive)

        output = run_stage(
            Stage(
                name=f"assist-{dataset}-{split}",
                config={
                    "assist": road.assist.model_dump(mode="json"),
                    "programs": [each.contents for each in programs],
                    "max_calls": max_calls,
                    "asked": sha256(
                        json.dumps([[s.study_id, t.question] for s, t in asked]).encode()
                    ).hexdigest(),
                    "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
                },
                inputs=[data.key, risk.key, endpoint.model.digest],
                code=_CODE,
            ),
            workspace.stages,
            make,
        )
    return AssistedSplit(
        output=output,
        split=split,
        values=output.manifest["summary"],
        remarks=material.everything.remarks,
    )


def _options(material: Material, topic: str) -> tuple[str, str]:
    """The options that positive and other training studies answer."""
    told: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for study in material.training:
        for turn in study.turns:
            if turn.topic == topic and turn.options and study.study_id in material.truth:
                told[material.truth[study.study_id]][turn.answer] += 1
    if not all(told.values()):
        raise DataError(
            f"outcome {topic!r} is no closed question of the training studies, which a model could "
            "be asked; name a topic with risk.outcome"
        )
    return told[True].most_common(1)[0][0], told[False].most_common(1)[0][0]


def _ask(
    dataset: Path,
    road: RoadConfig,
    asked: Sequence[tuple[Study, Turn]],
    endpoint: ToolAnswering,
    tools: Sequence[ClinicalTool],
    max_calls: int,
    by_risk: Any,  # noqa: ANN401 - a study's answer by the risk model
) -> list[AskedOne]:
    from sonoray.cluster.progress import progress

    found = []
    for study, turn in progress(asked, "ask with tools"):
        given = (endpoint, turn.question, turn.options, pictures_of(dataset, study), study.study_id)
        alone = assist(*given, (), road.assist, 1)
        found.append(
            AskedOne(
                study_id=study.study_id,
                patient_key=study.patient_key,
                truth=turn.answer,
                alone=alone.answer,
                assisted=assist(*given, tools, road.assist, max_calls),
                by_risk=by_risk(study),
            )
        )
    return found


def _write(
    folder: Path, road: RoadConfig, found: Sequence[AskedOne], positive: str
) -> dict[str, Any]:
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values = judge_assisted(found, positive, bootstrap)
    values["tool_choice"] = road.assist.tool_choice
    lines = (json.dumps(asdict(each), ensure_ascii=False) for each in found)
    write_whole(folder / _TRACE, "".join(f"{line}\n" for line in lines))
    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(assist_table(values).markdown()) + "\n", encoding="utf-8")
    write_json(as_json, values)
    return values
