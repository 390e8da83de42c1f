"""A model that may call tools: real tools, and answers by script, as a service would give them."""

import json
import sys
from time import perf_counter, sleep

import pytest

from sonoray.errors import ConfigError
from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.structured.risk_model import RiskModel, Term
from sonoray_jobs.evaluation.toolcalls.assist_report import (
    ALONE,
    AskedOne,
    assist_table,
    judge_assisted,
)
from sonoray_jobs.evaluation.toolcalls.clinical_tools import ProgramTool, RiskTool, call_tool
from sonoray_jobs.evaluation.toolcalls.tool_endpoint import ToolReply
from sonoray_jobs.evaluation.toolcalls.tool_loop import assist
from sonoray_jobs.road.assist_config import AssistConfig, ToolProgram

OPTIONS = ("良性", "恶性")
MODEL = RiskModel(
    outcome="pathology", positive="malignant", base=0.0, threshold=0.5, penalty=1.0,
    num_studies=10, num_positive=5,
    terms={"age": Term(is_number=True, weights={"number": 1.0, "unknown": 0.0},
                       centre=50, spread=10)},
)  # fmt: skip
RISK = RiskTool(model=MODEL, records={"s": {"age": 70.0}, "bare": {}}, positive="恶性")


class Scripted:
    """Answers in turn with calls or words, and chooses the last option; notes what it was asked."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []

    def answer(self, messages, *, tools=(), tool_choice="auto", max_tokens=1, options=()):
        self.asked.append((list(messages), [each["name"] for each in tools], tool_choice))
        if options:
            return ToolReply(text=options[-1], message={}, options=dict.fromkeys(options, -1.0))
        said = self.script.pop(0) if self.script else "恶性"
        if isinstance(said, str):
            return ToolReply(text=said, message={"role": "assistant", "content": said}, tokens=5)
        calls = tuple((f"call_{n}", name, given) for n, (name, given) in enumerate(said))
        return ToolReply(text="", message={"role": "assistant"}, calls=calls, tokens=5)


def ask(endpoint, tools=(RISK,), max_calls=4, study="s", **settings):
    config = AssistConfig(**settings)
    return assist(endpoint, "良性还是恶性？", OPTIONS, (), study, tools, config, max_calls)


def program(code, timeout_s=5.0, name="lab"):
    command = (sys.executable, "-c", code)
    tool = ToolProgram(name=name, command=command, parameters={"of": ("blood", "urine")})
    return ProgramTool(program=tool, timeout_s=timeout_s)


def test_a_call_is_made_and_its_result_goes_back():
    endpoint = Scripted([("risk", '{"about": "probability"}')], "恶性")
    found = ask(endpoint)
    assert found.ended == "called"
    assert [(step.outcome, step.result) for step in found.steps] == [("answered", "恶性 88%")]
    assert found.calls == 3
    assert found.answer == "恶性"
    last, tools, _ = endpoint.asked[-1]
    assert not tools  # it has to answer now
    assert last[-1] == {"role": "tool", "tool_call_id": "call_0", "content": "恶性 88%"}


def test_a_model_that_calls_nothing_is_said_to():
    found = ask(Scripted("恶性病灶"))
    assert (found.ended, found.steps, found.said, found.calls) == ("no-call", (), "恶性病灶", 2)


@pytest.mark.parametrize("max_calls", [1, 2, 3, 5])
def test_a_loop_never_runs_past_its_cap(max_calls):
    endpoint = Scripted(*[[("risk", "{}")]] * 50)
    found = ask(endpoint, max_calls=max_calls)
    assert found.ended == "cap"
    assert len(endpoint.asked) == found.calls == max_calls
    assert len(found.steps) == max_calls - 1
    assert found.answer == "恶性"


def test_a_budget_of_no_calls_is_refused():
    with pytest.raises(ConfigError, match="--max-calls 0 leaves no call; give at least 1"):
        ask(Scripted(), max_calls=0)


def test_a_forced_call_needs_one_beside_the_answers():
    with pytest.raises(
        ConfigError, match=r"--max-calls 1 leaves no call for a tool, .* at least 2"
    ):
        ask(Scripted(), max_calls=1, tool_choice="required")


def test_a_forced_call_is_made_once():
    endpoint = Scripted(*[[("risk", '{"about": "reasons"}')]] * 5)
    found = ask(endpoint, tool_choice="required")
    assert (found.ended, found.calls) == ("called", 2)
    assert endpoint.asked[0][2] == "required"
    assert found.steps[0].result == "age 70.0 +2.0"


@pytest.mark.parametrize(
    ("name", "arguments", "study", "outcome"),
    [
        ("unknown", "{}", "s", "unknown-tool"),
        ("risk", "not json", "s", "bad-arguments"),
        ("risk", "[1]", "s", "bad-arguments"),
        ("risk", '{"about": "weather"}', "s", "bad-arguments"),
        ("risk", '{"other": 1}', "s", "bad-arguments"),
        ("risk", '{"about": ["x"]}', "s", "bad-arguments"),
        ("risk", "{}", "bare", "no-columns"),
        ("risk", "{}", "nobody", "no-columns"),
        ("risk", "", "s", "answered"),
    ],
)
def test_what_a_tool_cannot_answer_is_counted(name, arguments, study, outcome):
    assert call_tool([RISK], study, name, arguments).outcome == outcome


def test_a_program_is_asked_about_the_study():
    code = "import json; a = json.loads(input()); print(json.dumps({'result': str(a)}))"
    found = call_tool([program(code)], "s", "lab", '{"of": "blood"}')
    assert found.outcome == "answered"
    assert found.text == "{'study': 's', 'arguments': {'of': 'blood'}}"
    counts = "import json; print(json.dumps({'result': str(len(input()))}))"
    assert int(call_tool([program(counts)], "s" * 200_000, "lab", "{}").text) > 200_000


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print('nonsense')", "no-json"),
        ("", "no-json"),
        ("print('{}')", "wrong-form"),
        ("print('[]')", "wrong-form"),
        ("import sys; sys.stdout.buffer.write(bytes([255]))", "no-json"),
        ("print('[' * 60000)", "no-json"),
        ("print('{\"result\": 3}')", "wrong-form"),
        ('print(\'{"result": " "}\')', "wrong-form"),
        ("raise SystemExit(3)", "failed"),
        ("print('x' * 65536)", "too-long"),
    ],
)
def test_a_program_that_answers_nonsense_is_counted_and_ends_nothing(code, outcome):
    endpoint = Scripted([("lab", "{}")], "恶性")
    found = ask(endpoint, tools=(program(code),))
    assert [step.outcome for step in found.steps] == [outcome]
    assert found.answer == "恶性"


def test_a_program_that_does_not_answer_is_stopped():
    begun = perf_counter()
    found = call_tool([program("import time; time.sleep(60)", 0.3)], "s", "lab", "{}")
    assert found.outcome == "timeout"
    assert perf_counter() - begun < 20
    long = "s" * 200_000  # more than a pipe holds, and nobody reads it
    asked = call_tool([program("import time; time.sleep(60)", 0.3)], long, "lab", "{}")
    assert asked.outcome == "timeout"
    assert perf_counter() - begun < 20
    gone = ProgramTool(program=ToolProgram(name="x", command=("/no/such/program",)), timeout_s=1)
    assert gone.call("s", {}).outcome == "failed"
    assert program("").call("s", {"of": "hair"}).outcome == "bad-arguments"


def test_a_program_that_prints_without_end_is_stopped_with_its_children(tmp_path):
    note = tmp_path / "alive"
    child = f"import time; time.sleep(1.5); open({str(note)!r}, 'w')"
    code = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "while True: sys.stdout.write('x' * 65536)"
    )
    begun = perf_counter()
    assert program(code, 60.0).call("s", {}).outcome == "too-long"
    assert perf_counter() - begun < 20
    sleep(3)
    assert not note.exists()


def test_a_program_that_leaves_its_output_open_is_late():
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60'])"
    begun = perf_counter()
    assert program(code, 1.0).call("s", {}).outcome == "timeout"
    assert perf_counter() - begun < 20


def test_ways_are_paired_and_calls_are_counted():
    asked = []
    for number in range(20):
        endpoint = Scripted([("risk", "{}"), ("other", "{}")] if number % 2 else "恶性")
        asked.append(
            AskedOne(
                study_id=f"s{number}", patient_key=f"p{number}", truth=OPTIONS[number % 4 > 0],
                alone="良性", assisted=ask(endpoint), by_risk="恶性",
            )
        )  # fmt: skip
    values = judge_assisted(asked, "恶性", Bootstrap(num_resamples=1000))
    assert values["num_called"] == 10
    assert values["outcomes"]["answered"] == values["outcomes"]["unknown-tool"] == 10
    assert values["ways"][ALONE]["false_negatives"]["value"] == 1
    assert values["with_tools_minus"][ALONE]["accuracy"]["value"] == pytest.approx(0.5)
    assert len(assist_table(values).rows) == 3
    assert json.dumps(values)
