"""What learns beside a model or asks one with means of its own, on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.evaluation_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetOption, KeyFileOption, RunOption
from sonoray_jobs.cli.usage import Commands
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
_documents_group = typer.Typer(cls=Commands)
_COMMANDS = "Commands"

app.add_typer(_documents_group, name="documents", rich_help_panel=PANEL)

TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="CSV of patient columns, with a column study_id or image; default: the labels.",
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="validation or test.")]


@job_command(app, panel=PANEL)
def distil(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Teach a small classifier over the towers' features what a model answers to closed questions.

    It learns from the training studies: the true answers, the model's probabilities, its states
    and which images it looks at. On the split both are asked: accuracy, AUC, paired differences,
    and the CPU time of each.

    Examples:
        sonoray distil
        sonoray distil --run phantom-3f2a --set distil.states=0
        sonoray distil --dataset busbra --config busbra --set 'evaluate.topics=["pathology"]'
    """
    from sonoray_jobs.evaluation.student import distil as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def segment(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    gallery: Annotated[
        int,
        typer.Option("--gallery", metavar="N", help="Images to show with their outlines.", min=0),
    ] = 6,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Outline in images what words ask for, and judge it on the dataset's masks.

    The decoder's state of an instruction prompts SAM's mask decoder over cached features, which
    learns from the training images' masks; so do boxes, points and no prompt. Dice and IoU by
    patient, whether the words matter, diameters and areas, pictures.

    Examples:
        sonoray segment --run phantom-3f2a
        sonoray segment --run phantom-3f2a --set 'segment.instructions=[{text="分割结节。"}]'
        sonoray segment --dataset busbra --config busbra --set 'segment.prompts=["words","boxes"]'
    """
    from sonoray_jobs.evaluation.segmentation import segment as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        gallery=gallery,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def risk(
    *,
    dataset: DatasetOption = None,
    split: SplitOption = "test",
    table: TableOption = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="ID", help="Explain the risk of this study.")
    ] = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Predict an outcome from patient columns, explain each prediction, and show whom it fails.

    A calibrated logistic regression learns from training patients alone; columns that tell the
    outcome are left out and named. AUC, calibration and false negatives with intervals, also by
    group: site, device, bands of age, whatever column is named.

    Examples:
        sonoray risk
        sonoray risk --dataset busbra --set 'risk.groups=["device","side"]'
        sonoray risk --table patients.csv --set 'risk.bands={age=[40,60]}' --study 3f2a
    """
    from sonoray_jobs.evaluation.structured import predict_risk as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        table=table,
        study=study,
    )


@job_command(app, panel=PANEL)
def tell(
    *,
    dataset: DatasetOption = None,
    split: SplitOption = "test",
    table: TableOption = None,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Put patient columns in front of a trained model's closed questions, beside the plain prompt.

    In layers: the columns, as numbers or in words; what the risk model learned of them; the
    patient's risk by it. Another patient's columns are told too: where these do as well, columns
    told nothing. Paired differences of accuracy, AUC and false negatives.

    Examples:
        sonoray tell --run phantom-3f2a
        sonoray tell --run phantom-3f2a --set tell.style=words --set 'tell.names={size_mm="大小"}'
        sonoray tell --dataset busbra --config busbra --set 'tell.layers=["values","risk"]'
    """
    from sonoray_jobs.evaluation.telling import tell_columns as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        table=table,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def assist(
    *,
    dataset: DatasetOption = None,
    split: SplitOption = "test",
    table: TableOption = None,
    max_studies: Annotated[
        int, typer.Option("--max-studies", min=1, help="Most studies of the split.")
    ] = 50,
    max_calls: Annotated[
        int, typer.Option("--max-calls", help="Most calls of the service for a question.")
    ] = 4,
    url: Annotated[
        str, typer.Option("--url", help="The service's URL.")
    ] = "http://127.0.0.1:8000/v1",
    api_key_file: KeyFileOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Let a running service's model call the risk model, or programs, before it answers.

    Tools are offered by OpenAI's API. With assist.tool_choice=required the likeliest call is made
    once. Beside it stand the same model alone and the risk model alone. Never more than
    --max-calls; a tool that is unknown, late or answers nonsense is counted and ends nothing.
    A program reads {"study": ..., "arguments": {...}} and prints {"result": "..."}.

    Examples:
        sonoray assist --dataset busbra --config busbra --set assist.tool_choice=required
        sonoray assist --table patients.csv --set assist.timeout_s=2 --max-calls 3
        sonoray assist --set 'assist.programs=[{name="lab",command=["./lab.py"]}]'
    """
    from sonoray_jobs.evaluation.toolcalls import assist as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        table=table,
        max_studies=max_studies,
        max_calls=max_calls,
        url=url,
        api_key_file=api_key_file,
    )


@_documents_group.callback()
def _documents() -> None:
    """Ask about images of report pages: make pages with known answers, read them, judge answers.

    Each of the two commands has its own --help.

    Examples:
        sonoray documents make --out pages
        sonoray documents evaluate pages
    """


@job_command(_documents_group, panel=_COMMANDS, makes_workspace=True)
def make(
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Default: pages in the workspace."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Set the reports of this dataset; default: the phantom's."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Of that dataset: train, validation, test (default) or all."),
    ] = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Make images of Chinese report pages with questions and answers.

    Header, table of measurements, findings and impression; as a screenshot, a scan and a photograph
    of several strengths. Needs a font with Chinese characters (apt-get install fonts-noto-cjk).

    Examples:
        sonoray documents make --out pages
        sonoray documents make --set documents.records=8 --set 'documents.kinds=["scan"]'
        sonoray documents make --dataset usreport --split validation --out pages
    """
    from sonoray_jobs.evaluation.documents import make_pages

    return make_pages.run(workspace=workspace, road=road, dataset=dataset, split=split, out=out)


@job_command(_documents_group, panel=_COMMANDS, makes_workspace=True)
def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Images and questions.jsonl; pages.jsonl.")
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="models:/NAME@ALIAS, models:/NAME/VERSION or an exported folder; default: OCR and "
            "lookup alone.",
        ),
    ] = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Read pages with OCR and answer questions about them, by lookup and by a model.

    The model is asked over the text that was read, and over the image. Character errors and fields
    that are found, soft accuracy and ROUGE-L, by kind of page and of question; also in MLflow.
    A line of questions.jsonl: {"page": "a.png", "question": "?", "answer": "!", "task": "entity"}

    Examples:
        sonoray documents evaluate pages
        sonoray documents evaluate pages --model models:/llava-ultra-phantom@champion
        sonoray documents evaluate mine --set documents.upside_down=true --json
    """
    from sonoray_jobs.evaluation.documents import ask_pages

    return ask_pages.run(
        workspace=workspace, road=road, folder=folder, model=model, address=address
    )
