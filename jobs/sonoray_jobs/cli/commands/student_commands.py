"""What learns from a finished model, on the command line: a small classifier, a segmenter."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.commands.evaluation_commands import PANEL
from sonoray_jobs.cli.options import AddressOption, DatasetOption, RunOption
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()


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
