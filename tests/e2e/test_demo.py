"""The demo: the whole road from nothing, and as a person starts it again, with nothing to do."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sonoray_jobs.demo import STEPS
from sonoray_jobs.road.config import RoadConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def to_toml(value: Any) -> str:
    """A JSON value in one line of TOML, which has no null."""
    match value:
        case dict():
            items = ((key, to_toml(item)) for key, item in value.items() if item is not None)
            return "{" + ", ".join(f"{json.dumps(key)} = {text}" for key, text in items) + "}"
        case list():
            return "[" + ", ".join(map(to_toml, value)) + "]"
        case _:
            return json.dumps(value)


def write_road(road: RoadConfig, path: Path) -> Path:
    sections = road.model_dump(mode="json").items()
    path.write_text("".join(f"{key} = {to_toml(value)}\n" for key, value in sections))
    return path


def demo(workspace: Path, road: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo in a Ray of its own."""
    command = [sys.executable, "-m", "sonoray_jobs.cli", "demo"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "--workspace", str(workspace), "--config", str(road)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "(raylet)" not in done.stderr  # Ray's remarks on workers and on Serve's end
    return done


def answers(shown: str) -> list[str]:
    return re.findall(r"^  答: (.*)$", shown, re.MULTILINE)


def test_the_demo_shows_the_whole_road(finished_road):
    shown = "\n".join(finished_road.shown.lines())
    assert len(re.findall(r"^  问: \S", shown, re.MULTILINE)) == 3
    assert len(re.findall(r"^  真: \S", shown, re.MULTILINE)) == 3
    assert len(answers(shown)) == 3
    used = r"^  used image \d \(\d+%\) of \d; scores [01]\.\d\d( [01]\.\d\d)*$"
    assert len(re.findall(used, shown, re.MULTILINE)) == 3
    share = r"[01]\.\d{3}"
    assert re.search(
        rf"^closed questions: accuracy {share}, constant answer {share}$", shown, re.MULTILINE
    )
    assert "仅供科研使用" in shown
    assert "mlflow ui --backend-store-uri" in shown
    (command,) = re.findall(r"^  (sonoray ask .*)$", shown, re.MULTILINE)
    *pictures, option, question = shlex.split(command)[2:]
    assert option == "--question"
    assert question == finished_road.shown.replies[-1].question
    assert len(pictures) == len(finished_road.shown.replies[-1].images)
    assert all(Path(picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert f"  source {Path(sys.prefix, 'bin', 'activate')}\n" in shown
    assert list(finished_road.shown.seconds) == ["start", *STEPS, "serve"]
    assert not finished_road.trained.reused


def test_a_second_demo_reuses_everything(finished_road, tmp_path):
    road = write_road(finished_road.road, tmp_path / "road.toml")
    second = demo(finished_road.workspace.root, road)
    assert "dataset phantom (unchanged)" in second.stderr
    for part in ("language", "sam", "clip"):
        assert re.search(rf"^{part}: .*\(reused\)", second.stderr, re.MULTILINE)
    assert re.search(r"^all \d+ images were embedded before$", second.stderr, re.MULTILINE)
    assert "reused phantom-" in second.stderr
    assert "trained phantom-" not in second.stderr
    assert "registered before: models:/llava-ultra-phantom/1, " in second.stderr
    assert answers(second.stdout) == answers("\n".join(finished_road.shown.lines()))
