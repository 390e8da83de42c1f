"""What recognition cannot take ends in one line that says what to change, and exit code 2."""

import json
import re

import pytest

from sonoray_jobs.cli.main import main

ONE = '[[classes]]\nname = "a"\n'
TWO = ONE + '[[classes]]\nname = "b"\n'


def told(capsys, *arguments):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("one.toml", ONE, "the bank has 1 class; .* give at least two"),
        (
            "equal.toml",
            TWO.replace("\n[[", '\ndescriptions = ["x"]\n[[') + 'descriptions = ["x "]\n',
            "two descriptions of the bank are equal: 'x'; reword one",
        ),
        ("empty.toml", TWO + 'descriptions = [" "]\n', "class 'b' has an empty description"),
        ("names.toml", ONE + ONE, "two class names of the bank are equal: 'a'"),
        (
            "excluded.toml",
            TWO + 'descriptions = ["spiculated"]\nexcludes = ["spicul"]\n',
            "names 'spicul', which the class excludes",
        ),
        ("unknown.toml", TWO + 'texts = ["x"]\n', "classes.1.texts: Extra inputs"),
        ("broken.toml", "[[classes]\n", "is no TOML"),
        ("gbk.toml", TWO.replace('"b"', '"囊肿"').encode("gbk"), "is not UTF-8 .*save it as UTF-8"),
        ("row.jsonl", json.dumps({"category": "a", "description": ""}), "empty|1 class"),
        ("list.txt", "a\n\n", "the bank has 1 class"),
        ("bank.csv", "a,b", "use one of .*or a file that ends in .toml, .jsonl, .txt"),
    ],
)
def test_a_bank_that_is_none_is_refused(capsys, tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    workspace = tmp_path / "ws"
    workspace.mkdir()
    line = told(capsys, "recognize", "--classes", str(path), "--workspace", str(workspace))
    assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ('{type="recognition",image_tokens=0}', "image_tokens"),
        ('{type="recognition",text_tokens=0}', "text_tokens"),
        ('{type="recognition",temperature=0}', "temperature"),
        ('{type="laver",mask_ratio=1}', "mask_ratio"),
        ('{type="laver",momentum=1}', "momentum"),
    ],
)
def test_a_setting_that_no_model_has_is_refused(capsys, tmp_path, setting, expected):
    (tmp_path / "ws").mkdir()
    line = told(
        capsys,
        *("train", "--workspace", str(tmp_path / "ws")),
        *("--set", f'model.objectives=[{{type="answer"}},{setting}]'),
    )
    assert expected in line


def test_classes_that_nothing_names_are_refused(capsys, tmp_path):
    (tmp_path / "ws").mkdir()
    given = ("--workspace", str(tmp_path / "ws"))
    line = told(capsys, "recognize", "--classes", "kidney-zh", *given)
    assert "class bank 'kidney-zh' is unknown; use one of birads-en" in line
    line = told(capsys, "recognize", "--classes", "phantom-zh", "--split", "tset", *given)
    assert "split 'tset' is unknown; choose one of all, train, validation, test" in line
