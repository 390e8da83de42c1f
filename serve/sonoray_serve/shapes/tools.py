"""Tools: what the decoder is told of them, how a call is read out of its text or forced.

A small decoder has no words for tools, so the form is ours. A line for each tool stands in a
system message.

With `tool_choice` `auto` the model answers as always. A text that is a call
(`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, or that JSON alone) of an offered tool
becomes `tool_calls`; any other stays a text. With `required` or a named tool every call that the
schemas allow is weighed as the whole answer, as the options of a closed question are, and the
likeliest is made: a forced call always fits its schema. So the schemas must leave a choice among
few: parameters with an `enum`, a `const` or booleans, all of them together in at most `MAX_OPTIONS`
calls, each no longer than an option. Nothing is run here; the client does that.
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sonoray_serve.messages import Finished, Piece
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.api import MAX_OPTION_CHARS, MAX_OPTIONS, ChatRequest
from sonoray_serve.shapes.tool_shapes import CalledFunction, CallMade, FunctionSpec, NamedTool

_MARKED = re.compile(r"^\s*<tool_call>(.*)</tool_call>\s*$", re.DOTALL)
_MAX_ARGUMENTS_CHARS = 4096
_OFFER = {
    "zh": "可用工具：{tools}。需要时只回答"
    '<tool_call>{{"name": 名称, "arguments": 参数}}</tool_call>。',
    "en": 'Tools: {tools}. To call one answer <tool_call>{{"name": its name, "arguments": its '
    "arguments}}</tool_call> alone.",
}
_SIMPLE = (str, bool, int, float)
_OF_OBJECT = frozenset(
    {"type", "title", "description", "properties", "required", "additionalProperties", "$schema"}
)
"""Keywords of the whole schema that leave each call with all arguments fitting."""
_SAID = frozenset({"type", "title", "description", "enum", "const", "default"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What a request offers."""

    specs: Mapping[str, FunctionSpec]
    """By name."""
    forced: tuple[CalledFunction, ...] = ()
    """The calls to choose among, where one has to be made."""

    def made(self, text: str) -> CalledFunction | None:
        """The call that an answer is; of a forced one the one that was weighed."""
        if not self.forced:
            return self.read(text)
        return self.forced[self.texts.index(text)]

    @property
    def texts(self) -> tuple[str, ...]:
        """The forced calls as answers to be weighed."""
        return tuple(f"{each.name} {each.arguments}" for each in self.forced)

    def offer(self, language: Literal["zh", "en"]) -> str:
        """What the decoder is told."""
        tools = "; ".join(map(_line, self.specs.values()))
        return _OFFER[language].format(tools=tools)

    def read(self, text: str) -> CalledFunction | None:
        """The call that a text is; None where it is a text."""
        marked = _MARKED.match(text)
        try:
            found = json.loads(marked.group(1) if marked else text)
        except ValueError:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get("arguments", {})
        if found["name"] not in self.specs or not isinstance(arguments, dict):
            return None
        written = _written(arguments)
        if len(written) > _MAX_ARGUMENTS_CHARS:
            return None
        return CalledFunction(name=found["name"], arguments=written)


def ends_with(tools: Tools, text: str, end: Finished) -> Iterator[Piece | CallMade | Finished]:
    """The end of an answer whose text is known whole: as a text, or as the call that it is."""
    called = tools.made(text)
    if called is None:
        yield Piece(text=text)
        yield end
        return
    yield CallMade(id=f"call_{uuid.uuid4().hex[:24]}", function=called)
    yield replace(end, reason="tool_calls")


def read_tools(request: ChatRequest) -> Tools | None:
    """The tools of a request; None where it offers none, or none may be called.

    Raises:
        ApiError: 400; they contradict each other, ask for what a call has not, or cannot be forced.
    """
    if request.tools is None:
        if request.tool_choice not in (None, "none"):
            raise ApiError(Problem.NO_SUCH_TOOL, "tool_choice")
        return None
    specs = {tool.function.name: tool.function for tool in request.tools}
    if len(specs) < len(request.tools):
        raise ApiError(Problem.NO_SUCH_TOOL, "tools")
    choice = request.tool_choice or "auto"
    if isinstance(choice, NamedTool) and choice.function.name not in specs:
        raise ApiError(Problem.NO_SUCH_TOOL, "tool_choice")
    if choice == "none":
        return None
    for place, is_set in (
        ("sonoray.options", request.sonoray is not None and request.sonoray.options is not None),
        ("response_format", request.response_format is not None
         and request.response_format.type != "text"),
        ("n", (request.n or 1) > 1),
        ("logprobs", bool(request.logprobs)),
    ):  # fmt: skip
        if is_set:
            raise ApiError(Problem.NOT_WITH_TOOLS, place)
    if choice == "auto":
        return Tools(specs=specs)
    wanted = [choice.function.name] if isinstance(choice, NamedTool) else list(specs)
    forced: list[CalledFunction] = []
    for name in wanted:
        own = _calls(specs[name])
        if own is None or len(forced) + len(own) > MAX_OPTIONS:
            raise ApiError(Problem.TOOL_NOT_FORCED, "tool_choice", MAX_OPTIONS)
        forced += own
    tools = Tools(specs=specs, forced=tuple(forced))
    if any(len(text) > MAX_OPTION_CHARS for text in tools.texts):
        raise ApiError(Problem.FORCED_CALL_TOO_LONG, "tools", MAX_OPTION_CHARS)
    return tools


def _calls(spec: FunctionSpec) -> list[CalledFunction] | None:
    """All calls that a schema allows, each with all its arguments; None where they are not few."""
    schema = spec.parameters or {}
    if schema.keys() - _OF_OBJECT:
        return None
    properties = schema.get("properties", {})
    values = [_values(each) for each in properties.values()]
    count = 1
    for own in values:
        count *= len(own or ())
    if count > MAX_OPTIONS or not all(values):
        return None
    return [
        CalledFunction(
            name=spec.name, arguments=_written(dict(zip(properties, chosen, strict=True)))
        )
        for chosen in itertools.product(*[own or [] for own in values])
    ]


def _values(schema: Any) -> list[Any]:  # noqa: ANN401 - a client's JSON
    """The values of a parameter; none where the schema does not list them."""
    if not isinstance(schema, dict) or schema.keys() - _SAID:
        return []
    if "const" in schema:
        listed = [schema["const"]]
    elif "enum" in schema:
        listed = schema["enum"]
    else:
        listed = [True, False] if schema.get("type") == "boolean" else []
    if not isinstance(listed, list) or not all(isinstance(each, _SIMPLE) for each in listed):
        return []
    return listed


def _line(spec: FunctionSpec) -> str:
    """A tool in one line: its name, its parameters with their values, what it does."""
    properties = (spec.parameters or {}).get("properties", {})
    told = ", ".join(
        f"{name}: {'|'.join(map(_plain, values))}" if (values := _values(schema)) else str(name)
        for name, schema in properties.items()
    )
    does = f" - {' '.join(spec.description.split())}" if spec.description else ""
    return f"{spec.name}({told}){does}"


def _plain(value: Any) -> str:  # noqa: ANN401 - a client's JSON
    return value if isinstance(value, str) else json.dumps(value)


def _written(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)
