import json
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from sonoray.workspace import DEFAULT_WORKSPACE as PLATFORM_WORKSPACE
from sonoray_jobs.cli.main import main
from sonoray_jobs.cli.options import DEFAULT_WORKSPACE
from sonoray_jobs.data import phantom
from sonoray_jobs.evaluation.ablation.variants import ABLATIONS, RECOGNITION

COMMANDS = [
    "doctor",
    "describe",
    "demo",
    "phantom",
    "ingest",
    "audit",
    "quarantine",
    "bootstrap",
    "embed",
    "train",
    "evaluate",
    "compare",
    "runs",
    "ablate",
    "sweep",
    "export",
    "serve",
    "ask",
    "submit",
]
OF_HELP = {
    "sonoray", "sonoray_jobs", "typer", "annotated_doc", "shellingham",
    "rich", "markdown_it", "mdurl", "pygments", "attr",
}  # fmt: skip
"""Packages behind `sonoray --help`: our own, typer, and what draws its help."""
SMALL = ["--set", "phantom.num_patients=2"]


@pytest.fixture
def sonoray(capsys):
    """Run the command line in this process; its exit code, stdout and stderr."""

    def run(*arguments: str):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


def test_help_lists_every_command(sonoray):
    code, out, err = sonoray("--help")
    assert (code, err) == (0, "")
    assert set(COMMANDS) <= set(out.split())


def test_the_help_of_ablate_names_every_ablation(sonoray):
    code, out, _ = sonoray("ablate", "--help")
    assert code == 0
    assert {*ABLATIONS, RECOGNITION} <= {word.strip(",.") for word in out.split()}


def test_the_version_is_that_of_the_installed_package(sonoray):
    assert sonoray("--version") == (0, f"sonoray {version('sonoray')}\n", "")


def test_help_imports_few_modules_and_nothing_heavy():
    """What it costs follows from this and holds on a busy machine too, where a clock does not."""
    code = """
import sys
from sonoray_jobs.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stderr.split()
    assert "sonoray_jobs.cli.options" in loaded
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert {name for name in packages if not name.startswith("_")} <= OF_HELP
    ours = {name for name in loaded if name.startswith("sonoray_jobs.")}
    assert {name.split(".")[1] for name in ours} == {"cli", "results"}


def test_a_group_shows_its_commands_and_how_they_are_used(sonoray):
    code, out, _ = sonoray("quarantine", "--help")
    assert code == 0
    assert "    sonoray quarantine locate kidney" in out.partition("Examples:")[2]
    assert {"list", "retry", "locate"} <= set(out.split())


@pytest.mark.parametrize("command", ["train", "ask x.png --question ?", "quarantine retry phantom"])
def test_the_dry_run_prints_the_resolved_configuration(sonoray, command):
    code, out, _ = sonoray(*command.split(), "--dry-run", "--set", "phantom.seed=41")
    assert code == 0
    assert json.loads(out)["phantom"]["seed"] == 41


def test_the_dry_run_shows_the_dataset_that_is_named(sonoray):
    code, out, _ = sonoray("train", "--dry-run", "--dataset", "archive")
    assert (code, json.loads(out)["dataset"]) == (0, "archive")


def test_the_dry_run_of_an_ablation_lists_its_children(sonoray, tmp_path):
    given = ["ablate", "site-cue", "--seeds", "5", "--dry-run", "--workspace", str(tmp_path)]
    code, out, err = sonoray(*given, *SMALL)
    assert (code, err) == (0, "")
    assert "  with, seed 5: to train\n" in out
    code, out, _ = sonoray(*given, "--json")
    assert code == 0
    assert [each["child"] for each in json.loads(out)["children"]] == [
        "without, seed 5",
        "with, seed 5",
    ]


def test_dry_run_makes_nothing(sonoray, tmp_path):
    code, _, _ = sonoray("train", "--dry-run", "--workspace", str(tmp_path / "new"))
    assert code == 0
    assert not list(tmp_path.iterdir())


def test_what_libraries_print_stays_out_of_the_result(sonoray, tmp_path, monkeypatch):
    real = phantom.run

    def chatty(**arguments):
        sys.stdout.write("(raylet) something happened\n")
        return real(**arguments)

    monkeypatch.setattr(phantom, "run", chatty)
    arguments = ("--out", str(tmp_path / "out"), "--workspace", str(tmp_path / "workspace"))
    code, out, err = sonoray("phantom", *arguments, *SMALL, "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)
    assert "(raylet) something happened" in err


def test_a_result_is_lines_for_people_and_json_for_programs(sonoray, tmp_path):
    workspace = ["--workspace", str(tmp_path)]
    code, out, err = sonoray("phantom", *workspace, *SMALL)
    assert (code, err) == (0, "")
    assert str(tmp_path) in out
    assert not out.startswith("{")
    code, out, _ = sonoray("phantom", *workspace, *SMALL, "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "--set", "embed.bach_size=3"], ["embed.bach_size", "batch_size"]),
        (["embed", "--set", "embed.batch_size=0"], ["embed.batch_size", "0"]),
        (["embed", "--set", "embed.batch_size=48"], ["64 is no multiple", "48", "file to 96"]),
        (["embed", "--set", "embed"], ["'embed'", "KEY=VALUE"]),
        (["embed", "--config", "tinny"], ["'tinny'", "tiny"]),
        (["embed", "--config", "no/such.toml"], ["no/such.toml", "does not exist"]),
        (
            ["embed", "--dataset", "kidney"],
            ["'kidney'", "SOURCE PATH --name kidney"],
        ),
        (["ingest", "busbra", "no/such/folder"], ["no/such/folder"]),
        (["ingest", "kidney"], ["kidney", "busbra"]),
        (["audit", "kidney"], ["'kidney'", "SOURCE PATH --name kidney"]),
        (
            ["quarantine", "list", "kidney"],
            ["'kidney'", "SOURCE PATH --name kidney"],
        ),
        (
            ["quarantine", "retry", "kidney"],
            ["'kidney'", "SOURCE PATH --name kidney"],
        ),
        (["compare", "a", "b"], ["'a'", "trainings there: none"]),
        (["compare", "a", "b", "--split", "tset"], ["'tset'", "choose one of train"]),
        (["ablate", "vision"], ["'vision'", "visual", "modality", "recognition"]),
        (["ablate", "visual", "--seeds", "0-2"], ["--seeds '0-2'", "0,1,2"]),
        (["ablate", "visual", "--variants", "blend"], ["--variants blend", "clip_only"]),
        (
            ["ablate", "visual", "--dataset", "kidney", "--dry-run"],
            ["ingest SOURCE PATH --name kidney"],
        ),
        (["sweep", "--over", "train.sed:0..9", "--metric", "validation/accuracy"], ["train.sed"]),
        (["sweep", "--over", "train.seed:0..9"], ["--set train.validate_every=epoch"]),
        (["submit", "trane"], ["'trane'", "train"]),
        (["submit", "submit"], ["'submit'"]),
        (["submit", "train"], ["--address http://HOST:8265"]),
        (["submit", "train", "--address", "10.0.0.5:8265"], ["10.0.0.5:8265", "http://HOST:8265"]),
        (["submit", "train", "--address", "http://127.0.0.1:1"], ["http://127.0.0.1:1", "--addr"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    sonoray, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if arguments[0] != "submit":
        arguments = [*arguments, "--workspace", str(tmp_path)]
    start = time.monotonic()
    code, out, err = sonoray(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["quarantine", "list", "busbra"], "busbra PATH"),
        (["quarantine", "locate", "kidney"], "SOURCE PATH --name kidney"),
        (["quarantine", "retry", "busbra"], "busbra PATH"),
        (["audit", "phantom"], "phantom"),
        (["compare", "a", "b"], "phantom"),
        (["runs"], "phantom"),
        (["train"], "phantom"),
        (["ask", "--study", "x", "--question", "?"], "phantom"),
        (["serve", "--insecure-local"], "phantom"),
        (["ablate", "visual", "--dataset", "busbra", "--dry-run"], "busbra PATH"),
    ],
    ids=lambda value: " ".join(value)[:20],
)
def test_a_workspace_that_does_not_exist_is_one_line_and_is_not_made(
    sonoray, tmp_path, monkeypatch, arguments, command
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = tmp_path / "typo"
    code, out, err = sonoray(*arguments, "--workspace", str(workspace))
    assert (code, out) == (2, "")
    assert err.endswith(
        f"error: there is no workspace {str(workspace)!r}; name another with --workspace, or make "
        f"it: sonoray ingest {command}\n"
    )
    assert not workspace.exists()


@pytest.mark.parametrize("form", ["--workspace={}", "--workspace {}"])
def test_a_command_that_is_advised_names_the_workspace(sonoray, tmp_path, form):
    code, _, err = sonoray("train", *form.format(tmp_path).split())
    assert code == 2
    assert err.endswith(f"run: sonoray ingest phantom (and the same --workspace {tmp_path})\n")


def test_no_workspace_is_named_where_none_was_given(sonoray, tmp_path, monkeypatch):
    (tmp_path / DEFAULT_WORKSPACE).mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = sonoray("train")
    assert (code, err.endswith("run: sonoray ingest phantom\n")) == (2, True)


@pytest.mark.parametrize("arguments", [["ingest", "phantom"], ["audit", "phantom"]])
def test_a_workspace_that_is_not_utf8_is_one_line_and_is_not_made(sonoray, tmp_path, arguments):
    workspace = tmp_path / os.fsdecode(b"ws\xff")
    code, _, err = sonoray(*arguments, "--workspace", str(workspace))
    assert code == 2
    assert "ws\\udcff' is not UTF-8; choose another with --workspace\n" in err
    assert err.isascii()
    assert not workspace.exists()


def test_a_workspace_that_is_a_file_is_one_line(sonoray, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    code, _, err = sonoray("embed", "--workspace", str(file))
    assert code == 2
    assert str(file) in err
    assert err.count("\n") == 1


def test_a_dashboard_that_says_nothing_is_given_up_within_seconds(sonoray, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        code, _, err = sonoray("submit", "train", "--address", url)
    assert code == 2
    assert url in err
    assert time.monotonic() - start < 20


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    def broken(**_):
        raise KeyError("our own")

    monkeypatch.setattr(phantom, "run", broken)
    with pytest.raises(KeyError, match="our own"):
        main(["phantom", "--workspace", str(tmp_path)])


def test_ctrl_c_exits_with_130(sonoray, monkeypatch, tmp_path):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "run", interrupted)
    code, _, err = sonoray("phantom", "--workspace", str(tmp_path))
    assert code == 130
    assert "Traceback" not in err


def test_the_command_line_and_the_platform_agree_on_the_workspace():
    assert DEFAULT_WORKSPACE == PLATFORM_WORKSPACE
