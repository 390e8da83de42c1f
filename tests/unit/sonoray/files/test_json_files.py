"""JSON files that are there whole, or not at all."""

import json

from sonoray.files.json_files import write_json


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"名": "值"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"名": "值"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
