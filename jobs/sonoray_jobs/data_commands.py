"""Commands on data, on the command line: their options, and the calls that they become."""

from pathlib import Path
from typing import Annotated

import typer

from sonoray_jobs.options import Common, Result


def ingest(
    common: Common,
    source: Annotated[
        str, typer.Argument(help="Kind of source: phantom, dicom, table, video, busbra, ...")
    ],
    path: Annotated[Path | None, typer.Argument(help="The source's folder or file.")] = None,
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
            "--reports", help="dicom: CSV or JSON lines with study_uid or accession, report."
        ),
    ] = None,
) -> Result:
    """Read a source into studies: decode, hash, split by patient, quarantine what is unusable.

    The source's name becomes the dataset's unless --name gives another. Nothing is dropped without
    being counted. docs/sources.md lists the sources and what each expects.

    Examples:
        sonoray ingest phantom
        sonoray ingest busbra ../shared/data/busbra
        sonoray ingest dicom ../archive.zip --name kidney --reports reports.csv
        sonoray ingest table studies.csv --images scans --name thyroid
        sonoray ingest slake ../shared/data/slake --language zh
    """
    from sonoray_jobs.ingest import SourceOptions, run

    options = SourceOptions(path=path, name=name, images=images, language=language, reports=reports)
    return run(**common, dataset=source, options=options)
