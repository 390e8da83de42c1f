"""`sonoray describe` on the command line: it needs no workspace and no cluster."""

import sys
from contextlib import redirect_stdout
from typing import Annotated, Literal

import typer

from sonoray_jobs.cli.options import ConfigOption, JsonOption, SetOption, show


def describe(
    *,
    images: Annotated[int, typer.Option("--images", help="Images of a study.", min=1)] = 9,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", help="Tokens of a question with its answer.", min=2)
    ] = 128,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option("--dtype", help="Of the frozen weights; the jobs compute in float32."),
    ] = "float32",
    config: ConfigOption = "tiny",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a configuration's model costs: parameters, tokens, FLOPs and memory.

    Nothing is allocated: the parts run without values. Needs no Ray, no workspace and no GPU.

    Examples:
        sonoray describe --preset paper
        sonoray describe --preset base --set model.lora.rank=64 --dtype bfloat16 --json
    """
    from sonoray_jobs.release.describe import run
    from sonoray_jobs.road.config import load_road

    road = load_road(config, overrides or [])
    with redirect_stdout(sys.stderr):
        described = run(
            road=road, config=config, images=images, text_tokens=text_tokens, dtype=dtype
        )
    show(described, as_json=as_json)
