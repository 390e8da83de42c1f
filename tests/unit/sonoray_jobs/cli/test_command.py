"""Every option of every command changes something, and every command has the same manners."""

import ast
import importlib
import inspect
import json
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from sonoray_jobs.cli.main import app, main
from sonoray_jobs.road.config import RoadConfig

K8S = "sonoray_jobs.cluster.kubernetes.site_commands"
SITE = ["--site", "dev-cpu"]
JOBS = {
    "demo": ("sonoray_jobs.demo:run", []),
    "doctor": ("sonoray_jobs.cluster.doctor:run", []),
    "ingest": ("sonoray_jobs.data.ingest:run", ["table", "studies.csv"]),
    "relabel": ("sonoray_jobs.data.relabel:run", ["phantom", "labels.csv", "--name", "mended"]),
    "phantom": ("sonoray_jobs.data.phantom:run", []),
    "audit": ("sonoray_jobs.data.audit:run", ["phantom"]),
    "quarantine list": ("sonoray_jobs.data.quarantine:list_rows", ["phantom"]),
    "quarantine retry": ("sonoray_jobs.data.quarantine:retry", ["phantom"]),
    "audit-log verify": ("sonoray_serve.keys.log_chain:verify", ["log"]),
    "quarantine locate": ("sonoray_jobs.data.reject_names:locate", ["phantom"]),
    "bootstrap": ("sonoray_jobs.towers.bootstrap:run", []),
    "embed": ("sonoray_jobs.towers.embed:run", []),
    "train": ("sonoray_jobs.training.train:run", []),
    "evaluate": ("sonoray_jobs.evaluation.modes.error_sources:run", []),
    "validate": (
        "sonoray_jobs.evaluation.external.validate:run",
        ["model", "--dataset", "other"],
    ),
    "compare": ("sonoray_jobs.evaluation.compare:run", ["first", "second"]),
    "runs": ("sonoray_jobs.evaluation.listing.list_runs:run", []),
    "ablate": ("sonoray_jobs.evaluation.ablation.ablate:run", ["modality"]),
    "recognize": (
        "sonoray_jobs.evaluation.recognition.recognize:run",
        ["--classes", "phantom-zh"],
    ),
    "methods": ("sonoray_jobs.methods.list_methods:run", []),
    "extract": ("sonoray_jobs.evaluation.extraction.extract:run", []),
    "distil": ("sonoray_jobs.evaluation.student.distil:run", []),
    "second-opinion": (
        "sonoray_jobs.evaluation.opinion.second_opinion:run",
        ["--topic", "margin"],
    ),
    "risk": ("sonoray_jobs.evaluation.structured.predict_risk:run", []),
    "tell": ("sonoray_jobs.evaluation.telling.tell_columns:run", []),
    "assist": ("sonoray_jobs.evaluation.toolcalls.assist:run", []),
    "tune": ("sonoray_jobs.training.tuning.tune:run", []),
    "segment": ("sonoray_jobs.evaluation.segmentation.segment:run", []),
    "probe-states": ("sonoray_jobs.evaluation.encoding.probe_states:run", []),
    "probe": ("sonoray_jobs.evaluation.probing.probe:run", []),
    "robustness": ("sonoray_jobs.evaluation.robustness.assess:run", []),
    "sweep": ("sonoray_jobs.evaluation.sweeping.sweep:run", ["--over", "train.seed:0..9"]),
    "describe": ("sonoray_jobs.release.describe:run", []),
    "export": ("sonoray_jobs.release.export:run", []),
    "promote": ("sonoray_jobs.release.promote:run", ["models:/m/2"]),
    "rollback": ("sonoray_jobs.release.promote:roll_back", ["m"]),
    "serve": ("sonoray_jobs.service.serve:run", []),
    "ask": ("sonoray_jobs.service.ask:run", ["a.png", "--question", "?"]),
    "documents make": ("sonoray_jobs.evaluation.documents.make_pages:run", []),
    "documents evaluate": ("sonoray_jobs.evaluation.documents.ask_pages:run", ["pages"]),
    "consult": ("sonoray_jobs.evaluation.roles.consult:run", []),
    "write-bank": (
        "sonoray_jobs.service.class_writer:run",
        ["--classes", "phantom-zh", "--out", "mine.toml"],
    ),
    "submit": ("sonoray_jobs.cluster.submit:run", ["train"]),
    "k8s render": (f"{K8S}:render_site", SITE),
    "k8s diff": (f"{K8S}:diff_parts", SITE),
    "k8s apply": (f"{K8S}:apply_parts", SITE),
    "k8s status": (f"{K8S}:show_status", SITE),
    "k8s submit": (f"{K8S}:submit_step", ["train", *SITE]),
    "k8s logs": (f"{K8S}:follow_job", ["train", *SITE]),
    "k8s delete": (f"{K8S}:delete_parts", ["service", *SITE]),
    "k8s rollback": (f"{K8S}:roll_back", SITE),
    "k8s history": (f"{K8S}:show_history", SITE),
}
"""By command: the function that it calls, and arguments that it needs."""

VALUES = {
    "--classes": "chest-en",
    "--workspace": "elsewhere",
    "--config": "busbra",
    "--set": "phantom.seed=7",
    "--address": "10.0.0.5:6379",
    "--dataset": "kidney",
    "--out": "folder",
    "--html": "page.html",
    "--distance": "7",
    "--against": "busi",
    "--columns": "report=a",
    "--charset": "gb18030",
    "--name": "kidney",
    "--images": "7",
    "--language": "en",
    "--reports": "reports.csv",
    "--query": "StudyDate=20200101-",
    "--reason": "unreadable",
    "--show": "3",
    "--split": "validation",
    "--gallery": "2",
    "--seeds": "5,6",
    "--variants": "distilled",
    "--redundancy": "3,9",
    "--label": "site",
    "--parallel": "3",
    "--text-tokens": "64",
    "--model": "folder",
    "--host": "::1",
    "--port": "9000",
    "--adapters": "adapters.toml",
    "--api-key-file": "key.txt",
    "--question": "??",
    "--study": "s1",
    "--study-uid": "1.2.3",
    "--studies": "7",
    "--role": "texture",
    "--run": "phantom-3f2a",
    "--alias": "canary",
    "--allow-changed": "train.seed",
    "--despite": "reason",
    "--where": "loss > 1",
    "--over": "model.lora.rank:[4, 8]",
    "--search": "random",
    "--trials": "7",
    "--metric": "validation_hit",
    "--mode": "max",
    "--grace": "7",
    "--option": "yes",
    "--max-studies": "7",
    "--max-calls": "7",
    "--max-tokens": "700",
    "--kind": "probe",
    "--targets": "strain.csv",
    "--table": "patients.csv",
    "--topic": "pathology",
    "--plant": "0.2",
    "--claims": "captions",
    "--truth": "clean",
    "--perturb": "gain",
    "--strengths": "0.5",
    "--references": "8",
    "--seed": "7",
    "--sort": "loss",
    "--limit": "7",
    "--experiment": "other",
    "--site": "gpu-prod",
    "--manifests": "folder",
    "--context": "other",
    "--wait": "7",
    "--url": "http://127.0.0.1:9/v1",
}
"""By option that takes a value: one that is not its default."""


def commands() -> dict[str, Any]:
    """All commands, those of groups under both names."""
    found: dict[str, Any] = {}
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name, command in root.commands.items():
        if isinstance(command, TyperGroup):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


def options(command: str) -> list[str]:
    """The options of a command; of a switch that is on by default the one that turns it off."""
    given = [each for each in commands()[command].params if each.opts[0].startswith("--")]
    return [(each.secondary_opts or each.opts)[0] for each in given]


@dataclass
class Nothing:
    """The result of a job that was not run."""

    called: str

    def lines(self) -> list[str]:
        return [self.called]

    def to_json(self) -> dict[str, str]:
        return {"called": self.called}


def named_road(workspace, run: str, overrides: list[str]) -> RoadConfig:
    return RoadConfig(name=f"of-{run}")


def named_model(workspace, model: str | None, run: str | None, usual: str = "") -> str:
    return f"{model} {run} {usual}"


@pytest.fixture
def outcome(monkeypatch, capsys, tmp_path):
    """What a command line does: the calls of its job, and what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("SONORAY_SITE", raising=False)

    def run(command: str, *given: str):
        name, needed = JOBS[command]
        calls: list[Any] = []

        def record(called: str):
            def job(*args: Any, **kwargs: Any) -> Nothing:
                kwargs.pop("write", None)
                calls.append((called, args, kwargs))
                return Nothing(called)

            return job

        module, _, function = name.partition(":")
        monkeypatch.setattr(f"{module}.{function}", record(function))
        # which training and model a name means: test_named_runs.py, test_registered.py
        monkeypatch.setattr("sonoray_jobs.outputs.named_runs.road_of_run", named_road)
        monkeypatch.setattr("sonoray_jobs.outputs.registered.model_of", named_model)
        if command in ("ablate", "sweep"):
            monkeypatch.setattr(f"{module}.plan", record("plan"))
        with pytest.raises(SystemExit) as caught:
            main([*command.split(), *needed, *given])
        captured = capsys.readouterr()
        assert not caught.value.code, captured.err
        return calls, captured.out

    return run


def test_the_table_has_every_command():
    assert set(commands()) == set(JOBS)


@pytest.mark.parametrize("command", JOBS)
def test_every_option_that_a_command_accepts_changes_what_is_done(outcome, command):
    usual = outcome(command)
    for option in options(command):
        if option != "--help":
            value = [VALUES[option]] if option in VALUES else []
            assert outcome(command, option, *value) != usual, option


def test_a_training_brings_its_settings_so_that_config_beside_it_is_refused(capsys, tmp_path):
    for command in ("evaluate", "export", "serve", "promote"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--run", "phantom-3f2a", "--config", "tiny"])
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("error: --config tiny and --run phantom-3f2a: ")
        assert told.count("\n") == 1


@pytest.mark.parametrize("command", JOBS)
def test_a_job_reads_every_argument_that_it_takes(command):
    module, _, function = JOBS[command][0].partition(":")
    job = getattr(importlib.import_module(module), function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(job)))
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(inspect.signature(job).parameters) <= read


@pytest.mark.parametrize("command", JOBS)
def test_every_command_can_print_json_and_shows_examples(outcome, capsys, command):
    extra = ["--no-wait"] if command == "submit" else []
    _, out = outcome(command, "--json", *extra)
    assert json.loads(out).keys() == {"called"}
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert f"    sonoray {command}" in shown.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        ("doctor", {"--workspace", "--address"}),
        ("ingest", {"--workspace", "--config", "--set", "--dry-run", "--address"}),
        ("phantom", {"--workspace", "--config", "--set", "--dry-run"}),
        ("audit", {"--workspace"}),
        ("quarantine list", {"--workspace"}),
        ("quarantine retry", {"--workspace", "--config", "--set", "--dry-run", "--address"}),
        ("train", {"--workspace", "--config", "--set", "--dry-run", "--address"}),
        ("compare", {"--workspace"}),
        ("runs", {"--workspace"}),
        ("describe", {"--config", "--set"}),
        ("export", {"--workspace", "--config", "--set", "--dry-run"}),
        ("serve", {"--workspace", "--config", "--set", "--dry-run", "--address"}),
        ("ask", {"--workspace", "--config", "--set", "--dry-run"}),
    ],
)
def test_a_command_takes_no_option_that_its_job_cannot_use(command, shared):
    known = {"--workspace", "--config", "--set", "--dry-run", "--address"}
    assert known & set(options(command)) == shared
