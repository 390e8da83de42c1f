"""Evaluation on the command line: one model, here or elsewhere, two models, many variants."""

from typing import TYPE_CHECKING, Annotated

import typer

from sonoray_jobs.cli.command import job_command
from sonoray_jobs.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_WORKSPACE,
    AddressOption,
    ConfigOption,
    DatasetOption,
    RunOption,
    SetOption,
    WorkspaceOption,
    parse_integers,
)
from sonoray_jobs.results import Result

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import RoadConfig

app = typer.Typer()
PANEL = "Evaluation"


@job_command(app, panel=PANEL)
def evaluate(
    *,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="whole; tower: linear probes of the encoders; language: the language model told "
            "the findings in words; all: the three in one table that says where errors come from.",
        ),
    ] = "whole",
    gallery: Annotated[
        int | None,
        typer.Option(
            "--gallery", metavar="N", help="Studies to show with images, 6; mode whole.", min=0
        ),
    ] = None,
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Answer a split's questions and compare with the constant answer, with 95 % intervals.

    Intervals are clustered by patient. The gallery shows answers beside images; it stays in the
    workspace, as the predictions do.

    Examples:
        sonoray evaluate
        sonoray evaluate --dataset busbra --config busbra --split validation
        sonoray evaluate --run phantom-3f2a --set evaluate.max_tokens=200
        sonoray evaluate --run phantom-3f2a --mode all
    """
    from sonoray_jobs.evaluation.modes import error_sources

    return error_sources.run(
        workspace=workspace,
        road=road,
        dataset=dataset or road.dataset,
        mode=mode,
        split=split,
        gallery=gallery,
        run=run,
        address=address,
    )


@job_command(app, panel=PANEL)
def validate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="models:/NAME@ALIAS, or an exported folder."),
    ] = None,
    *,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Ingested dataset that it was not trained on.")
    ],
    split: Annotated[
        str, typer.Option("--split", help="all, train, validation or test of that dataset.")
    ] = "all",
    run: RunOption = None,
    workspace: "Workspace",
    road: "RoadConfig",
    address: AddressOption = None,
) -> Result:
    """Judge an exported model on a dataset of others: figures, calibration, groups, differences.

    Studies whose images the model learned from are set aside. The truth of a topic is a turn or a
    label of the dataset; section `external` says what it is called there. One HTML page.

    Examples:
        sonoray validate models:/llava-ultra-phantom@champion --dataset other
        sonoray validate model --dataset other --set external.topics.pathology=diagnosis
        sonoray validate --run phantom-3f2a --dataset other
    """
    from sonoray_jobs.evaluation.external import validate
    from sonoray_jobs.outputs.registered import model_of

    return validate.run(
        workspace=workspace,
        road=road,
        model=model_of(workspace, model, run),
        dataset=dataset,
        split=split,
        address=address,
    )


@job_command(app, panel=PANEL)
def compare(
    first: Annotated[str, typer.Argument(help="MLflow run id or name, or evaluation folder.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    *,
    split: Annotated[
        str | None, typer.Option("--split", help="Split of both; default: the folder's, else test.")
    ] = None,
    disagreements: Annotated[
        int,
        typer.Option("--show", metavar="N", help="Disagreements to list, with answers.", min=0),
    ] = 0,
    workspace: "Workspace",
) -> Result:
    """Compare two evaluations question by question: differences, intervals and p values.

    A difference is second minus first, resampled over patients. --show prints patients' texts.

    Examples:
        sonoray compare phantom-3f2a phantom-91bc --show 5
        sonoray compare .sonoray/stages/evaluate-A .sonoray/stages/evaluate-B --json
    """
    from sonoray_jobs.evaluation.compare import run

    return run(workspace=workspace, first=first, second=second, split=split, show=disagreements)


@job_command(app, panel=PANEL)
def runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Runs to put side by side: MLflow name, training or run id, or a beginning.",
        ),
    ] = None,
    *,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="'KEY OP VALUE'",
            help="Only those that are so, with = != > >= < <= or ~ (contains); repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option("--sort", metavar="KEY", help="Low to high; -KEY: high to low; else by time."),
    ] = "",
    columns: Annotated[
        str, typer.Option("--columns", metavar="KEY,KEY", help="What is shown of each run.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Most runs.", min=1)] = 50,
    experiment: Annotated[
        str, typer.Option("--experiment", help="MLflow experiment; default: all.")
    ] = "",
    workspace: "Workspace",
) -> Result:
    """List what MLflow has: trainings with their evaluations, ablations; or compare some.

    A KEY is a fact (state, started, minutes, dataset, user), a metric, a setting or a tag.

    Examples:
        sonoray runs
        sonoray runs --where 'test/accuracy > 0.8' --sort -test/accuracy
        sonoray runs --where dataset=phantom --columns state,train.seed,validation_loss
        sonoray runs phantom-3f2a phantom-91bc
    """
    from sonoray_jobs.evaluation.listing.list_runs import run

    return run(
        workspace=workspace,
        names=names or (),
        where=where or (),
        sort=sort,
        columns=[key.strip() for key in columns.split(",") if key.strip()],
        limit=limit,
        experiment=experiment,
    )


@job_command(app, panel=PANEL)
def ablate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="visual, sampling, balance, site-cue, modality, objectives, towers or "
            "recognition.",
        ),
    ],
    *,
    dataset: DatasetOption = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Training seeds of every variant.")
    ] = "0,1,2",
    variants: Annotated[
        str | None,
        typer.Option("--variants", metavar="NAME,NAME", help="Only some; see --dry-run."),
    ] = None,
    redundancy: Annotated[
        str | None,
        typer.Option(
            "--redundancy",
            metavar="N,N",
            help="sampling on the phantom: images per study, one of which shows the finding.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option("--split", help="validation to choose settings, test to report them once."),
    ] = "test",
    label: Annotated[
        str | None,
        typer.Option("--label", help="modality: the label that tells kinds apart; default: organ."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, help="Most children at once; default: what fits."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List children, and what is done of them, and stop.")
    ] = False,
    folder: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    address: AddressOption = None,
) -> Result:
    """Train variants of a road with several seeds in parallel, and compare them.

    Writes a report as Markdown, JSON and PNG, also to a parent run in MLflow. Run it again to go
    on after an interruption or with the children that failed. Exits with 1 if one failed.

    Examples:
        sonoray ablate visual --dry-run
        sonoray ablate sampling --redundancy 3,9 --variants distilled,feature,random
        sonoray ablate balance --dataset busbra --config busbra --seeds 0,1,2,3,4
        sonoray ablate visual --config busbra --dataset busbra --split validation
        sonoray ablate modality --label organ --parallel 2
        sonoray ablate recognition --variants words,dkam,layer=-1,image_tokens=1
    """
    from sonoray.workspace import Workspace
    from sonoray_jobs.evaluation.ablation.ablate import plan, run
    from sonoray_jobs.evaluation.ablation.choice import Choice
    from sonoray_jobs.road.config import load_road

    # not `road`: --dry-run lists children instead of the configuration, which is named in a report
    road = load_road(config, overrides or [])
    workspace = Workspace.open(folder, create=not dry_run)
    choice = Choice(
        name=name,
        dataset=dataset or road.dataset,
        seeds=parse_integers("--seeds", seeds),
        variants=tuple(variants.split(",")) if variants else (),
        redundancies=parse_integers("--redundancy", redundancy) if redundancy else (),
        split=split,
        label=label,
        config=config,
        overrides=tuple(overrides or ()),
    )
    if name == "recognition":  # judged by classes and not by questions
        from sonoray_jobs.evaluation.ablation import ways

        if dry_run:
            return ways.plan(workspace=workspace, road=road, choice=choice)
        return ways.run(workspace=workspace, road=road, choice=choice, address=address)
    if dry_run:
        return plan(workspace=workspace, road=road, choice=choice)
    return run(workspace=workspace, road=road, choice=choice, parallel=parallel, address=address)


@job_command(app, panel=PANEL)
def sweep(
    *,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY:SPEC",
            help="A setting: KEY:[A, B], KEY:LOW..HIGH or KEY:log LOW..HIGH; repeatable.",
        ),
    ],
    dataset: DatasetOption = None,
    search: Annotated[
        str, typer.Option("--search", help="optuna, random, or grid over lists.")
    ] = "optuna",
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="How many; of a grid, as many as it has.")
    ] = 20,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="validation_loss, validation_hit, or of an evaluation: validation/accuracy.",
        ),
    ] = "validation_loss",
    mode: Annotated[
        str, typer.Option("--mode", help="min or max; default: min of a loss, else max.")
    ] = "",
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="End trials that fall behind (ASHA).")
    ] = False,
    grace: Annotated[
        int, typer.Option("--grace", min=1, help="Validations before a trial may be ended.")
    ] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the search.")] = 0,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Most trials at once; default: fits.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the search, say what it would do, and stop.")
    ] = False,
    folder: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    address: AddressOption = None,
) -> Result:
    """Search settings for the best value of a metric, on the validation split, with Ray Tune.

    Every trial is a training that --run takes. Run it again to go on after an interruption or with
    the trials that failed. Table, JSON and pictures, also in a parent run in MLflow.

    Examples:
        sonoray sweep --over 'model.lora.rank:[4, 8]' --search grid --metric validation/accuracy
        sonoray sweep --set train.validate_every=epoch --over train.seed:0..99 --trials 5
        sonoray sweep --set train.validate_every=epoch --stop-early --trials 30
            --over 'train.stages.1.learning_rate:log 1e-4..1e-2' --over 'model.lora.rank:[4, 8]'
    """
    from sonoray.workspace import Workspace
    from sonoray_jobs.evaluation.sweeping.search import Search
    from sonoray_jobs.evaluation.sweeping.sweep import plan, run
    from sonoray_jobs.road.config import load_road

    # not `road`: --dry-run shows the search instead of the configuration, which a report names
    road = load_road(config, overrides or [])
    chosen = Search(
        dataset=dataset or road.dataset,
        over=tuple(over),
        method=search,
        trials=trials,
        metric=metric,
        mode=mode,
        stop_early=stop_early,
        grace=grace,
        seed=seed,
        config=config,
        overrides=tuple(overrides or ()),
    )
    if dry_run:
        return plan(road=road, search=chosen)
    workspace = Workspace.open(folder, create=True)
    return run(workspace=workspace, road=road, search=chosen, parallel=parallel, address=address)
