"""Analysis on the command line: what methods there are, what a model withstands and knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.evaluation_commands import PANEL
from sonoray_jobs.cli.options import (
    AddressOption,
    DatasetOption,
    KeyFileOption,
    RunOption,
    parse_numbers,
)
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()


@job_command(app, panel=PANEL)
def methods(
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="fusion, sampling, objective, pretraining, decoding, perturbation, probe, loop or "
            "student; repeatable; default: all.",
        ),
    ] = None,
) -> Result:
    """List the methods that a setting, a request or a command turns on.

    Each with what it does, its paper, what it needs and what it costs.

    Examples:
        sonoray methods
        sonoray methods --kind probe
    """
    from sonoray_jobs.methods import list_methods

    return list_methods.run(kinds=kind or ())


@job_command(app, panel=PANEL)
def recognize(
    *,
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="NAME|FILE",
            help="A packaged bank (breast-zh, chest-en, ...), or a .toml, .jsonl or .txt file.",
        ),
    ],
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="all, train, validation or test.")] = "test",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Recognise classes in a dataset's studies from features, also classes never trained on.

    The model must have been trained with the objective "recognition". Where studies have labels,
    figures follow: threshold of best F1 as the papers choose it, and of the validation split.

    Examples:
        sonoray recognize --classes phantom-zh
        sonoray recognize --classes names.txt --dataset mine --split all --run phantom-3f2a
        sonoray recognize --classes breast-zh --dataset busbra --set recognize.against=prompts
    """
    from sonoray_jobs.evaluation.recognition import recognize

    return recognize.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        classes=classes,
        split=split,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def robustness(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            "--perturb",
            metavar="KIND",
            help="zoom, blur, gain, speckle, gamma, jpeg, shadow, haze, caliper, tint, typos or "
            "wrong-claim; repeatable; default: all.",
        ),
    ] = None,
    strengths: Annotated[
        str, typer.Option("--strengths", metavar="X,X", help="Above 0, at most 1.")
    ] = "0.2,0.4,0.6,0.8,1",
    references: Annotated[
        int,
        typer.Option(
            "--references",
            metavar="N",
            help="Training images that show what each perturbation does to the features, so that "
            "it is recognised and undone there, as 64; 0: judge without.",
            min=0,
        ),
    ] = 0,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Judge a model on images and questions that are not as they were: other gain, haze, typos.

    The closed questions of a split, under every perturbation at every strength: accuracy, paired
    differences from the clean images, whether the same image is picked, and what calibrating the
    features gains. Table, JSON and curves, also in MLflow.

    Examples:
        sonoray robustness
        sonoray robustness --run phantom-3f2a --perturb gain --perturb shadow --strengths 0.5,1
        sonoray robustness --dataset busbra --config busbra --references 64
    """
    from sonoray_jobs.evaluation.robustness import assess

    return assess.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        kinds=perturb or (),
        strengths=parse_numbers("--strengths", strengths),
        references=references,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def probe(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Ask linear probes of the frozen towers the closed questions: what is known before an answer.

    With --run the model's answers stand beside: what a probe has and the model has not was lost
    behind the towers. Also lists answers in the dataset that the features of other patients
    contradict (suspects.csv), as wrong labels do.

    Examples:
        sonoray probe
        sonoray probe --run phantom-3f2a
        sonoray probe --dataset busbra --config busbra --set 'evaluate.topics=["pathology"]'
    """
    from sonoray_jobs.evaluation.probing import probe

    return probe.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL, name="probe-states")
def probe_states(
    *,
    targets: Annotated[
        Path | None,
        typer.Option(
            "--targets",
            metavar="FILE",
            help="CSV with a column study_id or image, and a column of numbers for each target; "
            "default: the dataset's labels.",
        ),
    ] = None,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="train, validation, test or all.")] = "test",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Score how well the states of each layer predict numbers: encoding models.

    Ridge regressions from the decoder's states, with each instruction and with none, to the
    columns of a table or to what the labels say; judged on patients that they did not learn from,
    beside the towers' features and, where a study was measured several times, the noise ceiling.

    Examples:
        sonoray probe-states
        sonoray probe-states --run phantom-3f2a --split all
        sonoray probe-states --targets strain.csv --set 'states.instructions=["是否有钙化？"]'
    """
    from sonoray_jobs.evaluation.encoding import probe_states as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        split=split,
        targets=targets,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL, name="second-opinion")
def second_opinion(
    *,
    topic: Annotated[
        str, typer.Option("--topic", help="Topic of the closed question whose answers are doubted.")
    ],
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="train, validation, test or all.")] = "test",
    noise: Annotated[
        float | None,
        typer.Option("--plant", metavar="X", help="Plant this share of errors first, as 0.2."),
    ] = None,
    claims: Annotated[
        str | None,
        typer.Option(
            "--claims",
            metavar="DATASET",
            help="Doubt what the texts of this dataset of the same pictures claim.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth", metavar="DATASET", help="The true answers, where this one was relabelled."
        ),
    ] = None,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Find answers that look wrong, and ask the model about them: true or false, by exemplars.

    The features of other patients pick suspect answers. The model keeps or changes each, or is
    undecided; how it is asked is checked on answers that are not suspect. Writes opinions.jsonl and
    labels.csv, which sonoray relabel makes a dataset of. With known errors: found and broken.

    Examples:
        sonoray second-opinion --topic calcification
        sonoray second-opinion --topic pathology --run busbra-3f2a --plant 0.2
        sonoray second-opinion --topic pathology --run busbra-3f2a --claims captions
        sonoray second-opinion --topic margin --dataset noisy --truth phantom --split all
    """
    from sonoray_jobs.evaluation.opinion import second_opinion as job

    return job.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        topic=topic,
        split=split,
        noise=noise,
        claims=claims,
        truth=truth,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def extract(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Read fields out of a split's Chinese reports: organ, size, echo, margin, grade.

    Adapters learn them from the training reports, whose fields rules find by their wording. With
    extract.contrast.strength three adapters and a guess without the report choose each token
    together, beside plain decoding: fields that the report does not hold, precision, recall, time.

    Examples:
        sonoray extract --dataset usreport --split validation
        sonoray extract --dataset usreport --split validation --set extract.contrast.strength=0.25
    """
    from sonoray_jobs.evaluation.extraction import extract as job

    return job.run(workspace=workspace, road=road, dataset=dataset or road.dataset, split=split)


@job_command(app, panel=PANEL, name="write-bank")
def write_bank(
    *,
    classes: Annotated[
        str,
        typer.Option("--classes", metavar="NAME|FILE", help="The bank to add descriptions to."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new bank, a .toml file.")],
    dataset: DatasetOption = None,
    studies: Annotated[
        int, typer.Option("--studies", min=1, help="Most studies of a class that are shown.")
    ] = 2,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="morphology, texture or context; repeatable; default: all.",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option("--url", help="The service's URL.")
    ] = "http://127.0.0.1:8000/v1",
    api_key_file: KeyFileOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Have a running service describe the classes of a bank, aspect by aspect, and keep what fits.

    It is shown training studies of each class. An answer is dropped that repeats another or names
    what the class excludes, or another class. Read the new bank before it is used.

    Examples:
        sonoray write-bank --classes phantom-zh --out mine.toml
        sonoray write-bank --classes breast-zh --dataset busbra --out mine.toml --role texture
    """
    from sonoray_jobs.service import class_writer

    return class_writer.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        classes=classes,
        out=out,
        studies=studies,
        roles=roles or tuple(class_writer.ROLES),
        url=url,
        api_key_file=api_key_file,
    )
