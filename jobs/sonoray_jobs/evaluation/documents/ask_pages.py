"""Document questions: pages are read by OCR, and questions answered over their text and image.

After RJUA-MedDQA (arXiv 2402.14840), whose measures are `sonoray.metrics.reading.soft_answers`. Two
content-addressed stages: what OCR read of the pages, and the answers: by lookup of labels, by the
language part of an exported model over the text that was read, by the whole model over the image.
`read.json` and `answers.parquet` hold texts of patients and stay in the workspace; `documents.md`
and `documents.json` hold figures alone, and go to the MLflow run of the model.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.config.canonical import content_hash
from sonoray.documents.page_folder import QUESTIONS, DocumentPage, read_pages
from sonoray.documents.report_page import Line
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.metrics.reading.soft_answers import ROUGE, SOFT
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.documents.document_report import (
    CONSTANT,
    LOOKUP,
    TRUE_TEXT,
    Answered,
    capture_of,
    constant_answers,
    differences_table,
    judge_answers,
    judge_reading,
    reading_table,
    tasks_table,
)
from sonoray_jobs.evaluation.documents.field_lookup import look_up, read_layout
from sonoray_jobs.evaluation.documents.page_reading import lines_read, read_all
from sonoray_jobs.road.config import RoadConfig

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store
    from sonoray_jobs.evaluation.external.exported_model import ExportedModel

ANSWERS = "answers.parquet"
_REPORT = ("documents.md", "documents.json")
_CODE = (
    "sonoray_jobs.evaluation.documents.document_report",
    "sonoray_jobs.evaluation.documents.page_asking",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentAnswers:
    """Questions about pages, answered and judged."""

    output: StageOutput
    values: Mapping[str, Any]
    """Content of `documents.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        values = self.values
        model = f"; model: {values['model']}" if values["model"] else ""
        return [
            f"{values['num_pages']} pages of {values['num_records']} reports, "
            f"{values['num_questions']} questions; {values['cpu_s_a_page']:.1f} s of CPU time to "
            f"read a page{model}; 95 % intervals over reports",
            *reading_table(values).text(),
            "",
            *tasks_table(values).text(),
            "",
            *differences_table(values).text(),
            f"answers: {self.output.path / ANSWERS}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    folder: Path,
    model: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> DocumentAnswers:
    """Read the pages of a folder, answer its questions, judge both.

    Args:
        workspace: where what is read and answered lies.
        road: section `documents` says how, `evaluate` the longest answer and the room of actors.
        folder: pages and questions (`sonoray.documents.page_folder`).
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or an exported folder; None asks none.
        address: Ray cluster.
        tracking_uri: MLflow's store, by default the configured one.

    Raises:
        DataError: the folder lacks pages or questions, or a page cannot be read.
        CheckpointError: the model is missing or damaged.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the model.
    """
    workspace.require("sonoray documents make")
    pages = read_pages(folder)
    if not any(page.questions for page in pages):
        raise DataError(f"folder {str(folder)!r} has no question in {QUESTIONS}; add some")
    exported, store = _find_model(workspace, model, tracking_uri)
    read = read_all(workspace, road, pages, address)
    settings = road.documents
    output = run_stage(
        Stage(
            name="documents",
            config={
                "pages": content_hash([_known(page) for page in pages]),
                "passage_chars": settings.passage_chars,
                "max_tokens": road.evaluate.max_tokens,
                "precision": road.evaluate.precision,
                "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
            },
            inputs=[read.key, *([exported.digest] if exported else [])],
            code=_CODE,
        ),
        workspace.stages,
        lambda made: _make(made, road, pages, read, exported, store, address),
    )
    return DocumentAnswers(output=output, values=output.manifest["summary"])


def _find_model(
    workspace: Workspace, model: str | None, tracking_uri: str | None
) -> "tuple[ExportedModel | None, Store | None]":
    if model is None:
        return None, None
    from sonoray.tracking.connection import open_store
    from sonoray_jobs.evaluation.external.exported_model import open_exported

    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    return open_exported(model, store, workspace), store


def _known(page: DocumentPage) -> dict[str, Any]:
    """What is known of a page beside its image, as JSON values."""
    return {
        "page": page.name,
        "capture": capture_of(page),
        "record": page.record,
        "lines": [list(line) for line in page.lines],
        "fields": dict(page.fields),
        "questions": [asdict(each) | {"options": list(each.options)} for each in page.questions],
    }


def _make(
    folder: Path,
    road: RoadConfig,
    pages: Sequence[DocumentPage],
    read: StageOutput,
    exported: "ExportedModel | None",
    store: "Store | None",
    address: str | None,
) -> dict[str, Any]:
    """Answer, judge, write into `folder`, log figures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.tracking.runs import log_results, run_of_model

    run_id = ""
    if exported is not None and store is not None:
        run_id = run_of_model(
            store,
            exported.run_id,
            name=exported.name,
            experiment=road.experiment,
            tags={"sonoray.model": exported.digest},
        )
    lines = lines_read(read)
    said = _without_model(pages, lines)
    if exported is not None:
        said |= _of_model(road, pages, lines, exported, address)
    answered = [
        Answered(
            page=page.name,
            record=page.record,
            capture=capture_of(page),
            task=each.task,
            way=way,
            question=each.question,
            truth=each.answer,
            answer=answers[page.name][number],
        )
        for way, answers in said.items()
        for page in pages
        for number, each in enumerate(page.questions)
    ]
    rows = [{**asdict(each), "score": each.score} for each in answered]
    pq.write_table(pa.Table.from_pylist(rows), folder / ANSWERS)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values: dict[str, Any] = {
        "num_pages": len(pages),
        "num_records": len({page.record for page in pages}),
        "num_questions": sum(len(page.questions) for page in pages),
        "captures": dict(Counter(map(capture_of, pages))),
        "cpu_s_a_page": read.manifest["summary"]["cpu_s_a_page"],
        "model": exported.name if exported else "",
        "reading": judge_reading(pages, lines, bootstrap),
        "answers": judge_answers(answered, bootstrap),
    }
    markdown, as_json = (folder / name for name in _REPORT)
    tables = (reading_table(values), tasks_table(values), differences_table(values))
    text = "\n\n".join("\n".join(table.markdown()) for table in tables)
    markdown.write_text(text + "\n", encoding="utf-8")
    write_json(as_json, values)
    if store is not None:
        shown = f"documents/{content_hash([read.key, road.documents.passage_chars])[:6]}"
        ways = values["answers"]["ways"]
        headlines = {
            f"{shown}/{way}/{name}".replace(",", "").replace(" ", "_"): own[name]["value"]
            for way, own in ways.items()
            for name in (SOFT, ROUGE)
            if own[name]
        }
        artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
        log_results(store, run_id, headlines, artifacts)
    return {**values, "run_id": run_id}


def _without_model(
    pages: Sequence[DocumentPage], lines: Mapping[str, Sequence[Line]]
) -> dict[str, dict[str, list[str]]]:
    """By way and page, answers by lookup and the constant ones."""
    constant = constant_answers(pages)
    said: dict[str, dict[str, list[str]]] = {CONSTANT: {}, LOOKUP: {}}
    if all(page.lines for page in pages):
        said[TRUE_TEXT] = {}
    for page in pages:
        layout = read_layout(lines[page.name])
        said[CONSTANT][page.name] = [
            constant[page.record, each.question] for each in page.questions
        ]
        said[LOOKUP][page.name] = [look_up(each, layout) for each in page.questions]
        if TRUE_TEXT in said:
            written = read_layout(page.lines)
            said[TRUE_TEXT][page.name] = [look_up(each, written) for each in page.questions]
    return said


def _of_model(
    road: RoadConfig,
    pages: Sequence[DocumentPage],
    lines: Mapping[str, Sequence[Line]],
    exported: "ExportedModel",
    address: str | None,
) -> dict[str, dict[str, list[str]]]:
    """By way and page, the model's answers."""
    from llava_ultra.export.assistant import load_assistant
    from sonoray_jobs.evaluation.documents.page_asking import IMAGE, TEXT, AskingActor
    from sonoray_jobs.evaluation.documents.page_pool import pool_rows

    settings = road.evaluate
    device = "cuda" if settings.actor_gpus else "cpu"
    rows = [
        {
            "page": page.name,
            "data": page.data,
            "asked": json.dumps(
                {
                    "lines": lines[page.name],
                    "questions": [(each.question, each.options) for each in page.questions],
                },
                ensure_ascii=False,
            ),
        }
        for page in pages
        if page.questions
    ]
    found = pool_rows(
        rows,
        actor=AskingActor,
        given={
            "load": partial(load_assistant, exported.folder, device, settings.precision),
            "max_tokens": settings.max_tokens,
            "passage_chars": road.documents.passage_chars,
        },
        settings=settings,
        uses_gpus=True,
        address=address,
        what="ask the model about pages",
    )
    answers = {row["page"]: json.loads(row["answers"]) for row in found}
    return {
        way: {page.name: answers[page.name][way] if page.questions else [] for page in pages}
        for way in (TEXT, IMAGE)
    }
