"""Consult: several roles of a running service answer a question together, and each call is capped.

MAM is arXiv 2506.19835. Asked is one question about one study, or the closed questions of a split;
then the same model is held beside it, asked once, and as often as the roles called (`alone`). The
output is a content-addressed stage over the model's digest, the settings and the caps:
`trace.jsonl` has every call, `answers.parquet` every answer, `consult.md` and `consult-report.json`
figures alone. The trace holds what was said of patients and stays in the workspace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sonoray.errors import ConfigError, DataError
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import asked_studies
from sonoray_jobs.evaluation.roles.all_ways import (
    TRACE,
    Caps,
    begin_calls,
    compare,
    drawn_studies,
    read_trace,
    write_trace,
)
from sonoray_jobs.evaluation.roles.budget import check_caps
from sonoray_jobs.evaluation.roles.calls import Case, Endpoint
from sonoray_jobs.evaluation.roles.consult_report import ROLES, told
from sonoray_jobs.evaluation.roles.consultation import consult
from sonoray_jobs.evaluation.roles.memory import Memory, make_memory
from sonoray_jobs.evaluation.roles.wordings import ASSISTANT
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.connection import check_url, connected, find_model
from sonoray_jobs.service.sent_pictures import gather_pictures
from sonoray_jobs.service.service_client import read_key

_CODE = (
    "sonoray_jobs.evaluation.roles.all_ways",
    "sonoray_jobs.evaluation.roles.consultation",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Consultation:
    """One question, answered."""

    output: StageOutput
    verdict: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]

    def lines(self) -> list[str]:
        """What a person reads."""
        last = self.steps[-1]
        return [
            *(
                f"{step['round']} {step['role']}, {step['does']}: {step['answer']}"
                for step in self.steps
                if step["does"] != "look"
            ),
            f"A: {self.verdict['answer']}",
            f"{last['call']} calls, {last['total_tokens']} tokens, {self.verdict['rounds']} "
            f"rounds; ended: {self.verdict['ended']}",
            f"trace: {self.output.path / TRACE}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"path": str(self.output.path), **self.verdict, "steps": list(self.steps)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The closed questions of a split, answered in several ways."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What a person reads."""
        return [*told(self.values), f"trace: {self.output.path / TRACE}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    question: str | None,
    options: Sequence[str] = (),
    images: Sequence[Path] = (),
    study: str | None = None,
    dataset: str,
    split: str = "test",
    max_studies: int = 50,
    caps: Caps,
    url: str,
    api_key_file: Path | None = None,
) -> "Consultation | Compared":
    """Consult on one question where there is one, else on the closed questions of a split.

    Arguments and errors are those of `consult_one` and `consult_split`.
    """
    caps.check()
    workspace.require()
    if question is not None:
        return consult_one(
            workspace=workspace,
            road=road,
            question=question,
            options=options,
            images=images,
            study=study,
            dataset=dataset,
            caps=caps,
            url=url,
            api_key_file=api_key_file,
        )
    if images or study or options:
        raise DataError("images, --study and --option need --question; leave them out for a split")
    return consult_split(
        workspace=workspace,
        road=road,
        dataset=dataset,
        split=split,
        max_studies=max_studies,
        caps=caps,
        url=url,
        api_key_file=api_key_file,
    )


def consult_one(
    *,
    workspace: Workspace,
    road: RoadConfig,
    question: str,
    options: Sequence[str] = (),
    images: Sequence[Path] = (),
    study: str | None = None,
    dataset: str,
    caps: Caps,
    url: str,
    api_key_file: Path | None = None,
) -> Consultation:
    """Have the roles consult on one question about one study.

    Args:
        workspace: has the dataset that the assistant searches, and takes the trace.
        road: section `consult` says how; the service's limits count as for `sonoray ask`.
        question: the question.
        options: its answers to choose among; none of an open question.
        images: the study's files.
        study: or its name in the dataset.
        dataset: which one, and whose training reports the assistant searches.
        caps: what may be spent, and who takes part.
        url: base URL of the service.
        api_key_file: key file; by default the environment's key.

    Raises:
        ConfigError: the URL is none, a role is unknown, or a cap leaves no call.
        DataError: the study is not given, or the assistant has nothing to search.
        ServingError: the service cannot be reached, refuses or answers nonsense.
    """
    check_url(url)
    if len(options) == 1 or len(set(options)) < len(options):
        raise ConfigError("give --option for each answer, two or more different ones, or none")
    if bool(images) == (study is not None):
        raise DataError("give either the study's image files or --study, one of the two")
    pictures = tuple(gather_pictures(workspace, road, images, study, dataset))
    patient = _patient(workspace, dataset, study)
    with connected(url, read_key(api_key_file)) as connection:
        endpoint = Endpoint(connection=connection, model=find_model(connection))
        check_caps(caps.max_calls, caps.max_tokens, endpoint.context_length)
        memory, searched = _memory(workspace, road, dataset, endpoint, caps)
        case = Case(
            question=question,
            options=tuple(options),
            pictures=pictures,
            subject=question,
            patient_key=patient,
        )

        def make(folder: Path) -> dict[str, Any]:
            calls = begin_calls(endpoint, case, caps, road)
            verdict = consult(calls, road.consult, caps.roles, memory)
            write_trace(folder, [(case.subject, ROLES, step) for step in calls.steps])
            return asdict(verdict)

        output = run_stage(
            Stage(
                name="consult-question",
                config={
                    **_config(road, caps),
                    "question": question,
                    "options": list(options),
                    "images": [sha256(each.data).hexdigest() for each in pictures],
                },
                inputs=[endpoint.model.digest, *searched],
                code=_CODE,
            ),
            workspace.stages,
            make,
        )
    return Consultation(
        output=output,
        verdict=output.manifest["summary"],
        steps=tuple(read_trace(output.path)),
    )


def consult_split(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    max_studies: int = 50,
    caps: Caps,
    url: str,
    api_key_file: Path | None = None,
) -> Compared:
    """Have the roles consult on the closed questions of a split, and hold others beside them.

    Args:
        workspace: has the dataset.
        road: section `consult` says how, `evaluate.topics` about what.
        dataset: name of the dataset.
        split: whose studies are asked.
        max_studies: most of them, drawn by `evaluate.seed`.
        caps: what may be spent on a question, who takes part, and what it is held against.
        url: base URL of the service.
        api_key_file: key file; by default the environment's key.

    Raises:
        ConfigError: the URL is none, a role or another way is unknown, or a cap leaves no call.
        DataError: the split has no closed question, or the assistant has nothing to search.
        ServingError: the service cannot be reached, refuses or answers nonsense.
    """
    check_url(url)
    if split not in SPLITS[1:]:
        raise DataError(f"split {split!r} is none to ask; choose {' or '.join(SPLITS[1:])}")
    data = workspace.dataset(dataset)
    studies = drawn_studies(asked_studies(data.path, road, split), max_studies, road.evaluate.seed)
    with connected(url, read_key(api_key_file)) as connection:
        endpoint = Endpoint(connection=connection, model=find_model(connection))
        check_caps(caps.max_calls, caps.max_tokens, endpoint.context_length)
        memory, searched = _memory(workspace, road, dataset, endpoint, caps)
        output = run_stage(
            Stage(
                name=f"consult-{dataset}-{split}",
                config={
                    **_config(road, caps),
                    "max_studies": max_studies,
                    "only": road.evaluate.only,
                    "train": road.train.model_dump(
                        mode="json", include={"only", "hold_out", "max_studies"}
                    ),
                    "topics": list(road.evaluate.topics),
                    "site_cue": road.train.site_cue,
                    "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
                },
                inputs=[data.key, endpoint.model.digest, *searched],
                code=_CODE,
            ),
            workspace.stages,
            lambda folder: compare(folder, road, data.path, studies, endpoint, caps, memory),
        )
    return Compared(output=output, split=split, values=output.manifest["summary"])


def _patient(workspace: Workspace, dataset: str, study: str | None) -> str:
    if study is None:
        return ""
    folder = workspace.dataset(dataset).path
    return next(each.patient_key for each in iter_studies(folder) if each.study_id == study)


def _config(road: RoadConfig, caps: Caps) -> dict[str, Any]:
    return {"consult": road.consult.model_dump(mode="json"), "caps": asdict(caps)}


def _memory(
    workspace: Workspace, road: RoadConfig, dataset: str, endpoint: Endpoint, caps: Caps
) -> tuple[Memory | None, list[str]]:
    """What the assistant searches, and the key of it."""
    if ASSISTANT not in caps.roles:
        return None, []
    memory, made = make_memory(
        workspace, dataset, endpoint, road.train.hold_out, road.consult.memory_studies
    )
    return memory, [made.key]
