"""What a file is that extends another one, down to the values that a road ends up with."""

import pytest

from sonoray.config.extend import lay_over, read_values
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import load_road


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"t": {"a": 1, "b": 2}}, {"t": {"b": 3}}, {"t": {"a": 1, "b": 3}}),
        ({"t": [1, 2]}, {"t": [3]}, {"t": [3]}),
        ({"t": {"a": 1}}, {"t": 2}, {"t": 2}),
        ({"t": 1}, {"t": {"a": 2}}, {"t": {"a": 2}}),
        # another type has other keys
        ({"t": {"type": "x", "a": 1}}, {"t": {"type": "y"}}, {"t": {"type": "y"}}),
        (
            {"t": {"type": "x", "a": 1}},
            {"t": {"type": "x", "b": 2}},
            {"t": {"type": "x", "a": 1, "b": 2}},
        ),
        ({"t": {"type": "x", "a": 1}}, {"t": {"a": 2}}, {"t": {"type": "x", "a": 2}}),
        ({"t": {"a": 1}}, {"t": {"type": "x"}}, {"t": {"a": 1, "type": "x"}}),
    ],
)
def test_own_values_lie_over_those_of_the_base(base, own, expected):
    before = repr((base, own))
    assert lay_over(base, own) == expected
    assert repr((base, own)) == before


def test_files_extend_files_beside_them_and_presets_by_name(tmp_path):
    write(tmp_path, "first.toml", "a = 1\nb = 1\nc = 1")
    (tmp_path / "deeper").mkdir()
    second = write(tmp_path / "deeper", "second.toml", 'extends = "../first.toml"\nb = 2\nc = 2')
    third = write(tmp_path, "third.toml", 'extends = "named"\nc = 3')
    assert read_values(third, {"named": second}) == {"a": 1, "b": 2, "c": 3}


def test_a_road_extends_a_packaged_one_and_overrides_come_last(tmp_path):
    path = write(
        tmp_path,
        "own.toml",
        'extends = "busbra"\n[train]\nstudies_per_step = 5\nfeature_noise = 0.1',
    )
    busbra, own = load_road("busbra"), load_road(str(path), ["train.feature_noise=0.2"])
    assert (own.train.studies_per_step, own.train.feature_noise) == (5, 0.2)
    changed = {"studies_per_step": 5, "feature_noise": 0.2}
    assert own.train == busbra.train.model_copy(update=changed)
    assert (busbra.name, own.name) == ("busbra", "own")
    assert own.model_copy(update={"train": busbra.train, "name": busbra.name}) == busbra


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "huge"', "extends = 'huge' must be one of base, .*tiny or the path of a .toml"),
        ("extends = 3", "extends = 3 must be one of"),
        ('extends = "gone.toml"', r"gone.toml' does not exist; check extends in '.*own.toml'"),
        ('extends = "own.toml"', "extends = 'own.toml' goes round in a circle"),
        ('extends = "tiny"\n[train]\nstudies_per_stop = 5', "studies_per_stop"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path, text, message):
    path = write(tmp_path, "own.toml", text)
    with pytest.raises(ConfigError, match=message) as found:
        load_road(str(path))
    assert "\n" not in str(found.value)
