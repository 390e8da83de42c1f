import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from sonoray.ingest.source_options import SourceOptions
from sonoray.workspace import Workspace
from sonoray_jobs.data.ingest import run
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig.model_validate({"phantom": {"num_patients": 4}})


def test_a_table_goes_in_under_the_name_that_it_is_given(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("study,patient,report\na,p,未见异常。\n", encoding="utf-8")
    workspace = Workspace.open(tmp_path / "workspace")
    options = SourceOptions(path=table, name="kidney")
    result = run(workspace=workspace, road=ROAD, dataset="table", options=options)
    assert result.dataset == "kidney"
    assert workspace.dataset_names() == ["kidney"]
    assert result.studies.kept == 1


def test_a_name_that_moves_says_what_it_meant_before(tmp_path):
    workspace = Workspace.open(tmp_path / "workspace")

    def bring(folder, report):
        (tmp_path / folder).mkdir(exist_ok=True)
        table = tmp_path / folder / "t.csv"
        table.write_text(f"study,patient,report\na,p,{report}\n", encoding="utf-8")
        options = SourceOptions(path=table, name="kidney")
        return run(workspace=workspace, road=ROAD, dataset="table", options=options)

    first = bring("one", "正常。")
    assert first.before is None
    assert bring("one", "正常。").before is None
    second = bring("two", "囊肿。")
    line = (
        f"the name kidney meant table {tmp_path}/one/t.csv until now, which stays in {first.path}"
    )
    assert line in second.lines()
    assert second.to_json()["before"]["path"] == first.path
    assert Path(first.path, "manifest.json").is_file()
    third = bring("two", "结石。")
    assert f"earlier version of this source until now, which stays in {second.path}" in str(
        third.lines()
    )
    assert bring("three", "结石。").before is None  # the same content from elsewhere
    workspace.point_dataset("kidney", workspace.dataset("kidney"))
    back = bring("one", "正常。")
    assert back.before.what == "another source"
    shutil.rmtree(back.path)  # as whoever needs the room may do
    assert bring("two", "囊肿。").before is None


def test_the_phantom_goes_in_and_a_second_time_nothing_is_done(tmp_path):
    workspace = Workspace.open(tmp_path)
    first = run(workspace=workspace, road=ROAD, dataset="phantom")
    second = run(workspace=workspace, road=ROAD, dataset="phantom")
    assert (first.reused, second.reused) == (False, True)
    assert first.studies == second.studies
    assert first.studies.kept == sum(sizes["studies"] for sizes in first.splits.values()) > 0
    assert workspace.dataset("phantom").path == tmp_path / "stages" / first.path.rsplit("/")[-1]
    report = "\n".join(second.lines())
    kept = first.images.kept
    assert "unchanged" in report
    assert f"images: {kept} seen = {kept} kept + 0 duplicate + 0 quarantined" in report
    assert json.loads(json.dumps(first.to_json()))["images"]["kept"] == kept


def test_what_was_decided_is_printed_and_written(tmp_path):
    colours = np.zeros((40, 48, 4), np.uint8)
    colours[..., :3] = np.random.default_rng(0).integers(0, 256, (40, 48, 3))
    colours[:, :24, 3] = 255
    Image.fromarray(colours).save(tmp_path / "a.png")
    rows = "s1,p1,a.png,正常。\ns1,,gone.png,\ns2,4.40106E+17,a.png,正常。\n"
    (tmp_path / "t.csv").write_text(f"study,patient,image,report\n{rows}", encoding="utf-8")
    workspace = Workspace.open(tmp_path / "workspace")
    options = SourceOptions(path=tmp_path / "t.csv")
    result = run(workspace=workspace, road=ROAD, dataset="table", options=options)
    printed = "\n".join(result.lines())
    assert "partly read: 1 kept studies lack images" in printed
    assert "transparent_pixels 1: transparent pixels laid over black" in printed
    assert "rounded_identifier 1" in printed
    written = json.loads(json.dumps(result.to_json()))
    assert written["remarks"] == {"transparent_pixels: transparent pixels laid over black": 1}
    assert written["partly_read"] == 1
