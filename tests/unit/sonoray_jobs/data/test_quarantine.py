import csv
import json

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from sonoray.errors import DataError
from sonoray.images.sandbox import _Process
from sonoray.ingest.source_options import SourceOptions
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.cli.main import main
from sonoray_jobs.data import ingest
from sonoray_jobs.data.quarantine import list_rows, retry
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig()
TABLE = "ID,Case,Histology,Pathology,BIRADS,Device,Side"


def write_image(folder, name, size=(40, 48)):
    (folder / "images").mkdir(exist_ok=True)
    seed = sum(map(ord, name))
    noise = np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(
        folder / "images" / f"{name}.png"
    )


def write_table(folder, *, birads="4"):
    rows = [
        ["bus_1-s", "1", "cyst", "benign", "2", "GE", "single"],
        ["bus_2-l", "2", "lipoma", "benign", "3", "GE", "left"],
        ["bus_2-r", "2", "lipoma", "benign", "3", "GE", "right"],
        ["bus_3-s", "3", "fibroadenoma", "benign", birads, "GE", "single"],
        ["bus_4-s", "4", "fibrosis", "benign", "3", "GE", "single"],
    ]
    with (folder / "bus_data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([TABLE.split(","), *rows])


@pytest.fixture
def folder(tmp_path):
    """Five images: one damaged, one of a case with an unknown value, one too small."""
    root = tmp_path / "busbra"
    root.mkdir()
    write_table(root, birads="9")
    for name in ("bus_1-s", "bus_2-l", "bus_3-s"):
        write_image(root, name)
    (root / "images" / "bus_2-r.png").write_bytes(b"no image")
    write_image(root, "bus_4-s", (20, 20))
    return root


@pytest.fixture
def workspace(tmp_path, folder):
    opened = Workspace.open(tmp_path / "ws")
    road = RoadConfig.model_validate({"ingest": {"images": {"min_side": 32}}})
    options = SourceOptions(path=folder)
    ingest.run(workspace=opened, road=road, dataset="busbra", options=options)
    return opened


STRICT = RoadConfig.model_validate({"ingest": {"images": {"min_side": 32}}})


def refs(rows):
    return {(row.item, row.source_ref) for row in rows}


def test_the_list_counts_reasons_and_names_every_reject(workspace):
    listed = list_rows(workspace=workspace, dataset="busbra")
    assert listed.reasons == {
        "unknown_format": 1, "unknown_value": 1, "study_rejected": 1, "too_small": 1,
        "empty_study": 1,
    }  # fmt: skip
    assert refs(listed.rows) == {
        ("image", "images/bus_2-r.png"), ("study", "case-3"), ("image", "images/bus_3-s.png"),
        ("image", "images/bus_4-s.png"), ("study", "case-4"),
    }  # fmt: skip
    (small,) = list_rows(workspace=workspace, dataset="busbra", reason="too_small").rows
    assert "20 x 20" in small.message
    with pytest.raises(DataError, match="'dark'; there are "):
        list_rows(workspace=workspace, dataset="busbra", reason="dark")
    report = "\n".join(listed.lines())
    assert "5 rejected" in report
    assert "images/bus_4-s.png" in report
    short = list_rows(workspace=workspace, dataset="busbra", show=2).lines()
    assert short[-1].startswith("and 3 more")


def test_a_retry_says_what_is_accepted_what_is_not_and_what_is_new(workspace, folder):
    write_table(folder, birads="4")
    write_image(folder, "bus_2-r")
    write_image(folder, "bus_1-s", (20, 20))
    again = retry(workspace=workspace, road=STRICT, dataset="busbra")
    assert refs(again.accepted) == {
        ("image", "images/bus_2-r.png"), ("study", "case-3"), ("image", "images/bus_3-s.png"),
    }  # fmt: skip
    assert {row.reason for row in again.accepted} == {
        "unknown_format", "unknown_value", "study_rejected",
    }  # fmt: skip
    assert refs(again.still) == {("image", "images/bus_4-s.png"), ("study", "case-4")}
    assert refs(again.newly) == {("image", "images/bus_1-s.png"), ("study", "case-1")}
    assert (again.gone, again.new_studies, again.lost_studies) == ([], 1, 1)
    assert len(list(iter_studies(workspace.dataset("busbra").path))) == 2
    report = "\n".join(again.lines())
    assert "of 5 rejected before: 3 accepted now, 2 still rejected, 0 gone" in report
    assert "newly rejected: 2" in report
    assert json.loads(json.dumps(again.to_json()))["new_studies"] == 1


def test_a_raised_limit_is_enough_and_a_removed_file_is_gone(workspace, folder):
    (folder / "images" / "bus_2-r.png").unlink()
    again = retry(workspace=workspace, road=ROAD, dataset="busbra")
    assert refs(again.accepted) == {("image", "images/bus_4-s.png"), ("study", "case-4")}
    assert refs(again.gone) == {("image", "images/bus_2-r.png")}
    assert refs(again.newly) == {("image", "bus_2-r")}  # the row has no file now


def test_without_a_change_nothing_is_done(workspace):
    again = retry(workspace=workspace, road=STRICT, dataset="busbra")
    assert (again.accepted, again.newly, again.gone) == ([], [], [])
    assert len(again.still) == 5
    assert "nothing changed" in "\n".join(again.lines())


@pytest.fixture
def loops(tmp_path):
    """A folder of two videos."""
    for number in (1, 2):
        path = tmp_path / "loops" / f"p{number}" / "a.avi"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
            pixels = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels).reformat(format="bgr0")))
            container.mux(stream.encode())
    return tmp_path / "loops"


def test_a_fault_of_the_machine_is_tried_again_and_the_better_outcome_stays(
    tmp_path, loops, monkeypatch
):
    workspace = Workspace.open(tmp_path / "ws")
    options = SourceOptions(path=loops)
    arguments = {"workspace": workspace, "road": ROAD, "dataset": "video"}
    call, tasks = _Process.call, []

    def kill(process, task, timeout_s):
        tasks.append(task)
        if "p1" in str(task):
            process._process.kill()
        return call(process, task, timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(_Process, "call", kill)
        first = ingest.run(**arguments, options=options)
        assert first.reasons == {"decoder_crashed": 1, "empty_study": 1}
        tasks.clear()
        same = retry(**arguments)
        assert same.ingested.path == first.path
        assert len(tasks) == 2  # it was tried, and came out the same
        assert "nothing changed" in "\n".join(same.lines())
    again = retry(**arguments)
    assert {row.reason for row in again.accepted} == {"decoder_crashed", "empty_study"}
    assert (again.new_studies, again.still, again.newly, again.gone) == (1, [], [], [])
    assert again.ingested.path != first.path
    assert ingest.run(**arguments, options=options).path == again.ingested.path
    assert retry(**arguments).ingested.reused


def test_a_retry_that_fails_leaves_the_dataset_where_it_was(workspace, folder):
    before = workspace.dataset("busbra").path
    (folder / "bus_data.csv").unlink()
    with pytest.raises(DataError, match="no BUS-BRA table"):
        retry(workspace=workspace, road=STRICT, dataset="busbra")
    assert workspace.dataset("busbra").path == before


def test_the_place_of_the_files_is_remembered_and_is_no_part_of_the_content(
    workspace, folder, tmp_path
):
    before = workspace.dataset("busbra").path
    assert workspace.dataset_origin("busbra") == {"source": "busbra", "path": str(folder)}
    moved = folder.rename(tmp_path / "elsewhere")
    options = SourceOptions(path=moved)
    ingest.run(workspace=workspace, road=STRICT, dataset="busbra", options=options)
    assert workspace.dataset("busbra").path == before
    assert workspace.dataset_origin("busbra")["path"] == str(moved)


def test_a_dataset_that_does_not_say_where_it_came_from(workspace):
    workspace.point_dataset("busbra", workspace.dataset("busbra"))
    with pytest.raises(DataError, match="run once: sonoray ingest busbra"):
        retry(workspace=workspace, road=ROAD, dataset="busbra")
    with pytest.raises(DataError, match="no dataset 'kidney'"):
        workspace.dataset_origin("kidney")


def test_a_clean_dataset_has_nothing_to_list(tmp_path):
    road = RoadConfig.model_validate({"phantom": {"num_patients": 2, "image_size": 64}})
    workspace = Workspace.open(tmp_path)
    ingest.run(workspace=workspace, road=road, dataset="phantom")
    listed = list_rows(workspace=workspace, dataset="phantom")
    assert listed.lines() == ["dataset phantom: nothing was rejected"]
    assert workspace.dataset_origin("phantom") == {"source": "phantom"}


def test_both_actions_on_the_command_line(workspace, capsys):
    place = ["--workspace", str(workspace.root), "--json"]
    for action, key in (("list", "reasons"), ("retry", "accepted")):
        with pytest.raises(SystemExit) as caught:
            main(["quarantine", action, "busbra", *place])
        assert not caught.value.code
        assert key in json.loads(capsys.readouterr().out)
