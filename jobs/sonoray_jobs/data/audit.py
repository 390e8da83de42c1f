"""Audit a dataset: counts, leakage, duplicates, contradictions, repeated texts, sample images.

The work is `sonoray.audit`. It runs in the driver, on threads: studies stream through twice, images
once, row group by row group, and what is held are numbers and hashes. The outcome is a stage, so
that the same dataset is audited once: `audit.json` with everything, `audit.html` to read, with the
pictures `overview.png`, `contact_sheet.png` and, where text was covered in images,
`burned_in_text.png`. The page and the sheet show patients' images
and stay in the workspace, unless `--html` says otherwise. Texts are shown with `--texts` only.
`--against` compares the dataset with another one (`overlap`). Rows of published sets name their
files.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.audit.json_values import add_files
from sonoray.audit.overview_tables import label_table, split_table, topic_table
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.stages import Stage, StageOutput, file_digests, run_stage
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data.leakage import near_duplicate_correlation, near_duplicate_distance
from sonoray_jobs.data.overlap import find_overlap

MAX_LISTED = 200
"""Most rows of each kind in `audit.json`; all are counted."""
NUM_SAMPLES = 8
"""Images in a row of the contact sheet."""
NUM_MASKED, MASKED_SIDE = 4, 400
"""Images in a row of the sheet of burned-in text, and their side in pixels, at which a name that
was left could be read."""
MAX_EVIDENCE = 12
"""Shared pictures that the page shows."""
MAX_PICTURES = 4
"""Images shown of each."""
PAGE, OVERVIEW, SHEET, VALUES = "audit.html", "overview.png", "contact_sheet.png", "audit.json"
MASKED = "burned_in_text.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """What was found, and where it stands."""

    path: str
    """Folder of the audit."""
    page: str
    values: Mapping[str, Any]
    """Content of `audit.json`."""
    reused: bool
    strict: bool

    @property
    def exit_code(self) -> int:
        """1 where serious findings were asked to fail."""
        serious = any(each["serious"] for each in self.values["findings"])
        return 1 if self.strict and serious else 0

    def lines(self) -> list[str]:
        """What a person reads."""
        values = self.values
        rows = [f"dataset {values['dataset']}: {values['path']}"]
        for name, count in values["accounting"].items():
            rows.append(
                f"{name}: {count['seen']} seen = {count['kept']} kept + {count['duplicate']} "
                f"duplicate + {count['quarantined']} quarantined"
            )
        rows += ["", *split_table(values).text(), "", *label_table(values).text()]
        rows += ["", *topic_table(values).text(), ""]
        rows += [
            f"no patient, image or near duplicate is in two splits ({values['rule']})"
            if not any(values["leakage"]["counts"].values())
            else "LEAKAGE: "
            + ", ".join(f"{kind} {n}" for kind, n in values["leakage"]["counts"].items())
        ]
        rows += [
            f"  {row['kind']} in {', '.join(row['splits'])}: {_names(row)}"
            for row in values["leakage"]["rows"]
        ]
        rows += [
            f"  conflict of {row['kind']} {row['name']}"
            + (f" ({' / '.join(row['values'])})" if row["values"] else "")
            + f": {_names(row)}"
            for row in values["conflicts"]["rows"]
            if row["exact"]
        ]
        if against := values["against"]:
            rows.append(
                f"against {against['dataset']}: {against['shared']} of {against['images']} images, "
                f"{against['sharing']} of {against['patients']} patients are there too "
                f"({against['exact']} images with the same pixels; {against['rule']})"
            )
        rows += [
            f"{'serious' if each['serious'] else 'warning'}: {each['message']}"
            for each in values["findings"]
        ] or ["nothing to warn of"]
        return [*rows, f"page: {self.page}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {**self.values, "page": self.page, "exit_code": self.exit_code}


def run(
    *,
    workspace: Workspace,
    dataset: str,
    html: Path | None = None,
    texts: bool = False,
    strict: bool = False,
    distance: int | None = None,
    against: str | None = None,
) -> Audited:
    """Audit the dataset called `dataset`; a second time, nothing is done.

    Args:
        workspace: where the dataset is and the audit goes.
        dataset: name of the dataset.
        html: a file, or a folder, that gets a copy of the page and, in a folder, of the pictures.
        texts: whether the outcome may hold patients' texts.
        strict: whether serious findings make the exit code 1.
        distance: differing bits up to which two images are one picture, by default as in ingest.
        against: another dataset, to see what the two share.

    Raises:
        DataError: there is no such dataset, or `html` cannot be written.
    """
    from sonoray.audit.page import template_digest
    from sonoray.audit.pictures import text_font

    ingested = workspace.dataset(dataset)
    other = None if against is None else workspace.dataset(against)
    correlation = near_duplicate_correlation(ingested)
    if distance is None:
        distance = near_duplicate_distance(ingested)
    tables = _table_digests(ingested.path)
    others = {} if other is None else _table_digests(other.path)
    font = text_font()
    stage = Stage(
        name=f"audit-{dataset}",
        config={
            "texts": texts,
            "distance": distance,
            "correlation": correlation,
            "against": against,
            "font": font.name if font else None,
            "template": template_digest(),
        },
        inputs=[ingested.key, *tables.values(), *([other.key] if other else ()), *others.values()],
        code=[__name__],
    )

    def make(folder: Path) -> dict[str, Any]:
        overlap = (
            None
            if other is None
            else find_overlap(ingested, other, name=str(against), max_listed=MAX_LISTED)
        )
        return _write(
            folder,
            dataset,
            ingested,
            workspace,
            tables,
            rule=(distance, correlation),
            texts=texts,
            overlap=overlap,
        )

    output = run_stage(stage, workspace.stages, make)
    return Audited(
        path=str(output.path),
        page=str(_copy(output.path, html, dataset) if html else output.path / PAGE),
        values=json.loads((output.path / VALUES).read_text(encoding="utf-8")),
        reused=output.reused,
        strict=strict,
    )


def _table_digests(folder: Path) -> dict[str, str]:
    """Digests of the study tables as they are now; images are named by their content anyway."""
    return {f"studies/{name}": digest for name, digest in file_digests(folder / "studies").items()}


def _write(
    folder: Path,
    dataset: str,
    ingested: StageOutput,
    workspace: Workspace,
    tables: Mapping[str, str],
    *,
    rule: tuple[int, float],
    texts: bool,
    overlap: dict[str, Any] | None,
) -> dict[str, Any]:
    import numpy as np

    from sonoray.audit.census import Census, find_texts
    from sonoray.audit.charts import draw_overview
    from sonoray.audit.findings import Audit, find_all
    from sonoray.audit.json_values import to_values
    from sonoray.audit.links import Links
    from sonoray.audit.lookalikes import Looks, find_looks
    from sonoray.audit.page import render_page
    from sonoray.audit.pictures import draw_pairs, draw_sheet
    from sonoray.audit.samples import Samples
    from sonoray.audit.terms import TermCheck
    from sonoray.cluster.progress import progress
    from sonoray.privacy.keys import IdentityKey
    from sonoray.study.contract import TEXT_MASKED_LABEL
    from sonoray.study.image_table import read_images
    from sonoray.study.near_duplicates import describe_rule

    summary = ingested.manifest["summary"]
    total = summary["studies"]["kept"]
    distance, correlation = rule
    found_looks = find_looks(
        ingested, workspace, max_distance=distance, min_correlation=correlation
    )
    looks = Looks.read(found_looks.path)
    census, terms = Census(), TermCheck(max_listed=MAX_LISTED)
    links = Links(looks, max_listed=MAX_LISTED)
    studies = iter_studies(ingested.path, complete=False)
    for study in progress(studies, "count studies", total):
        census.add(study)
        terms.add(study)
        links.add(study)
    counts = census.finish()
    wanted = {
        topic.topic: {digest for digest, _ in topic.top}
        for topic in counts.topics
        if topic.is_closed or texts
    }
    found: dict[bytes, str] = {}
    again = progress(iter_studies(ingested.path, complete=False), "compare studies", total)
    label = counts.sampled_label()
    samples = Samples(label.name if label else None, num_images=NUM_SAMPLES)
    masked = Samples(TEXT_MASKED_LABEL, num_images=NUM_MASKED, of_images=True)
    report = links.finish(
        masked.watch(samples.watch(find_texts(again, wanted, found))),
        categories={label.name for label in counts.labels if label.num_values},
    )
    marked = looks.mask_shares[np.nan_to_num(looks.mask_shares) > 0]
    audit = Audit(
        counts=counts,
        links=report,
        terms=terms,
        summary=summary,
        num_masks=int(np.isfinite(looks.mask_shares).sum()),
        num_empty_masks=int((looks.mask_shares == 0).sum()),
        mask_share=float(np.median(marked)) if len(marked) else None,
        changed_files=tuple(
            name
            for name, digest in tables.items()
            if ingested.manifest["files"].get(name) != digest
        ),
        against=overlap,
    )
    values = to_values(audit, texts=found, show_texts=texts) | {
        "dataset": dataset,
        "path": f"stages/{ingested.path.name}",  # in the workspace, wherever that lies
        "rule": describe_rule(*rule),
        "against": overlap,
        "findings": [asdict(each) for each in find_all(audit)],
    }
    if IdentityKey.public().fingerprint in ingested.manifest["inputs"]:
        add_files(values, iter_studies(ingested.path, complete=False))
    rows, pairs = samples.rows(), _pairs(values)
    covered = masked.rows() if any(value for value, _ in masked.rows()) else {}
    lists = (*rows.values(), *pairs.values(), *covered.values())
    shown = {image_id for ids in lists for image_id in ids}
    pictures = read_images(ingested.path, sorted(shown & looks.positions.keys()))
    draw_overview(values, folder / OVERVIEW)
    draw_sheet(label.name if label else "", rows, pictures, folder / SHEET)
    evidence = draw_pairs(pairs, pictures)
    if covered:
        draw_sheet(TEXT_MASKED_LABEL, covered, pictures, folder / MASKED, side=MASKED_SIDE)
    page = render_page(
        values,
        folder / OVERVIEW,
        folder / SHEET,
        evidence,
        masked=folder / MASKED if covered else None,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    write_json(folder / VALUES, values)
    return {"findings": len(values["findings"]), "studies": total}


def _names(row: Mapping[str, Any]) -> str:
    """The files of a row, where the set is public; else its studies."""
    return " ".join(row.get("files") or row["studies"])


def _pairs(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Choose the image pairs to show: leakage, then conflicts, then what links patients."""
    rows = [
        *(values["leakage"]["rows"]),
        *(values["conflicts"]["rows"]),
        *(values["duplicates"]["rows"]),
    ]
    chosen: dict[str, list[str]] = {}
    for row in rows:
        images = list(dict.fromkeys(row["images"]))[:MAX_PICTURES]
        if row["kind"] != "patient" and images and len(chosen) < MAX_EVIDENCE:
            chosen.setdefault(" ".join(row["studies"]), images)
    return chosen


def _copy(folder: Path, target: Path, dataset: str) -> Path:
    """Copy the page to a file, or the page and the pictures into a folder; return the page."""
    try:
        if target.suffix == ".html":
            target.parent.mkdir(parents=True, exist_ok=True)
            return Path(shutil.copyfile(folder / PAGE, target))
        target.mkdir(parents=True, exist_ok=True)
        for name in (OVERVIEW, SHEET, *([MASKED] if (folder / MASKED).exists() else [])):
            shutil.copyfile(folder / name, target / f"{dataset}-{name}")
        return Path(shutil.copyfile(folder / PAGE, target / f"{dataset}-{PAGE}"))
    except OSError as error:
        raise DataError(
            f"--html {str(target)!r} cannot be written ({error.strerror}); give a .html file or a "
            "folder"
        ) from None
