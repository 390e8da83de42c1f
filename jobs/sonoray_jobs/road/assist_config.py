"""How a served model may call tools (`sonoray assist`)."""

from typing import Literal

from pydantic import Field, field_validator

from sonoray.config.model import Config

RISK = "risk"
"""The tool that is always there; no program has its name."""


class ToolProgram(Config):
    """A program that a model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", examples=["kidney_risk"])
    description: str = ""
    command: tuple[str, ...] = Field(min_length=1)
    """Reads a line of JSON with study and arguments, prints a JSON object with `result`."""
    parameters: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By parameter: the values that it may have."""


class AssistConfig(Config):
    """How a served model may call tools."""

    tool_choice: Literal["auto", "required"] = "auto"
    """Whether the model calls in its own words, or the likeliest call is made once before it
    answers."""
    programs: tuple[ToolProgram, ...] = ()
    """Tools beside the risk model."""
    timeout_s: float = Field(default=5.0, gt=0)
    """How long a program may take."""
    call_tokens: int = Field(default=48, ge=1)
    """Longest text in which the model may call."""

    @field_validator("programs")
    @classmethod
    def _names(cls, programs: tuple[ToolProgram, ...]) -> tuple[ToolProgram, ...]:
        names = [RISK, *(each.name for each in programs)]
        if doubles := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"assist.programs: two tools are called {doubles[0]!r}"
                f"{' (one is the risk model)' if doubles[0] == RISK else ''}; name each otherwise"
            )
        return programs
