"""A command line that cannot be read is a user's mistake like any other: one line, with its fix.

click tells such a mistake in a usage line, a hint and a box. It leaves out the value that it
refuses, and the command whose option lacks a value. What it says stays, with the names that it
finds close to a wrong one; the value and the help page to open are added here. A value of many
pages, as of a text that stands where a name should, is cut in the middle.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from sonoray.errors import ConfigError

_LONGEST = 240
"""Characters of a mistake; three lines of a terminal."""


class Commands(TyperGroup):
    """The root of the subcommands; mistakes in its use and in theirs become a `ConfigError`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own class
        """Read the options that stand before the subcommand; without anything, show the help."""
        if not args:
            typer.echo(ctx.get_help())
            raise typer.Exit(ConfigError.exit_code)
        with _as_our_error(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own class
        """Find the subcommand, read its own options and run it."""
        with _as_our_error(ctx):
            return super().invoke(ctx)


@contextmanager
def _as_our_error(context: typer.Context) -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        text = _shortened(_with_value(error).rstrip("."))
        run = " Run" if text.endswith("?") else "; run"
        known = getattr(error, "ctx", None)  # not where an option has a wrong number of values
        command = (
            known.command_path
            if known
            else " ".join(filter(None, [context.command_path, context.invoked_subcommand]))
        )
        raise ConfigError(f"{text[0].lower()}{text[1:]}{run}: {command} --help") from None


def _shortened(text: str) -> str:
    """The text in one line, without its middle where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:160]} ... {line[-60:]}"


def _with_value(error: typer.TyperException) -> str:
    """What click says, and the value that pydantic refused."""
    from pydantic import ValidationError

    text = error.format_message().replace("Value error, ", "")
    if isinstance(error.__cause__, ValidationError):
        value = repr(error.__cause__.errors()[0]["input"])
        return text if value in text else f"{text}, not {value}"
    return text


def accepts(name: str, arguments: Sequence[str]) -> str:
    """What is wrong with a subcommand and its arguments, empty where nothing is; it is not run.

    Args:
        name: of the subcommand.
        arguments: what would follow its name.
    """
    from sonoray_jobs.cli.main import app

    root: Any = typer.main.get_command(app)
    if name not in root.commands:
        return f"there is no command {name!r}"
    try:
        root.commands[name].make_context(name, list(arguments))
    except typer.TyperException as error:
        return _shortened(_with_value(error).rstrip("."))
    return ""
