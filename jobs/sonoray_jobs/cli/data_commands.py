"""Commands on data, on the command line: their options, and the calls that they become."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sonoray_jobs.cli.options import Common
from sonoray_jobs.results import Result

DatasetArgument = Annotated[str, typer.Argument(help="Name of the ingested dataset.")]


class Action(StrEnum):
    """What to do with the quarantine."""

    LIST = "list"
    RETRY = "retry"
    LOCATE = "locate"


def audit(
    common: Common,
    dataset: DatasetArgument,
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="PATH", help="Copy the page to a .html file or a folder."),
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Show patients' texts, on the page and in the JSON.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 on leakage or conflicting labels.")
    ] = False,
    distance: Annotated[
        int | None,
        typer.Option(
            "--distance", metavar="BITS", min=0, max=127,
            help="Differing bits up to which two images are one; default: as in ingest.",
        ),
    ] = None,
) -> Result:  # fmt: skip
    """Check a dataset before training: leakage, duplicates, contradictions, repeated texts.

    Prints counts and findings and writes a page with charts and sample images. It shows patients'
    images and stays in the workspace, unless --html copies it.

    Examples:
        sonoray audit busbra
        sonoray audit busbra --html busbra.html --strict
    """
    from sonoray_jobs.data.audit import run

    return run(**common, dataset=dataset, html=html, texts=texts, strict=strict, distance=distance)


def quarantine(
    common: Common,
    action: Annotated[
        Action,
        typer.Argument(
            help="list; retry: ingest the same source again; locate: name the files of a private "
            "source, or the objects of a server."
        ),
    ],
    dataset: DatasetArgument,
    *,
    reason: Annotated[
        str | None, typer.Option("--reason", help="list: rows of this reason alone.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--show", metavar="N", help="list: most rows; --json has all.", min=0)
    ] = 20,
) -> Result:
    """Show what ingest rejected and why, or try again after files or limits were changed.

    A retry reads the source as it is now, with this configuration. The dataset's name moves to the
    new version only if that succeeds. The rows of a private source have keyed hashes for names;
    locate reads it again, or asks the server what it has, and prints the names, which identify, on
    this terminal alone.

    Examples:
        sonoray quarantine list busbra --reason unreadable
        sonoray quarantine locate kidney
        sonoray quarantine retry busbra --set ingest.images.max_pixels=50000000
    """
    from sonoray_jobs.data import quarantine

    if action is Action.LIST:
        return quarantine.list_rows(**common, dataset=dataset, reason=reason, show=rows)
    if action is Action.LOCATE:
        return quarantine.locate(**common, dataset=dataset)
    return quarantine.retry(**common, dataset=dataset)


def ingest(
    common: Common,
    source: Annotated[
        str, typer.Argument(help="Kind of source: phantom, dicom, table, video, busbra, ...")
    ],
    location: Annotated[
        str | None,
        typer.Argument(metavar="[PATH|URL]", help="The source's folder or file, or its address."),
    ] = None,
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the dataset; default: the source's.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where they lie apart.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Language of a bilingual set: zh or en.")
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            "--reports",
            help="dicom, dicomweb: CSV or JSON lines with study_uid or accession, report.",
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query",
            metavar="KEY=VALUE",
            help="dicomweb: attribute of the studies to look for; repeatable.",
        ),
    ] = None,
) -> Result:
    """Read a source into studies: decode, hash, split by patient, quarantine what is unusable.

    The source's name becomes the dataset's unless --name gives another. A name that stood for other
    data moves to these; a line says so, and the other data stay in the workspace. Nothing is
    dropped without being counted. docs/sources.md lists the sources and what each expects.

    Examples:
        sonoray ingest phantom
        sonoray ingest busbra ../shared/data/busbra
        sonoray ingest dicom ../archive.zip --name kidney --reports reports.csv
        sonoray ingest dicomweb https://pacs.example.org/dicom-web --query StudyDate=20200101-
        sonoray ingest table studies.csv --images scans --name thyroid
        sonoray ingest slake ../shared/data/slake --language zh
    """
    from sonoray.ingest.source_options import SourceOptions, locate
    from sonoray_jobs.data.ingest import run

    options = SourceOptions(
        **locate(source, location),
        name=name,
        images=images,
        language=language,
        reports=reports,
        query=tuple(query) if query else None,
    )
    return run(**common, dataset=source, options=options)
