"""The Makefile's entry: its help, and one clear line where the machine lacks something."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    "env",
    "published",
    "demo",
    "test",
    "test-k8s",
    "k8s-tools",
    "orthanc",
    "browser",
    "check",
    "format",
    "lock",
    "wheel",
    "bench",
    "bench-data",
    "clean",
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository root."""
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def executable(path: Path, script: str) -> str:
    """Write a shell script and return its path."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_help_lists_every_target():
    listed = {line.split()[1] for line in make("help").stdout.splitlines() if line.strip()}
    assert set(TARGETS) <= listed


def test_what_make_runs_keeps_the_bytecode_of_our_modules(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    given = make("--eval", "given: ; @env", "given").stdout.splitlines()
    assert "RAY_USAGE_STATS_ENABLED=0" in given
    assert not [line for line in given if line.startswith("PYTHONDONTWRITEBYTECODE=")]


def test_missing_python_is_one_line(tmp_path):
    result = make("env", f"VENV={tmp_path}/venv", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "error: no-such-python not found" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("fails_on", "message"),
    [
        ("version_info", "is Python 3.9.1, SonoRay needs 3.11 or newer"),
        ("ensurepip", "apt-get install python3-venv"),
        ("Python.h", "apt-get install python3-dev"),
    ],
)
def test_unfit_python_is_one_line_with_its_fix(tmp_path, fails_on, message):
    script = f'case "$*" in --version) echo Python 3.9.1 ;; *{fails_on}*) exit 1 ;; esac'
    python = executable(tmp_path / "python", script)
    result = make("env", f"VENV={tmp_path}/venv", f"PYTHON={python}")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "venv").exists()


def test_compiling_says_how_far_it_is_and_leaves_test_suites_out(tmp_path):
    (tmp_path / "package" / "tests").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "package" / f"m{number}.py").write_text(f"x = {number}\n")
    (tmp_path / "package" / "broken.py").write_text("def\n")
    (tmp_path / "package" / "tests" / "test_x.py").write_text("x = 1\n")
    script = [sys.executable, str(ROOT / ".ci" / "compile_bytecode.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    first, *steps = done.stdout.splitlines()
    assert first.startswith("compiling 21 modules")
    assert len(steps) == 10
    assert steps[-1] == "  21 of 21"
    assert done.stderr == ""
    compiled = {path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc")}
    assert compiled == {f"m{number}" for number in range(20)}
