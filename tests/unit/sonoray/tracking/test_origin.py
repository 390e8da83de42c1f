"""Who made a run: true of this process, and without secrets."""

import subprocess
import sys
from pathlib import Path

import pytest

from sonoray import __version__
from sonoray.tracking.origin import command_line, git_commit, origin_tags


def test_the_tags_tell_user_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/x/bin/sonoray", "train", "--set", "embed.store=s3://anna:secret@store/b", "a b"]
    monkeypatch.setattr(sys, "argv", words)
    tags = origin_tags()
    assert tags["sonoray.command"] == "sonoray train --set embed.store=s3://***@store/b 'a b'"
    assert tags["version.sonoray"] == __version__
    assert tags["version.python"].count(".") == 2
    assert {"mlflow.user", "version.ray", "version.torch", "version.mlflow"} <= tags.keys()
    assert "torch" not in command_line()


def test_the_commit_is_that_of_the_sources_and_says_where_files_differ(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@localhost"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert git_commit(tmp_path) == ""
    git("init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit(package) == commit
    (package / "a.py").write_text("2")
    assert git_commit(package) == f"{commit}-dirty"
    installed = tmp_path / "site-packages"  # beside the repository's files, and none of them
    installed.mkdir()
    assert git_commit(installed) == ""
