"""`sonoray ablate` on the command line: its options, and the words that they become.

It stands beside `sonoray_jobs.cli.main` because its `--dry-run` lists children instead of the
configuration, and because it shows its result and yet exits with 1 where a child failed.
"""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from sonoray_jobs.cli.options import (
    DEFAULT_WORKSPACE,
    AddressOption,
    ConfigOption,
    DatasetOption,
    JsonOption,
    SetOption,
    WorkspaceOption,
    parse_integers,
    show,
)


def ablate(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="visual, sampling, balance, site-cue or modality."),
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
    label: Annotated[
        str | None,
        typer.Option("--label", help="modality: the label that tells kinds apart; default: organ."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, help="Most children at once; default: what fits."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = "tiny",
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List children, and what is done of them, and stop.")
    ] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train variants of a road with several seeds in parallel, and compare them.

    Writes a report as Markdown, JSON and PNG, also to a parent run in MLflow. Run it again to go
    on after an interruption or with the children that failed. Exits with 1 if one failed.

    Examples:
        sonoray ablate visual --dry-run
        sonoray ablate sampling --redundancy 3,9 --variants distilled,feature,random
        sonoray ablate balance --dataset busbra --config busbra --seeds 0,1,2,3,4
        sonoray ablate modality --label organ --parallel 2
    """
    from sonoray.workspace import Workspace
    from sonoray_jobs.evaluation.ablation.ablate import Choice, plan, run
    from sonoray_jobs.road.config import load_road

    road = load_road(config, overrides or [])
    opened = Workspace.open(workspace, create=not dry_run)
    choice = Choice(
        name=name,
        dataset=dataset or road.dataset,
        seeds=parse_integers("--seeds", seeds),
        variants=tuple(variants.split(",")) if variants else (),
        redundancies=parse_integers("--redundancy", redundancy) if redundancy else (),
        label=label,
        config=config,
        overrides=tuple(overrides or ()),
    )
    if dry_run:
        show(plan(workspace=opened, road=road, choice=choice), as_json=as_json)
        return
    with redirect_stdout(sys.stderr):  # stdout is the result's alone
        result = run(workspace=opened, road=road, choice=choice, parallel=parallel, address=address)
    show(result, as_json=as_json)
    raise typer.Exit(result.exit_code)
