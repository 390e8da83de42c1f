"""A published language model beside the bootstrapped one, through the whole road, in two languages.

`make published && python bench/data/published_language.py [--languages en,zh] [--set KEY=VALUE]`

For `tiny` and `smollm2`, each in English and in Chinese: ingest, bootstrap, embed, train, evaluate
and export by their commands, each model in a workspace of its own, so that towers and language
model learn from the same texts. Printed are closed accuracy, consistency and hit of the test
patients, steps, steps a second, the seconds of every command, and the peak memory of a training
worker. Nothing else may run on the machine; on two cores it takes hours, less with fewer steps
(`--set train.max_studies=160`).
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import RESULTS, machine, write_result

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("tiny", "smollm2")
STEPS = ("ingest phantom", "bootstrap", "embed", "train", "evaluate", "export")


@dataclass(kw_only=True)
class Watch:
    """The largest memory of a training worker while a command runs."""

    peak_kb: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look every second until the command is over."""
        while not self.done.wait(1):
            for status in Path("/proc").glob("[0-9]*/status"):
                self._read(status)

    def _read(self, status: Path) -> None:
        try:
            named = (status.parent / "cmdline").read_bytes()
            if b"RayTrainWorker" in named:
                lines = status.read_text().splitlines()
                peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
                self.peak_kb = max([self.peak_kb, *peaks])
        except OSError:  # it ended
            return


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the memory of training workers during the block."""
    watch = Watch()
    thread = threading.Thread(target=watch.look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        thread.join()


def sonoray(
    step: str, preset: str, language: str, workspace: Path, given: list[str]
) -> dict[str, Any]:
    """Run a command of the road and return what it prints as JSON."""
    command = ["sonoray", *step.split(), "--config", preset, "--workspace", str(workspace)]
    settings = [f"phantom.language={language}", *given]
    command += ["--json", *(word for setting in settings for word in ("--set", setting))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(preset: str, language: str, workspace: Path, given: list[str]) -> dict[str, Any]:
    """Go the whole road and return its numbers."""
    told: dict[str, dict[str, Any]] = {}
    times: dict[str, float] = {}
    with watched() as watch:
        for step in STEPS:
            start = time.monotonic()
            told[step] = sonoray(step, preset, language, workspace, given)
            times[step.split()[0]] = round(time.monotonic() - start, 1)
    judged, trained = told["evaluate"], told["train"]
    steps = trained["metrics"]["step"]
    return {
        "preset": preset,
        "language": language,
        "closed_accuracy": judged["all_closed"]["accuracy"],
        "consistency": (judged["consistency"] or {}).get("agreement"),
        "hit": judged["hit_rate"],
        "steps": steps,
        "steps_per_s": steps / trained["elapsed_s"] if trained["elapsed_s"] else None,
        "worker_peak_mb": watch.peak_kb // 1024,
        "seconds": times,
    }


def main() -> int:
    """Measure all pairs, print each as a line and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", default="en,zh")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--workspace", type=Path, default=ROOT / ".sonoray-published")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args()
    rows = []
    for language in given.languages.split(","):
        for preset in given.presets.split(","):
            workspace = given.workspace / f"{preset}-{language}"
            rows.append(measure(preset, language, workspace, given.settings))
            sys.stdout.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    result = {"machine": machine(), "settings": given.settings, "rows": rows}
    write_result(given.results, "published_language", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
