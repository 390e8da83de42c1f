"""Make report pages: images of reports whose text is known, with questions and answers.

The reports are the phantom's records of patients beyond its dataset, set as pages with a header and
a table of measurements, or those of a split of a dataset, whose texts alone are set. Each report
becomes a page for every kind of capture and strength, so that what a capture costs is seen on the
same text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.documents.document_config import DocumentsConfig, PageKind
from sonoray.documents.page_capture import capture
from sonoray.documents.page_drawing import draw_page, fits
from sonoray.documents.page_folder import IMAGES, DocumentPage, write_pages
from sonoray.documents.page_records import FINDINGS, FOOTER, TITLE, iter_records
from sonoray.documents.report_page import PageQuestion, ReportPage
from sonoray.errors import ConfigError, DataError
from sonoray.images.decode import Pixels
from sonoray.study.contract import SPLITS, Task, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.extraction.fields import FIELDS, find_fields
from sonoray_jobs.road.config import RoadConfig

ALL = "all"
"""Every split of a dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadePages:
    """What was written."""

    folder: str
    num_reports: int
    num_pages: int
    num_questions: int
    num_too_long: int
    """Reports of the dataset that are longer than a page."""

    def lines(self) -> list[str]:
        """What a person reads."""
        left = f"; {self.num_too_long} longer than a page left out" if self.num_too_long else ""
        return [
            f"{self.num_pages} pages of {self.num_reports} reports with {self.num_questions} "
            f"questions{left}: {self.folder}",
            f"to answer them: sonoray documents evaluate {self.folder}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return asdict(self)


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str | None = None,
    split: str | None = None,
    out: Path | None = None,
) -> MadePages:
    """Write pages and questions.

    Args:
        workspace: has the dataset, and gives the default folder, `<workspace>/pages`.
        road: section `documents` says how many and how they are captured, `phantom` whose.
        dataset: whose reports are set; by default the phantom's records.
        split: of the dataset, or `ALL`; by default `test`, since a model is judged by pages of
            patients that it did not learn from.
        out: another folder; what was made there before is replaced.

    Raises:
        ConfigError: a split is given and no dataset.
        DataError: there is no font for the texts, no such dataset, split or report, or the folder
            cannot be written or holds files that were not made.
    """
    from sonoray.cluster.progress import progress

    settings, left_out = road.documents, 0
    if dataset is None and split is not None:
        raise ConfigError(
            f"--split {split} is of a dataset, and the phantom's pages have none; give --dataset, "
            "or leave it out"
        )
    if dataset is None:
        count = settings.records
        records = iter_records(road.phantom, count, settings.seed)
    else:
        texts, left_out = _texts(workspace, dataset, split or "test", settings)
        count = len(texts)
        records = (_of_text(number, *text) for number, text in enumerate(texts))
    pages = (  # drawn as they are written: a page takes megabytes
        page
        for number, (report, questions) in enumerate(progress(records, "draw pages", total=count))
        for page in _captures(number, report, questions, settings)
    )
    folder = out if out is not None else workspace.root / "pages"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = write_pages(folder, pages)
    except OSError as error:
        raise DataError(
            f"folder {str(folder)!r} cannot be written ({error.strerror}); choose another --out"
        ) from None
    return MadePages(
        folder=str(folder),
        num_reports=count,
        num_pages=len(written),
        num_questions=sum(len(page.questions) for page in written),
        num_too_long=left_out,
    )


def _captures(
    number: int,
    report: ReportPage,
    questions: Sequence[PageQuestion],
    settings: DocumentsConfig,
) -> Iterator[tuple[DocumentPage, Pixels]]:
    """A report in every capture."""
    drawn = draw_page(report)
    for place, (kind, strength) in enumerate(conditions(settings)):
        seed = np.random.SeedSequence(settings.seed, spawn_key=(number, place))
        pixels = capture(drawn.pixels, kind, strength, np.random.default_rng(seed))
        name = f"{IMAGES}/{number:05d}-{kind}" + (f"-{strength:g}" if strength else "")
        yield (
            DocumentPage(
                name=f"{name}.png",
                data=b"",
                kind=kind,
                strength=strength,
                record=report.record,
                lines=drawn.lines,
                fields=report.fields,
                questions=tuple(questions),
            ),
            pixels,
        )


def conditions(settings: DocumentsConfig) -> list[tuple[PageKind, float]]:
    """Kinds of capture with their strengths, each once; a screenshot has none."""
    found = [
        (kind, strength)
        for kind in settings.kinds
        for strength in ((0.0,) if kind == "screenshot" else settings.strengths)
    ]
    return list(dict.fromkeys(found))


def _texts(
    workspace: Workspace, dataset: str, split: str, settings: DocumentsConfig
) -> tuple[list[tuple[str, str]], int]:
    """Different reports of a split with their patients, drawn; and how many are too long."""
    if split not in (ALL, *SPLITS):
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join((ALL, *SPLITS))}")
    from sonoray.cluster.progress import progress

    folder = workspace.dataset(dataset).path
    studies = iter_studies(folder, split=None if split == ALL else split, complete=False)
    texts = {
        turn.answer: study.patient_key
        for study in progress(studies, "read reports")
        for turn in study.turns
        if turn.task is Task.REPORT and turn.answer.strip()
    }
    fitting = sorted(text for text in texts if fits(_page(0, text, "")))
    if not fitting:
        raise DataError(
            f"dataset {dataset!r} has no report that fits a page (split {split}, {len(texts)} "
            "longer ones); choose another --split, or leave --dataset out for the phantom's"
        )
    rng = np.random.default_rng(settings.seed)
    chosen = rng.permutation(len(fitting))[: settings.records].tolist()
    return [(fitting[at], texts[fitting[at]]) for at in chosen], len(texts) - len(fitting)


def _of_text(number: int, text: str, patient: str) -> tuple[ReportPage, list[PageQuestion]]:
    """A page of a text alone; asked are the fields that stand in it once, and all of it."""
    page = _page(number, text, patient)
    found = find_fields(text)
    questions = [
        PageQuestion(question=f"报告中的{name}是什么？", answer=own[0], task="entity")
        for name in FIELDS
        if len(own := [field.value for field in found if field.name == name]) == 1
    ]
    questions += [
        PageQuestion(question="检查号是什么？", answer=page.header[0][1], task="entity"),
        PageQuestion(question=f"{FINDINGS}写了什么？", answer=text, task="short"),
    ]
    return page, questions


def _page(number: int, text: str, patient: str) -> ReportPage:
    return ReportPage(
        record=patient,
        title=TITLE,
        header=(("检查号", f"US{number:08d}"),),
        measurements=(),
        sections=((FINDINGS, text),),
        footer=FOOTER,
    )
