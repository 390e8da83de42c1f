import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.workspace import Workspace
from sonoray_jobs.data.ingest import SourceOptions, build_source, run
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig.model_validate({"phantom": {"num_patients": 4}})


def given(**options):
    paths = {key: Path(options[key]) for key in ("path", "images") if key in options}
    return SourceOptions(**{**options, **paths})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("busbra", {}, "no BUS-BRA table"),
        ("busi", {}, "lacks normal, benign, malignant"),
        ("llava", {"name": "kidney"}, "not readable"),
        ("pocovid", {}, "no table dataset_metadata"),
        ("slake", {"language": "zh"}, "no question file"),
        ("table", {"name": "kidney"}, r"no \.csv, \.tsv or \.jsonl"),
        ("usreport", {}, "no report file"),
        ("video", {"name": "kidney"}, "holds no video"),
    ],
)
def test_every_source_is_built_and_says_what_it_misses(tmp_path, name, options, message):
    for images in ({}, {"images": tmp_path}):
        if images and name not in ("llava", "slake", "table", "usreport"):
            continue
        with pytest.raises(DataError, match=message):
            build_source(name, given(path=tmp_path, **options, **images), ROAD)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kidney", {}, "'kidney' is unknown; use one of busbra, busi, dicom, dicomweb, llava"),
        ("busbra", {}, "needs its files; run: sonoray ingest busbra PATH"),
        ("phantom", {"path": "folder"}, "'phantom' reads no files; leave 'folder' out"),
        ("busbra", {"path": ".", "name": "mine"}, "'busbra' takes no --name; leave it out"),
        ("table", {"path": ".", "language": "zh"}, "'table' takes no --language"),
        ("table", {"path": ".", "images": "no/such"}, "--images 'no/such' is no folder"),
        ("table", {"path": ".", "name": "slake"}, "--name 'slake' is the name of another source"),
        ("table", {"path": ".", "name": "../x"}, "--name '../x' cannot name a dataset"),
        ("slake", {"path": ".", "language": "fr"}, "language 'fr' is unknown"),
    ],
)
def test_a_wrong_source_or_option_is_named_with_its_fix(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_source(name, given(**options), ROAD)


@pytest.mark.parametrize("option", ["path", "images", "reports"])
def test_a_path_that_is_not_utf8_is_refused_before_anything_is_read(tmp_path, option):
    name = tmp_path / os.fsdecode(b"d\xff")
    options = SourceOptions(**{"path": tmp_path, option: name})
    with pytest.raises(
        ConfigError, match=rf"^{option} '.*d\\udcff' is not UTF-8; rename"
    ) as caught:
        build_source("dicom" if option == "reports" else "table", options, ROAD)
    assert str(caught.value).isprintable()


LLAVA_ITEM = {
    "id": 1,
    "image": "1.png",
    "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a"}],
}
SLAKE_ITEM = {
    "img_name": "1.png", "question": "?", "answer": "a", "q_lang": "en", "answer_type": "OPEN",
    "content_type": "Size", "location": "Lung", "modality": "CT",
}  # fmt: skip
USREPORT_ITEM = {
    "uid": 1, "finding": "a", "image_path": ["1.png"], "labels": 1, "split": "train",
}  # fmt: skip
FOLDERS = {
    "busbra": ({"bus_data.csv": "ID,Case,Histology,Pathology,BIRADS,Device,Side\n1,1,,,,,"},
               ["images/1.png", "masks/1.png"], {}),
    "busi": ({}, [f"{kind}/1.png" for kind in ("benign", "malignant", "normal")], {}),
    "dicom": ({}, ["a/1.dcm", "2.dcm"], {}),
    "llava": ({"t.json": json.dumps([LLAVA_ITEM])}, ["1.png"], {"path": "t.json"}),
    "pocovid": ({"metadata_dev.csv": "Filename,Label,Type,Probe,Patient ID / Name,Gender,Age,"
                 "InThisRepo\na,,,,,,,"},
                ["image_dataset/covid/a.mp4_frame0.png"], {}),
    "slake": ({"train.json": json.dumps([SLAKE_ITEM])}, ["1.png"], {"images": ""}),
    "table": ({"t.csv": "study,patient,image\na,p,1.png\nb,q,2.mp4"}, ["1.png", "2.mp4"],
              {"path": "t.csv"}),
    "usreport": ({"Thyroid_trainval.json": json.dumps({"train": [USREPORT_ITEM]})}, ["1.png"],
                 {"images": ""}),
    "video": ({}, ["p/1.mp4"], {}),
}  # fmt: skip
"""By source: its tables, its images, and options beside the folder."""


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_file_above_its_limit_is_told_by_its_size_and_not_read(tmp_path, kind):
    texts, images, options = FOLDERS[kind]
    paths = {key: tmp_path / value for key, value in options.items()}
    given = SourceOptions(**{"path": tmp_path, **paths})
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    def digest(letter, max_bytes):
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(100 * letter)
        values = {
            "ingest": {"images": {"max_bytes": max_bytes}},
            "video": {"max_bytes": max_bytes},
            "dicom": {"limits": {"max_object_bytes": max_bytes}},
        }
        return build_source(kind, given, RoadConfig.model_validate(values)).input_digest()

    assert digest("a", 99) == digest("b", 99)
    assert digest("a", 100) != digest("b", 100)


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


def test_what_a_source_was_told_can_be_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = given(path="scans", name="kidney", language="zh")
    written = options.to_json()
    assert written == {"path": str(tmp_path / "scans"), "name": "kidney", "language": "zh"}
    assert SourceOptions.from_json(written) == replace(options, path=tmp_path / "scans")
    assert SourceOptions.from_json(SourceOptions().to_json()) == SourceOptions()
