"""Tools that a model may call about a patient: the risk model, and programs of a user.

A program is a command that reads one line of JSON, `{"study": ..., "arguments": {...}}`, and prints
a JSON object with a text `result`, within a time. Whatever else it does (nothing, an error, other
output) is told to the model as an error and counted by its kind; it ends no run. The risk model is
arithmetic on numbers that lie here, and needs no time limit.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.structured.patient_columns import Record
from sonoray_jobs.evaluation.structured.risk_model import RiskModel
from sonoray_jobs.evaluation.toolcalls.program_run import run_program
from sonoray_jobs.road.assist_config import RISK, ToolProgram

Outcome = Literal[
    "answered",
    "unknown-tool",
    "bad-arguments",
    "no-columns",
    "timeout",
    "failed",
    "too-long",
    "no-json",
    "wrong-form",
]
"""How a call ended. Of programs: `failed` did not start or exited with another status than zero,
`too-long` printed without end, `wrong-form` printed JSON without a text `result`."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_ABOUT = ("probability", "reasons")
_MOST_REASONS = 3
_MOST_CHARS = 200
"""Of a result, as the decoder's context is short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a tool answered."""

    outcome: Outcome
    text: str
    """What the model is told."""


class ClinicalTool(Protocol):
    """Something that may be called about a patient."""

    @property
    def spec(self) -> dict[str, Any]:
        """The function as OpenAI's API describes it."""

    def call(self, study: str, arguments: Mapping[str, Any]) -> Result:
        """Answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskTool:
    """The risk model, for patients whose columns are known here."""

    model: RiskModel
    records: Mapping[str, Record]
    positive: str
    """What the outcome is called in answers."""

    @property
    def spec(self) -> dict[str, Any]:
        """See `ClinicalTool`."""
        about = {"type": "string", "enum": list(_ABOUT)}
        return {
            "name": RISK,
            "description": f"{self.positive}",
            "parameters": {
                "type": "object",
                "properties": {"about": about},
                "required": ["about"],
                "additionalProperties": False,
            },
        }

    def call(self, study: str, arguments: Mapping[str, Any]) -> Result:
        """See `ClinicalTool`."""
        about = arguments.get("about", _ABOUT[0])
        if set(arguments) - {"about"} or about not in _ABOUT:
            return Result(outcome="bad-arguments", text=f"about: {' | '.join(_ABOUT)}")
        record = self.records.get(study, {})
        if not record:
            return Result(outcome="no-columns", text="?")
        if about == _ABOUT[0]:
            percent = round(100 * self.model.probability(record))
            return Result(outcome="answered", text=f"{self.positive} {percent}%")
        own = list(self.model.contributions(record).items())[:_MOST_REASONS]
        told = ", ".join(f"{name} {record.get(name, '?')} {value:+.1f}" for name, value in own)
        return Result(outcome="answered", text=told[:_MOST_CHARS])


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramTool:
    """A program of a user."""

    program: ToolProgram
    timeout_s: float

    def check(self) -> None:
        """Refuse a program that cannot be started.

        Raises:
            ConfigError: it does not exist or is not executable.
        """
        first = self.program.command[0]
        if shutil.which(first) is None:
            raise ConfigError(
                f"assist.programs: {self.program.name!r} has the command {first!r}, which does not "
                "exist or is not executable; correct it, or chmod +x"
            )

    @property
    def contents(self) -> tuple[str, ...]:
        """Of each word of the command the sha256 of the file that it names; empty if none."""
        first, *others = self.program.command
        return tuple(map(_content, (shutil.which(first) or first, *others)))

    @property
    def spec(self) -> dict[str, Any]:
        """See `ClinicalTool`."""
        return {
            "name": self.program.name,
            "description": self.program.description,
            "parameters": {
                "type": "object",
                "properties": {
                    name: {"type": "string", "enum": list(values)}
                    for name, values in self.program.parameters.items()
                },
            },
        }

    def call(self, study: str, arguments: Mapping[str, Any]) -> Result:
        """See `ClinicalTool`."""
        for name, value in arguments.items():
            if value not in self.program.parameters.get(name, ()):
                return Result(outcome="bad-arguments", text="?")
        asked = json.dumps({"study": study, "arguments": dict(arguments)}, ensure_ascii=False)
        ran = run_program(self.program.command, asked, self.timeout_s)
        if ran.ended != "done":
            return Result(outcome=ran.ended, text="?")
        try:
            found = json.loads(ran.printed)
        except (ValueError, RecursionError):
            return Result(outcome="no-json", text="?")
        text = found.get("result") if isinstance(found, dict) else None
        if not isinstance(text, str) or not text.strip():
            return Result(outcome="wrong-form", text="?")
        return Result(outcome="answered", text=" ".join(text.split())[:_MOST_CHARS])


def _content(word: str) -> str:
    try:
        if not Path(word).is_file():
            return ""
        with Path(word).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # code as a word is too long for a path
        return ""


def call_tool(tools: Sequence[ClinicalTool], study: str, name: str, arguments: str) -> Result:
    """Call a tool as a model wrote it down.

    Args:
        tools: that were offered.
        study: the patient's.
        name: of the tool.
        arguments: JSON, or what the model took for it.
    """
    tool = next((each for each in tools if each.spec["name"] == name), None)
    if tool is None:
        return Result(outcome="unknown-tool", text="?")
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Result(outcome="bad-arguments", text="?")
    return tool.call(study, found)
