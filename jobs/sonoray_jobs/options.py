"""The options that several subcommands share, each written once for `sonoray_jobs.cli`."""

from pathlib import Path
from typing import Annotated

import typer

_COMMON = "Options of every job"

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", help="Folder that holds all outputs.", rich_help_panel=_COMMON),
]
ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="NAME|PATH",
        help="Packaged configuration (tiny, busbra) or a TOML file.",
        rich_help_panel=_COMMON,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, as in train.epochs=3; repeatable.",
        rich_help_panel=_COMMON,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved configuration as JSON and stop.",
        rich_help_panel=_COMMON,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Running Ray cluster to join; default RAY_ADDRESS, else a private Ray.",
        rich_help_panel=_COMMON,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_COMMON),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Ingested dataset; default: the road's.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option("--api-key-file", help="File that holds the API key.")
]
