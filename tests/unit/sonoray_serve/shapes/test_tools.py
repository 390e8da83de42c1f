"""Tools of a request: offered, forced, called and answered."""

import json
from typing import Any

import pytest

from sonoray_serve.messages import Finished, Piece
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.api import ChatRequest, parse_request
from sonoray_serve.shapes.tool_results import told_messages
from sonoray_serve.shapes.tool_shapes import CallMade
from sonoray_serve.shapes.tools import ends_with, read_tools

QUESTION = {"role": "user", "content": "良性还是恶性？"}


def tool(name: str = "risk", **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {
        "type": "function",
        "function": {"name": name, "description": "a  risk", "parameters": parameters},
    }


RISK = tool(about={"type": "string", "enum": ["probability", "reasons"]})


def request(*messages: dict[str, Any], **values: Any) -> ChatRequest:
    body = {"model": "m", "messages": list(messages or (QUESTION,)), **values}
    return ChatRequest.model_validate_json(json.dumps(body))


def called(call_id: str = "call_1", name: str = "risk") -> dict[str, Any]:
    function = {"name": name, "arguments": "{}"}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(text: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def told(*messages: dict[str, Any], **values: Any) -> list[dict[str, str]]:
    parsed = request(*messages, **values)
    texts = [each.content if isinstance(each.content, str) else "" for each in parsed.messages]
    return told_messages(parsed.messages, texts, read_tools(parsed))


def test_offered_tools_are_told_before_everything_in_the_questions_language():
    system, question = told(tools=[RISK])
    assert system["role"] == "system"
    assert "risk(about: probability|reasons) - a risk" in system["content"]
    assert question == QUESTION
    english, _ = told({"role": "user", "content": "benign?"}, tools=[RISK])
    assert english["content"].startswith("Tools: ")
    assert told(tools=[RISK], tool_choice="none") == [QUESTION]


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ('<tool_call>{"name": "risk", "arguments": {"about": "reasons"}}</tool_call>', "risk",
         {"about": "reasons"}),
        ('{"name": "risk", "arguments": {}}', "risk", {}),
        ('{"name": "risk"}', "risk", {}),
        ('{"name": "other", "arguments": {}}', None, None),
        ('{"name": "risk", "arguments": "about"}', None, None),
        ('{"name": 7}', None, None),
        ("[]", None, None),
        ("<tool_call>nonsense</tool_call>", None, None),
        ("恶性", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_a_text_is_a_call_or_stays_a_text(text: str, name: str | None, arguments: Any):
    tools = read_tools(request(tools=[RISK]))
    assert tools is not None
    first, end = ends_with(tools, text, Finished(reason="stop", num_tokens=3))
    assert isinstance(end, Finished)
    if name is None:
        assert first == Piece(text=text)
        assert end.reason == "stop"
    else:
        assert isinstance(first, CallMade)
        assert first.function.name == name
        assert json.loads(first.function.arguments) == arguments
        assert (end.reason, end.num_tokens) == ("tool_calls", 3)


def test_a_forced_call_is_one_of_all_that_the_schemas_allow():
    other = tool("other", is_left={"type": "boolean"}, grade={"const": 3})
    tools = read_tools(request(tools=[RISK, other, tool("bare")], tool_choice="required"))
    assert tools is not None
    assert [(each.name, json.loads(each.arguments)) for each in tools.forced] == [
        ("risk", {"about": "probability"}),
        ("risk", {"about": "reasons"}),
        ("other", {"is_left": True, "grade": 3}),
        ("other", {"is_left": False, "grade": 3}),
        ("bare", {}),
    ]
    assert len(set(tools.texts)) == 5
    assert tools.made(tools.texts[2]) == tools.forced[2]
    named = {"type": "function", "function": {"name": "bare"}}
    alone = read_tools(request(tools=[RISK, tool("bare")], tool_choice=named))
    assert alone is not None
    assert [each.name for each in alone.forced] == ["bare"]


@pytest.mark.parametrize(
    ("values", "problem", "param"),
    [
        ({"tool_choice": "required"}, Problem.NO_SUCH_TOOL, "tool_choice"),
        ({"tools": [RISK, RISK]}, Problem.NO_SUCH_TOOL, "tools"),
        (
            {"tools": [RISK],
             "tool_choice": {"type": "function", "function": {"name": "unknown"}}},
            Problem.NO_SUCH_TOOL, "tool_choice",
        ),
        (
            {"tools": [tool(age={"type": "number"})], "tool_choice": "required"},
            Problem.TOOL_NOT_FORCED, "tool_choice",
        ),
        (
            {"tools": [tool(a={"enum": list(range(9))}, b={"enum": list(range(8))})],
             "tool_choice": "required"},
            Problem.TOOL_NOT_FORCED, "tool_choice",
        ),
        (
            {"tools": [tool(a={"enum": ["b", "x" * 243]})], "tool_choice": "required"},
            Problem.FORCED_CALL_TOO_LONG, "tools",
        ),
        (
            {"tools": [tool(a={"const": "x" * 9000})],
             "tool_choice": {"type": "function", "function": {"name": "risk"}}},
            Problem.FORCED_CALL_TOO_LONG, "tools",
        ),
        ({"tools": [RISK], "n": 2}, Problem.NOT_WITH_TOOLS, "n"),
        ({"tools": [RISK], "logprobs": True}, Problem.NOT_WITH_TOOLS, "logprobs"),
        (
            {"tools": [RISK], "sonoray": {"options": ["a", "b"]}},
            Problem.NOT_WITH_TOOLS, "sonoray.options",
        ),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_called_are_refused(values: Any, problem: Problem, param: str):
    with pytest.raises(ApiError) as refused:
        read_tools(request(**values))
    assert (refused.value.problem, refused.value.param) == (problem, param)


def refusal(tools: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """What a client reads of a request that is refused."""
    body = {"model": "m", "messages": [QUESTION], "tools": tools, **values}
    with pytest.raises(ApiError) as refused:
        parse_request(ChatRequest, json.dumps(body).encode(), 10_000)
    assert refused.value.problem is Problem.INVALID_VALUE
    error: dict[str, Any] = refused.value.body()["error"]
    return error


def of_schema(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "risk", "parameters": schema}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string", "enum": ["a"]}, "type must be object"),
        ({"type": ["object", "null"]}, "type must be object"),
        ({"properties": []}, "properties must be an object of schemas"),
        ({"properties": {"a": 1}}, "properties must be an object of schemas"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "without $ref"),
        ({"properties": {"a": {"type": "array", "items": {"$ref": "#"}}}}, "without $ref"),
        ({"properties": {"a": {"enum": ["x"]}}, "required": "a"}, "required must be a list"),
        ({"properties": {"a": {"enum": ["x"]}}, "required": ["b"]}, "required must be a list"),
        ({"properties": {"a": {"enum": ["x"]}}, "required": [["a"]]}, "required must be a list"),
        ({"properties": {"a": {"type": "string", "enum": ["x", 3]}}}, "of the schema's type"),
        ({"properties": {"a": {"type": "integer", "const": True}}}, "of the schema's type"),
        ({"properties": {"a": {"type": "integer", "const": 1.5}}}, "of the schema's type"),
        ({"properties": {"a": {"type": "boolean", "enum": [0, 1]}}}, "of the schema's type"),
        ({"properties": {"a": {"enum": [1, 2], "const": 3}}}, "const must be in enum"),
        ({"properties": {"a": {"enum": []}}}, "enum must be a list"),
        ({"properties": {"a": {"type": "text"}}}, "a type must be one of string, "),
        ({"properties": {"a": {"enum": [float("nan"), 1]}}}, "must be finite"),
        ({"properties": {"a": {"const": float("inf")}}}, "must be finite"),
    ],
)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_schema_that_contradicts_itself_is_refused(schema: Any, told: str, choice: str):
    error = refusal([RISK, of_schema(schema)], tool_choice=choice)
    assert error["param"] == "tools[1].function.parameters"
    assert told in error["message"]
    assert error["code"] == "invalid_value"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"properties": {"$ref": {"enum": [1, 2.0]}}},
        {"properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}},
        {"properties": {"a": {"type": "integer", "enum": [1, 2.0, 10**400]}}},
        {"properties": {"a": {"type": "array", "items": {"type": "number"}}, "b": True}},
        {"properties": {"a": {"const": {"$ref": "x"}}}},
    ],
)
def test_a_schema_that_is_whole_is_taken(schema: Any):
    assert read_tools(request(tools=[of_schema(schema)])) is not None


@pytest.mark.parametrize("key", ["minProperties", "anyOf", "patternProperties", "not", "enum"])
def test_no_call_is_forced_of_a_schema_that_says_more(key: str):
    value: Any = {"minProperties": 2, "anyOf": [], "enum": [{}]}.get(key, {})
    parameters = {"type": "object", "properties": {"a": {"enum": [1]}}, key: value}
    with pytest.raises(ApiError) as refused:
        read_tools(request(tools=[of_schema(parameters)], tool_choice="required"))
    assert refused.value.problem is Problem.TOOL_NOT_FORCED


@pytest.mark.parametrize(
    ("tools", "param", "told"),
    [
        ([tool(f"t{number}") for number in range(17)], "tools", "at most 16 are accepted"),
        ([RISK, tool("a b")], "tools[1].function.name", "^[a-zA-Z0-9_-]{1,64}$"),
        (
            [{"type": "function", "function": {"name": "a", "description": "x" * 1025}}],
            "tools[0].function.description", "at most 1024 characters are accepted",
        ),
    ],
)  # fmt: skip
def test_a_limit_is_said_with_its_place(tools: Any, param: str, told: str):
    error = refusal(tools)
    assert error["param"] == param
    assert told in error["message"]
    assert param in error["message"]


def test_the_place_of_an_earlier_call_is_said():
    body = {"model": "m", "messages": [QUESTION, called(name="a b")]}
    with pytest.raises(ApiError) as refused:
        parse_request(ChatRequest, json.dumps(body).encode(), 10_000)
    assert refused.value.param == "messages[1].tool_calls[0].function.name"


def test_a_forced_call_may_be_as_long_as_an_option():
    tools = read_tools(request(tools=[tool(a={"const": "x" * 242})], tool_choice="required"))
    assert tools is not None
    assert list(map(len, tools.texts)) == [256]


def test_results_stand_before_the_question_and_the_site_before_them():
    asked = {"role": "user", "content": "检查部位：乳腺。良性还是恶性？"}
    found = told(asked, called(), result("恶性\n0.83"))
    assert found == [
        {"role": "user", "content": "检查部位：乳腺。工具risk：恶性 0.83。良性还是恶性？"}
    ]
    after = [{"role": "assistant", "content": "恶性"}, {"role": "user", "content": "为什么？"}]
    assert told(asked, called(), result("x"), *after)[1:] == after


def test_two_calls_have_two_results():
    both = called()
    both["tool_calls"] = [*both["tool_calls"], *called("call_2", "other")["tool_calls"]]
    found = told(QUESTION, both, result("b", "call_2"), result("a"))
    assert found[0]["content"] == "工具other：b。工具risk：a。良性还是恶性？"


@pytest.mark.parametrize(
    ("messages", "problem", "param"),
    [
        ([QUESTION, result("x")], Problem.NO_SUCH_CALL, "messages[1].tool_call_id"),
        ([QUESTION, called(), result("x", "call_9")], Problem.NO_SUCH_CALL, None),
        ([QUESTION, called(), QUESTION], Problem.CALL_WITHOUT_RESULT, "messages[2]"),
        ([QUESTION, called()], Problem.CALL_WITHOUT_RESULT, "messages[1]"),
        ([called(), result("x"), QUESTION], Problem.CALL_WITHOUT_QUESTION, "messages[0]"),
    ],
)
def test_calls_and_results_belong_together(messages: Any, problem: Problem, param: str | None):
    with pytest.raises(ApiError) as refused:
        told(*messages)
    assert refused.value.problem is problem
    assert param is None or refused.value.param == param
