import inspect
import json

import pytest

from sonoray.errors import DataError
from sonoray.ingest.builders import BUILDERS, build_source
from sonoray.ingest.source_options import SourceOptions
from sonoray.known_sources import KNOWN_SOURCES
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig.model_validate({"phantom": {"num_patients": 4}})


def test_every_known_source_has_a_builder_that_takes_what_it_is_told():
    assert BUILDERS.keys() == KNOWN_SOURCES.keys()
    for name, known in KNOWN_SOURCES.items():
        inspect.signature(BUILDERS[name]).bind(ROAD, **dict.fromkeys(known.takes, "x"))


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
            build_source(name, SourceOptions(path=tmp_path, **options, **images), ROAD)


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
