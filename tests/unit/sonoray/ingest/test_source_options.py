import os
from dataclasses import replace
from pathlib import Path

import pytest

from sonoray.errors import ConfigError
from sonoray.ingest.builders import build_source
from sonoray.ingest.source_options import SourceOptions
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig()


def given(**options):
    paths = {key: Path(options[key]) for key in ("path", "images") if key in options}
    return SourceOptions(**{**options, **paths})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kidney", {}, "unknown; use one of busbra, busi, dicom, dicomweb, feedback, llava"),
        ("busbra", {}, "needs its files; run: sonoray ingest busbra PATH"),
        ("phantom", {"path": "folder"}, "'phantom' reads no files; leave 'folder' out"),
        ("busbra", {"path": ".", "split": "published"}, "'busbra' takes no --split; leave it out"),
        ("slake", {"path": ".", "split": "mine"}, "--split 'mine' is none of this set"),
        ("dicom", {"path": ".", "columns": ("report=a",)}, "give the table with --reports"),
        ("table", {"path": "t.csv", "columns": ("reprot=a",)}, "did you mean 'report'"),
        ("table", {"path": ".", "language": "zh"}, "'table' takes no --language"),
        ("table", {"path": ".", "images": "no/such"}, "--images 'no/such' is no folder"),
        ("table", {"path": ".", "name": "slake"}, "--name 'slake' is the name of another source"),
        ("table", {"path": ".", "name": "../x"}, "--name '../x' cannot name a dataset"),
        ("table", {"path": ".", "charset": "big5"}, "'table' takes no --charset"),
        ("dicom", {"path": ".", "charset": "big-6"}, "--charset 'big-6' is no character set"),
        ("dicom", {"path": ".", "charset": "hex"}, "--charset 'hex' is no character set"),
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


def test_what_a_source_was_told_can_be_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = given(path="scans", name="kidney", language="zh", charset="big5")
    written = options.to_json()
    given_here = {"name": "kidney", "language": "zh", "charset": "big5"}
    assert written == {"path": str(tmp_path / "scans"), **given_here}
    assert SourceOptions.from_json(written) == replace(options, path=tmp_path / "scans")
    assert SourceOptions.from_json(SourceOptions().to_json()) == SourceOptions()


def test_the_given_character_set_counts_for_a_dicom_archive(tmp_path):
    source = build_source("dicom", given(path=str(tmp_path), charset="big5"), ROAD)
    assert source.config()["dicom"]["declared_charset"] == "big5"
    assert build_source("dicom", given(path=str(tmp_path)), ROAD).config() != source.config()
