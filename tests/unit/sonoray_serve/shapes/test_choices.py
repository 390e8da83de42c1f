"""Options are read from both ways to write them, and every other way is refused by name."""

import json
from typing import Any

import pytest

from sonoray_serve.messages import Calibration
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.api import ChatRequest, parse_request
from sonoray_serve.shapes.choices import Options, read_options, weigh


def read(**extra: Any) -> Options | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], **extra}
    return read_options(parse_request(ChatRequest, json.dumps(body).encode(), 10_000))


def schema(value: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    }


def test_an_open_question_has_no_options():
    assert read() is None
    assert read(response_format={"type": "text"}) is None
    assert read(sonoray={}) is None


def test_a_string_with_an_enum_is_answered_as_json():
    options = read(**schema({"type": "string", "enum": ["a", "b"], "title": "t"}))
    assert options == Options(texts=("a", "b"), is_json=True)
    assert json.loads(options.content("a")) == "a"


def test_an_object_with_one_enum_is_answered_as_an_object():
    inner = {"type": "string", "enum": ["是", "否"]}
    options = read(**schema({"type": "object", "properties": {"k": inner}, "required": ["k"]}))
    assert options is not None
    assert options.content("是") == '{"k": "是"}'


def one(value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": value}}


@pytest.mark.parametrize(
    ("extra", "problem", "param"),
    [
        (schema({"type": "string"}), Problem.RESPONSE_FORMAT_NOT_ACCEPTED, "response_format"),
        (schema({"enum": [1, 2]}), Problem.RESPONSE_FORMAT_NOT_ACCEPTED, "response_format"),
        (
            schema({"enum": ["a", "b"], "pattern": "a"}),
            Problem.RESPONSE_FORMAT_NOT_ACCEPTED,
            "response_format",
        ),
        (schema(one({"type": "number"})), Problem.RESPONSE_FORMAT_NOT_ACCEPTED, "response_format"),
        (schema(one(3)), Problem.RESPONSE_FORMAT_NOT_ACCEPTED, "response_format"),
        (
            schema({**one({"enum": ["a", "b"]}), "required": ["other"]}),
            Problem.RESPONSE_FORMAT_NOT_ACCEPTED,
            "response_format",
        ),
        (
            {"response_format": {"type": "json_object"}},
            Problem.RESPONSE_FORMAT_NOT_ACCEPTED,
            "response_format",
        ),
        (
            schema({"enum": ["a", "a"]}),
            Problem.OPTIONS_NOT_ACCEPTED,
            "response_format.json_schema.schema",
        ),
        ({"sonoray": {"options": ["a", " "]}}, Problem.OPTIONS_NOT_ACCEPTED, "sonoray.options"),
        ({"sonoray": {"options": ["a", "b"]}, "n": 2}, Problem.NOT_WITH_OPTIONS, "n"),
        (
            {"sonoray": {"options": ["a", "b"]}, "logprobs": True},
            Problem.NOT_WITH_OPTIONS,
            "logprobs",
        ),
        (
            {"sonoray": {"options": ["a", "b"]}, **schema({"enum": ["a", "b"]})},
            Problem.NOT_WITH_OPTIONS,
            "response_format",
        ),
    ],
)
def test_what_is_no_choice_is_refused_by_name(extra: dict[str, Any], problem: Problem, param: str):
    with pytest.raises(ApiError) as refused:
        read(**extra)
    assert refused.value.problem is problem
    assert refused.value.param == param


def test_probabilities_are_tempered_and_a_doubtful_one_abstains():
    options = Options(texts=("a", "b"))
    text, raw = weigh(options, [-2.0, -4.0], None)
    assert text == "a"
    assert not raw.calibrated
    assert raw.abstain is None
    assert raw.options[0].probability == pytest.approx(0.8808, abs=1e-4)
    calibration = Calibration(temperature=2.0, abstain_below=0.75, error_rate=0.1)
    _, told = weigh(options, [-2.0, -4.0], calibration)
    assert told.options[0].probability == pytest.approx(0.7311, abs=1e-4)
    assert (told.calibrated, told.abstain, told.error_rate) == (True, True, 0.1)
    assert weigh(options, [-2.0, -6.0], calibration)[1].abstain is False
    assert sum(each.probability for each in told.options) == pytest.approx(1.0)
