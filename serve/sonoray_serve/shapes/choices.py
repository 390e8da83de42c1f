"""Closed questions: the options of a request, their probabilities, and the choice as an answer.

Options come as `sonoray.options` or as the enum of a JSON schema. The model weighs every option as
the whole answer, as its evaluation does; the likeliest is the answer. A softmax of log-likelihoods
is surer than it is right, so the export fits a temperature; without one, the answer says so.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sonoray_serve.messages import Calibration
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes import answers
from sonoray_serve.shapes.api import MAX_OPTION_CHARS, MAX_OPTIONS, ChatRequest

_SAID = frozenset({"$schema", "title", "description"})  # they constrain nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a closed question chooses among, and how the choice is written."""

    texts: tuple[str, ...]
    is_json: bool = False
    """Whether the answer is JSON instead of the bare text."""
    key: str | None = None
    """The object's only property; None where the answer is the string itself."""

    def content(self, text: str) -> str:
        """The answer that chooses an option."""
        if not self.is_json:
            return text
        value = text if self.key is None else {self.key: text}
        return json.dumps(value, ensure_ascii=False)


def read_options(request: ChatRequest) -> Options | None:
    """The options of a request; None where its question is open.

    Raises:
        ApiError: 400; they are none to choose among, or ask for what a choice has not.
    """
    given = request.sonoray.options if request.sonoray else None
    form = request.response_format
    schema = form is not None and form.type != "text"
    if given is not None and schema:
        raise ApiError(Problem.NOT_WITH_OPTIONS, "response_format")
    if given is not None:
        options = Options(texts=tuple(given))
        place = "sonoray.options"
    elif schema:
        assert form is not None
        options = _from_schema(form.json_schema.schema_ if form.json_schema else None)
        place = _SCHEMA
    else:
        return None
    if not _are_choices(options.texts):
        raise ApiError(Problem.OPTIONS_NOT_ACCEPTED, place, MAX_OPTIONS)
    if (request.n or 1) > 1:
        raise ApiError(Problem.NOT_WITH_OPTIONS, "n")
    if request.logprobs:
        raise ApiError(Problem.NOT_WITH_OPTIONS, "logprobs")
    return options


_SCHEMA = "response_format.json_schema.schema"


def _are_choices(texts: Sequence[str]) -> bool:
    each = all(text.strip() and len(text) <= MAX_OPTION_CHARS for text in texts)
    return each and 2 <= len(texts) <= MAX_OPTIONS and len(set(texts)) == len(texts)


def _from_schema(schema: dict[str, Any] | None) -> Options:
    """Options from a schema of a string, or of an object with that string alone."""
    refused = ApiError(Problem.RESPONSE_FORMAT_NOT_ACCEPTED, "response_format")
    if schema is None:
        raise refused
    key = None
    if schema.get("type") == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict) or len(properties) != 1:
            raise refused
        ((key, inner),) = properties.items()
        rest = schema.keys() - _SAID - {"type", "properties", "required", "additionalProperties"}
        if rest or schema.get("required", [key]) != [key] or not isinstance(inner, dict):
            raise refused
        schema = inner
    values = schema.get("enum")
    if schema.keys() - _SAID - {"type", "enum"} or schema.get("type", "string") != "string":
        raise refused
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise refused
    return Options(texts=tuple(values), is_json=True, key=key)


def weigh(
    options: Options, log_likelihoods: Sequence[float], calibration: Calibration | None
) -> tuple[str, answers.ClosedAnswer]:
    """Choose the likeliest option: its text, and what the answer tells of all of them."""
    temperature = calibration.temperature if calibration else 1.0
    probabilities = softmax([value / temperature for value in log_likelihoods])
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    told = answers.ClosedAnswer(
        options=[
            answers.OptionUse(text=text, probability=share, log_likelihood=value)
            for text, share, value in zip(
                options.texts, probabilities, log_likelihoods, strict=True
            )
        ],
        calibrated=calibration is not None,
        temperature=temperature,
    )
    if calibration is not None:
        told.abstain = probabilities[best] < calibration.abstain_below
        told.abstain_below = calibration.abstain_below
        told.error_rate = calibration.error_rate
    return options.texts[best], told


def softmax(values: Sequence[float]) -> list[float]:
    """Shares that sum to 1."""
    most = max(values)
    parts = [math.exp(value - most) for value in values]
    return [part / sum(parts) for part in parts]
