"""Tools of a request: offered, forced, called and answered."""

import json
from typing import Any

import pytest

from sonoray_serve.messages import Finished, Piece
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.api import ChatRequest
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
