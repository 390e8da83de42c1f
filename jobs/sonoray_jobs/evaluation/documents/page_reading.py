"""OCR of pages, as an actor and as a content-addressed stage.

`read.json` has the lines of every page, with their cells; it is a patient's text and stays in the
workspace.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

from sonoray.documents.page_folder import DocumentPage, decode_page
from sonoray.documents.page_layout import lines_of
from sonoray.documents.page_reader import PageReader
from sonoray.documents.report_page import Line
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.documents.page_pool import pool_rows
from sonoray_jobs.road.config import RoadConfig

READ = "read.json"
_CODE = ("sonoray.documents.page_layout", "sonoray.documents.page_reader")


class ReadingActor:
    """The networks in one process: images of pages in, lines out."""

    def __init__(self, *, upside_down: bool) -> None:
        self._reader = PageReader(upside_down=upside_down)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Read a batch of pages; `lines` is JSON, `cpu_s` the CPU time of a page."""
        found: dict[str, list[Any]] = {"page": [], "lines": [], "cpu_s": []}
        for page, data in zip(batch["page"], batch["data"], strict=True):
            begun = process_time()
            lines = lines_of(self._reader.read(decode_page(str(page), bytes(data))))
            found["page"].append(page)
            found["lines"].append(json.dumps(lines, ensure_ascii=False))
            found["cpu_s"].append(process_time() - begun)
        return found


def read_all(
    workspace: Workspace, road: RoadConfig, pages: Sequence[DocumentPage], address: str | None
) -> StageOutput:
    """Read pages, or find what was read of them.

    Raises:
        DataError: on a page nothing can be read.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    upside_down = road.documents.upside_down

    def make(folder: Path) -> dict[str, Any]:
        rows = pool_rows(
            [{"page": page.name, "data": page.data} for page in pages],
            actor=ReadingActor,
            given={"upside_down": upside_down},
            settings=road.evaluate,
            uses_gpus=False,
            address=address,
            what="read pages",
        )
        lines = {row["page"]: json.loads(row["lines"]) for row in rows}
        write_json(folder / READ, lines)
        return {
            "num_pages": len(rows),
            "num_empty": sum(not each for each in lines.values()),
            "cpu_s_a_page": sum(row["cpu_s"] for row in rows) / len(rows),
        }

    read = run_stage(
        Stage(
            name="read-pages",
            config={"upside_down": upside_down},
            inputs=[f"{page.name} {hashlib.sha256(page.data).hexdigest()}" for page in pages],
            code=_CODE,
        ),
        workspace.stages,
        make,
    )
    empty = next((name for name, lines in lines_read(read).items() if not lines), None)
    if empty is not None:
        raise DataError(
            f"nothing can be read on page {empty!r} ({read.manifest['summary']['num_empty']} of "
            f"{len(pages)} pages); take it out of the folder, or photograph it anew"
        )
    return read


def lines_read(read: StageOutput) -> dict[str, list[Line]]:
    """By page, its lines."""
    stored = json.loads((read.path / READ).read_text(encoding="utf-8"))
    return {name: [tuple(line) for line in lines] for name, lines in stored.items()}
