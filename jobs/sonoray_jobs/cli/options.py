"""The options that several subcommands have, each written once.

Reachable from `sonoray --help`, so nothing heavy is imported here.
"""

from pathlib import Path
from typing import Annotated

import typer

from sonoray.errors import ConfigError

DEFAULT_WORKSPACE = Path(".sonoray")
"""`sonoray.workspace.DEFAULT_WORKSPACE`, whose module is too heavy for `sonoray --help`."""
DEFAULT_CONFIG = "tiny"
_SHARED = "Options of several commands"

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", help="Folder that holds all outputs.", rich_help_panel=_SHARED),
]
ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="NAME|PATH",
        help="Packaged configuration (tiny, base, paper, busbra, evidence; with published weights: "
        "smollm2, qwen_tiny, qwen_small, qwen, qwen_large, mistral, smollm_large) or a TOML file; "
        "tiny where none is named.",
        rich_help_panel=_SHARED,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key; repeatable. The value is TOML, as in train.num_workers=1 "
        "or train.stages.1.epochs=1 or model.clip.feature_layers=[-2]; text needs no quotes.",
        rich_help_panel=_SHARED,
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME|ID",
        help="A finished training, by name or MLflow run id, with its settings; no --config.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved configuration as JSON and stop.",
        rich_help_panel=_SHARED,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Running Ray cluster to join; default RAY_ADDRESS, else a private Ray.",
        rich_help_panel=_SHARED,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_SHARED),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Ingested dataset; default: the road's.")
]
DatasetArgument = Annotated[str, typer.Argument(help="Name of the ingested dataset.")]
KeyFileOption = Annotated[
    Path | None, typer.Option("--api-key-file", help="File that holds the API key.")
]


def parse_integers(option: str, text: str) -> tuple[int, ...]:
    """Read a list like `0,1,2`.

    Raises:
        ConfigError: it is none, or a number is negative.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} {text!r} is not a list of numbers; write it like 0,1,2")
    return tuple(map(int, parts))


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read a list like `0.5,1`.

    Raises:
        ConfigError: it is none.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is not a list of numbers; write it like 0.5,1"
        ) from None
