"""Entries on disk: whole, in order, whatever dies in between."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sonoray.tracking.outbox import Outbox, OutboxState, num_failures, told_points


def points(step: int) -> dict[str, object]:
    return {"kind": "metrics", "points": [["loss", 1.0 / step, 0, step]], "tags": {}}


def test_entries_come_back_from_any_place_on(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "box")
    assert (outbox.exists, outbox.num_waiting(), list(outbox.entries())) == (False, 0, [])
    outbox.add(points(1), {"kind": "tags", "tags": {"名": "乳腺"}})
    outbox.add(points(2))
    found = list(outbox.entries())
    assert [entry["kind"] for entry, _ in found] == ["metrics", "tags", "metrics"]
    assert [entry for entry, _ in outbox.entries(found[1][1])] == [points(2)]
    outbox.note(OutboxState(sent_bytes=found[1][1]))
    assert outbox.num_waiting() == 1


def test_a_line_that_was_cut_is_no_entry_and_hides_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add(points(1))
    with (tmp_path / "entries.jsonl").open("a") as file:
        file.write('{"kind": "metrics", "poi')
    assert [entry for entry, _ in outbox.entries()] == [points(1)]
    outbox.add(points(2))
    assert [entry for entry, _ in outbox.entries()] == [points(1), points(2)]


def test_what_was_sent_is_forgotten_and_the_run_is_not(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    identity = outbox.identity()
    outbox.add(points(1))
    outbox.clear()  # nothing was sent
    assert outbox.num_waiting() == 1
    outbox.note(OutboxState(sent_bytes=outbox.size(), identity=identity))
    outbox.clear()
    assert (outbox.exists, outbox.identity()) == (False, identity)
    outbox.add(points(2))
    assert [entry for entry, _ in outbox.entries(outbox.state().sent_bytes)] == [points(2)]


def test_what_a_store_refuses_at_the_beginning_is_taken_back(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add(points(1))
    size = outbox.size()
    outbox.add({"kind": "begin"})
    outbox.retract(size)
    assert [entry for entry, _ in outbox.entries()] == [points(1)]


@pytest.mark.parametrize(
    ("entries", "steps", "failures"),
    [
        ([], [], 0),
        ([points(3), {"kind": "failure"}, points(2)], [2, 3], 1),
        ([points(3), {"kind": "end", "status": "FAILED"}, {"kind": "failure"}], [3], 1),
        ([points(3), {"kind": "end", "status": "FINISHED"}, points(1)], [1], 0),
    ],
)
def test_where_a_training_stands(
    entries: list[dict[str, object]], steps: list[int], failures: int
) -> None:
    assert (sorted(step for _, step, _ in told_points(entries)), num_failures(entries)) == (
        steps,
        failures,
    )


ADDER = """
import sys
from pathlib import Path
from sonoray.tracking.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(100):
    outbox.add({"kind": "tags", "tags": {sys.argv[2]: number}})
"""


def test_two_processes_add_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADDER, str(tmp_path)]
    both = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [each.wait(120) for each in both] == [0, 0]
    entries = [json.dumps(entry) for entry, _ in Outbox(tmp_path).entries()]
    assert len(entries) == len(set(entries)) == 200
