"""The job: what its kept answers hang on, and the risk model that stands beside it."""

import json
import sys
from contextlib import contextmanager

import pytest

from sonoray.errors import ConfigError
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.toolcalls import assist
from sonoray_jobs.evaluation.toolcalls.tool_endpoint import ToolReply
from sonoray_jobs.road.config import load_road
from sonoray_jobs.service.connection import ServedModel


class Benign:
    """A service whose model calls nothing and says benign."""

    def __init__(self, **given):
        self.model = ServedModel(name="m", context_length=64, digest="d")

    def answer(self, messages, *, options=(), **given):
        said = options[0] if options else "-"
        return ToolReply(text=said, message={}, options=dict.fromkeys(options, -1.0))


@pytest.fixture
def served(monkeypatch):
    @contextmanager
    def connected(*given):
        yield None

    for name, value in {
        "connected": connected,
        "find_model": lambda connection: None,
        "read_key": lambda path: "",
        "ToolEndpoint": Benign,
        "pictures_of": lambda dataset, study: (),
    }.items():
        monkeypatch.setattr(assist, name, value)


def run(workspace, *settings):
    road = load_road("tiny", ["evaluate.bootstrap_samples=1000", *settings])
    return assist.run(
        workspace=workspace, road=road, dataset="d", max_studies=20, url="http://localhost"
    )


def test_a_changed_program_is_asked_again(served, risk_workspace, tmp_path):
    program = tmp_path / "lab.py"
    command = json.dumps([sys.executable, str(program), "-c", "x" * 5000])
    settings = f'assist.programs=[{{name="lab", command={command}}}]'
    program.write_text("print(1)", encoding="utf-8")
    first = run(risk_workspace, settings)
    assert run(risk_workspace, settings).output.path == first.output.path
    program.write_text("print(2)", encoding="utf-8")
    assert run(risk_workspace, settings).output.path != first.output.path
    program.unlink()  # the model is told that it answers nonsense
    assert run(risk_workspace, settings).output.path != first.output.path


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        (['assist.programs=[{name="lab", command=["/no/such/lab"]}]'], {}, "'/no/such/lab', which"),
        (['assist.programs=[{name="lab", command=["TABLE"]}]'], {}, "not executable"),
        (["assist.tool_choice=required"], {"max_calls": 1}, "--max-calls 1 leaves no call for"),
        ([], {"url": "localhost:8000"}, "--url 'localhost:8000' is no http or https URL"),
        (['assist.programs=[{name="risk", command=["x"]}]'], {}, "called 'risk' .one is the risk"),
        (['assist.programs=[{name="a", command=["x"]}, {name="a", command=["y"]}]'], {},
         "two tools are called 'a'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_read(tmp_path, settings, given, told):
    table = tmp_path / "table.csv"
    table.write_text("", encoding="utf-8")
    settings = [each.replace("TABLE", str(table)) for each in settings]
    bare = Workspace(tmp_path / "none")
    with pytest.raises(ConfigError, match=told):
        assist.run(workspace=bare, road=load_road("tiny", settings), dataset="d",
                   **{"url": "http://localhost", **given})  # fmt: skip


def test_the_risk_model_alone_answers_at_its_threshold(served, risk_workspace):
    """Of nobody below one half, where nearly all positives shall be called."""
    found = run(risk_workspace, "risk.sensitivity=0.99")
    lines = (found.output.path / "trace.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    model, _, material = assist.risk_stage(
        risk_workspace, load_road("tiny", ["evaluate.bootstrap_samples=1000",
                                           "risk.sensitivity=0.99"]), "d", "test", None
    )  # fmt: skip
    records = material.columns.of_study
    chances = {each["study_id"]: model.probability(records[each["study_id"]]) for each in told}
    assert any(model.threshold <= chance < 0.5 for chance in chances.values())
    for each in told:
        is_called = chances[each["study_id"]] >= model.threshold
        assert each["by_risk"] == ("恶性" if is_called else "良性")
