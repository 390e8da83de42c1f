"""Release on the command line: what a model costs, and the folder that it leaves in."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    DatasetOption,
    RunOption,
    SetOption,
)
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
PANEL = "Release and service"


@job_command(app, panel=PANEL)
def describe(
    *,
    images: Annotated[int, typer.Option("--images", help="Images of a study.", min=1)] = 9,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", help="Tokens of a question with its answer.", min=2)
    ] = 128,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> Result:
    """Print what a configuration's model costs: parameters, tokens, FLOPs and memory.

    Nothing is allocated: the parts run without values. Needs no Ray, no workspace and no GPU.

    Examples:
        sonoray describe --config paper
        sonoray describe --config base --set train.precision=bfloat16 --json
    """
    from sonoray_jobs.release.describe import run
    from sonoray_jobs.road.config import load_road

    road = load_road(config, overrides or [])  # not `road`: the result names the configuration
    return run(road=road, config=config, images=images, text_tokens=text_tokens)


@job_command(app, panel=PANEL)
def export(
    *,
    dataset: DatasetOption = None,
    run: RunOption = None,
    student: Annotated[
        bool, typer.Option("--student", help="Its student too, as `export.student` says.")
    ] = False,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Write the trained model with its manifest and its cards, and register it in MLflow.

    The manifest pins every part by its digest. The first version of a name becomes its champion;
    later ones leave the champion where it is (sonoray promote).

    Examples:
        sonoray export
        sonoray export --dataset busbra --config busbra
        sonoray export --run phantom-3f2a
        sonoray export --run phantom-3f2a --student
    """
    from sonoray_jobs.release import export

    if student:
        told = road.export.model_copy(update={"student": True})
        road = road.model_copy(update={"export": told})
    return export.run(workspace=workspace, road=road, dataset=dataset or road.dataset, run=run)


@job_command(app, panel=PANEL)
def promote(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="models:/NAME/VERSION or models:/NAME@ALIAS."),
    ] = None,
    *,
    alias: Annotated[str, typer.Option("--alias", help="Alias to move.")] = "champion",
    despite: Annotated[
        str,
        typer.Option("--despite", metavar="REASON", help="Overrule gates; MLflow keeps it."),
    ] = "",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
) -> Result:
    """Let an alias name a version, if its files, digests, card and paired test say that it may.

    The test compares the answers of both versions to the questions that both were tested on. Exits
    with 1 if a gate stops it.

    Examples:
        sonoray promote models:/llava-ultra-phantom/2
        sonoray promote models:/llava-ultra-phantom/2 --alias canary --set promote.margin=0.02
    """
    from sonoray_jobs.outputs.registered import model_of
    from sonoray_jobs.release import promote

    named = model_of(workspace, model, run)
    return promote.run(workspace=workspace, road=road, model=named, alias=alias, despite=despite)


@job_command(app, panel=PANEL)
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the registered model.")],
    *,
    alias: Annotated[str, typer.Option("--alias", help="Alias to take back.")] = "champion",
    workspace: "Workspace",
) -> Result:
    """Let an alias name the version that it named before.

    A version whose files are gone is refused. A running service keeps its model until it restarts.

    Examples:
        sonoray rollback llava-ultra-phantom
        sonoray rollback llava-ultra-busbra --alias canary
    """
    from sonoray_jobs.release.promote import roll_back

    return roll_back(workspace=workspace, name=name, alias=alias)
