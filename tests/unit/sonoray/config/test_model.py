import json
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from sonoray.config.canonical import canonical_json, changed_settings, content_hash
from sonoray.config.load import apply_overrides, load_config, parse_override, validate_config
from sonoray.config.model import Config
from sonoray.errors import ConfigError


class Optimizer(Config):
    rate: float = Field(default=0.1, gt=0)
    """Step size."""


class First(Config):
    type: Literal["first"] = "first"
    a: int = 1


class Second(Config):
    type: Literal["second"] = "second"
    b: int = 1


class Step(Config):
    epochs: int

    @model_validator(mode="after")
    def _check(self) -> "Step":
        if self.epochs < 0:
            raise ValueError("0.epochs must not fall below 0")
        return self


class Road(Config):
    way: Annotated[First | Second, Field(discriminator="type")] = Second()
    stages: tuple[Step, ...] = (Step(epochs=1), Step(epochs=2))
    layers: tuple[int, ...] = ()
    only: dict[str, str] = Field(default_factory=dict)


class Train(Config):
    epochs: int = 1
    """How often."""
    optimizer: Optimizer = Optimizer()
    """How."""


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("epochs=3", ["epochs"], 3),
        ("optimizer.rate=1e-3", ["optimizer", "rate"], 1e-3),
        ("a=true", ["a"], True),
        ("a=[1, 2]", ["a"], [1, 2]),
        ('a="3"', ["a"], "3"),
        ("model=tiny", ["model"], "tiny"),
        ("uri=s3://b?x=1", ["uri"], "s3://b?x=1"),
        ("a=", ["a"], ""),
    ],
)
def test_an_override_is_read_as_toml_and_else_as_text(text, path, value):
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["epochs", "=3", " =3"])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override(text)


def test_overrides_go_into_tables_and_leave_the_input_alone():
    values = {"optimizer": {"rate": 0.5}}
    assert apply_overrides(values, ["optimizer.rate=0.2", "epochs=4"]) == {
        "optimizer": {"rate": 0.2},
        "epochs": 4,
    }
    assert values == {"optimizer": {"rate": 0.5}}


def test_an_override_through_a_plain_value_is_refused():
    with pytest.raises(ConfigError, match=r"epochs is the plain value 1 .* write epochs=VALUE"):
        apply_overrides({"epochs": 1}, ["epochs.first=2"])


def test_an_override_goes_into_an_array_by_place():
    values = {"stages": [{"epochs": 1}, {"epochs": 2}]}
    assert apply_overrides(values, ["stages.1.epochs=5", "stages.0={a = 1}"]) == {
        "stages": [{"a": 1}, {"epochs": 5}]
    }
    for text in ("stages.2.epochs=5", "stages.-1.epochs=5", "stages.2=5", "stages.epochs=5"):
        with pytest.raises(ConfigError, match=r"array of 2; .* from stages\.0 to stages\.1"):
            apply_overrides(values, [text])


def test_what_a_file_leaves_to_the_defaults_keeps_its_type_and_its_entries(tmp_path):
    file = tmp_path / "road.toml"
    file.write_text("", encoding="utf-8")
    assert load_config(Road, file, ["way.b=5"]).way == Second(b=5)
    assert load_config(Road, file, ["way.a=5", "way.type=first"]).way == First(a=5)
    stages = load_config(Road, file, ["stages.1.epochs=7"]).stages
    assert [stage.epochs for stage in stages] == [1, 7]
    assert Road().stages[1].epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("way.c=1", "unknown key 'way.c' (known keys here: b, type)"),
        ("way.b=x", "way.b = 'x': "),
        ("way.type=third", "way.type = 'third' is unknown; set way.type to one of first, second"),
        ("way={b=1}", "way has no type; set way.type to one of first, second"),
        ("stages=3", "stages = 3: write a TOML array, as in stages=[{epochs=...}]"),
        ("layers=3", "layers = 3: write a TOML array, as in layers=[...]"),
        ('only={"a":1}', """write a TOML table, as in only={key = "value"}"""),
        ("stages.0.epochs=-1", "stages.0.epochs must not fall below 0"),
        (f"layers={'x' * 999}", f"layers = '{'x' * 59}...: write"),
    ],
)
def test_a_wrong_override_is_told_in_one_short_line_without_the_file(tmp_path, text, message):
    file = tmp_path / "road.toml"
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(Road, file, [text])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_differ_are_named_with_both_values():
    first = {"a": 1, "b": {"c": [{"d": 1}, {"d": 2}], "e": [1]}, "f": "x"}
    second = {"a": 1, "b": {"c": [{"d": 1}, {"d": 3}], "e": [1, 2]}, "g": {}}
    assert changed_settings(first, second) == {
        "b.c.1.d": (2, 3),
        "b.e": ([1], [1, 2]),
        "f": ("x", None),
        "g": (None, {}),
    }
    assert changed_settings(first, first) == {}


def test_an_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        validate_config(Train, {"optimizer": {"lr": 1}}, "train.toml")
    message = str(caught.value)
    assert "train.toml" in message
    assert "'optimizer.lr'" in message
    assert "rate" in message
    assert "\n" not in message


def test_a_value_out_of_range_is_named():
    with pytest.raises(ConfigError, match=r"optimizer\.rate = -1"):
        validate_config(Train, {"optimizer": {"rate": -1}}, "--set")


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Train().epochs = 2


def test_a_file_is_read_and_overridden(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text("epochs = 2\n[optimizer]\nrate = 0.5\n", encoding="utf-8")
    config = load_config(Train, file, ["epochs=7"])
    assert config == Train(epochs=7, optimizer=Optimizer(rate=0.5))


def test_an_override_that_does_not_fit_is_not_blamed_on_a_file_that_does(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text("epochs = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^--set epochs=two: epochs = 'two': "):
        load_config(Train, file, ["epochs=two"])
    file.write_text("epoch = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train\.toml --set epochs=3: unknown key 'epoch'"):
        load_config(Train, file, ["epochs=3"])


@pytest.mark.parametrize("content", ["epochs = ", "\xff"])
def test_a_malformed_file_is_named(tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.toml.*not valid TOML"):
        load_config(Train, file)


@pytest.mark.parametrize("name", ["folder.toml", f"{'x' * 300}.toml"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name):
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=rf"{name}.*cannot be read \(.+\); check the path"):
        load_config(Train, tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml.*does not exist"):
        load_config(Train, tmp_path / "none.toml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_the_canonical_form_ignores_key_order_and_loses_nothing(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value
    assert content_hash(value) == content_hash(backwards)


def test_a_changed_default_changes_the_hash():
    assert content_hash(Train()) != content_hash(Train(epochs=2))
    assert content_hash(Train()) == content_hash(Train().model_dump())


def test_importing_the_data_side_loads_nothing_heavy():
    code = (
        "import sys; import sonoray.config.model, sonoray.ingest.run, sonoray.features.store, "
        "sonoray.ingest.published.busbra; "
        "print([m for m in ('torch', 'transformers', 'deepspeed', 'ray', 'mlflow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
