"""Who made a run, with which command and which code: tags that MLflow's pages know how to show."""

import shlex
import subprocess
import sys
from getpass import getuser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sonoray import __version__
from sonoray.tracking.connection import shown_uri

_PACKAGES = ("ray", "torch", "transformers", "peft", "deepspeed", "open_clip_torch", "mlflow")
_GIT_TIMEOUT_S = 5
_MOST_CHARACTERS = 5000
"""Of a command, as MLflow's columns take them."""


def origin_tags() -> dict[str, str]:
    """User, command, git commit and versions of this process, as tags of a run."""
    tags = {
        "mlflow.user": getuser(),
        "mlflow.source.name": command_line(),
        "mlflow.source.type": "LOCAL",
        "sonoray.command": command_line(),
        "version.sonoray": __version__,
        "version.python": ".".join(map(str, sys.version_info[:3])),
    }
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    if commit := git_commit(Path(__file__).parent):
        tags["mlflow.source.git.commit"] = commit
    return tags


def command_line() -> str:
    """The command that runs, without passwords in its addresses."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return shown_uri(shlex.join(words))[:_MOST_CHARACTERS]


def git_commit(folder: Path) -> str:
    """The commit that a folder of sources stands at, `-dirty` where files differ; empty of none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or _git(folder, "ls-files", "--error-unmatch", ".") == "":
        return ""  # a package that is installed inside somebody's repository
    return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "-uno") else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            command, capture_output=True, text=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
