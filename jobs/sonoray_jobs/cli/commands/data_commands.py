"""Data on the command line: ingest, the phantom, and the check of a dataset before training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import AddressOption, DatasetArgument
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
PANEL = "Data"


@job_command(app, panel=PANEL, makes_workspace=True)
def ingest(
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
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="published[:FOLD]",
            help="pocovid, slake, usreport: the split that the set was published with.",
        ),
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            "--reports",
            help="dicom, dicomweb: CSV or JSON lines with study_uid or accession, report.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="NAME=COLUMN,...",
            help="Columns of a table that have other names; + joins several into one text.",
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
    charset: Annotated[
        str | None,
        typer.Option(
            "--charset",
            metavar="NAME",
            help="dicom, dicomweb: character set of the headers, in place of what they declare.",
        ),
    ] = None,
    address: AddressOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Read a source into studies: decode, hash, split by patient, quarantine what is unusable.

    The source's name becomes the dataset's unless --name gives another. A name that stood for other
    data moves to these; a line says so, and the other data stay in the workspace. Nothing is
    dropped without being counted. docs/sources.md lists the sources and what each expects. With
    --set ingest.workers=4 a large archive is spread over Ray.

    Examples:
        sonoray ingest phantom
        sonoray ingest busbra ../shared/data/busbra
        sonoray ingest dicom ../archive.zip --name kidney --reports reports.csv
        sonoray ingest dicom scans --reports r.csv --columns report=所见+提示,accession=检查号
        sonoray ingest dicomweb https://pacs.example.org/dicom-web --query StudyDate=20200101-
        sonoray ingest table studies.csv --images scans --name thyroid
        sonoray ingest slake ../shared/data/slake --language zh --split published
    """
    from sonoray.ingest.source_options import SourceOptions, locate
    from sonoray_jobs.data.ingest import run

    options = SourceOptions(
        **locate(source, location),
        name=name,
        images=images,
        language=language,
        split=split,
        reports=reports,
        columns=tuple(columns) if columns else None,
        query=tuple(query) if query else None,
        charset=charset,
    )
    return run(workspace=workspace, road=road, dataset=source, options=options, address=address)


@job_command(app, panel=PANEL)
def relabel(
    dataset: DatasetArgument,
    table: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV with the columns study_id, topic, answer.")
    ],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the new dataset.")],
    only_closed: Annotated[
        bool,
        typer.Option(
            "--only-closed", help="Leave out reports, free texts and captions, which say the old."
        ),
    ] = False,
    workspace: "Workspace",
) -> Result:
    """Make a dataset with other answers to closed questions, of the same studies and images.

    Takes what sonoray second-opinion leaves (labels.csv), or a table that somebody wrote after a
    look at suspects. Stored features stay valid; train on it as on any dataset.

    Examples:
        sonoray relabel phantom labels.csv --name mended
        sonoray relabel busbra given.csv --name noisy --only-closed
    """
    from sonoray_jobs.data.relabel import run

    return run(
        workspace=workspace, dataset=dataset, table=table, name=name, only_closed=only_closed
    )


@job_command(app, panel=PANEL)
def phantom(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the contact sheet and examples.")
    ] = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Generate phantom studies and show some of them.

    Writes a contact sheet and the first studies with their texts.

    Examples:
        sonoray phantom --out phantom-examples
        sonoray phantom --set phantom.seed=7
    """
    from sonoray_jobs.data.phantom import run

    return run(workspace=workspace, road=road, out=out)


@job_command(app, panel=PANEL)
def audit(
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
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="DATASET", help="Another ingested dataset: what do they share?"
        ),
    ] = None,
    workspace: "Workspace",
) -> Result:  # fmt: skip
    """Check a dataset before training: leakage, duplicates, contradictions, repeated texts.

    Prints counts and findings and writes a page with charts and sample images. It shows patients'
    images and stays in the workspace, unless --html copies it.

    Examples:
        sonoray audit busbra
        sonoray audit busbra --html busbra.html --strict
        sonoray audit busbra --against busi
    """
    from sonoray_jobs.data.audit import run

    return run(
        workspace=workspace,
        dataset=dataset,
        html=html,
        texts=texts,
        strict=strict,
        distance=distance,
        against=against,
    )
