"""The OpenAI shapes of tools: what a request offers, and the calls and results of a conversation.

Only tools of the type `function` are known; what is OpenAI's own (`custom`, `allowed_tools`) is
refused by its place.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sonoray_serve.shapes.tool_schemas import check_parameters

MAX_TOOLS = 16
"""Tools that a request may offer."""
MAX_CALLS = 8
"""Calls of one earlier answer."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class Shape(BaseModel):
    """A part of a request: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FunctionSpec(Shape):
    """A function that the model may call."""

    name: Name
    description: Annotated[str, Field(max_length=1024)] | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(check_parameters)] | None = None
    """JSON schema of an object; none takes no arguments."""
    strict: bool | None = None
    """Accepted: a call that is forced always fits the schema, another one may not."""


class Tool(Shape):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Shape):
    """Which function has to be called."""

    name: Name


class NamedTool(Shape):
    """Which tool has to be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool
"""Whether a tool is called."""


class FunctionCall(Shape):
    """A call's function, and its arguments as the JSON text that the model wrote."""

    name: Name
    arguments: Annotated[str, Field(max_length=4096)]


class ToolCall(Shape):
    """A call of an earlier answer."""

    id: CallId
    type: Literal["function"]
    function: FunctionCall


class CalledFunction(BaseModel):
    """A call's function and arguments, in an answer."""

    name: str
    arguments: str


class CallMade(BaseModel):
    """A call in an answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class CallChunk(CallMade):
    """A call in a chunk of a stream; it comes whole."""

    index: int = 0
