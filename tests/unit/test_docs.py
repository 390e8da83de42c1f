"""The README, the docs and the changelog against the code: what they name must exist."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROAD = (ROOT / "docs" / "road.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "bench" / "README.md",
    ROOT / "k8s" / "README.md",
]
README_LINES = 170
SOURCES = ("platform/sonoray", "model/llava_ultra", "jobs/sonoray_jobs", "serve/sonoray_serve")
REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org")


def page_name(page: Path) -> str:
    """The page's path in the repository, as a test's name."""
    return str(page.relative_to(ROOT))


def listed_paths() -> set[str]:
    """Read the file list of docs/architecture.md: folders, their files indented, then a note."""
    block = ARCHITECTURE.partition("\n## Files\n")[2].partition("```\n")[2].partition("```")[0]
    paths, folder = set(), ""
    for line in filter(str.strip, block.splitlines()):
        name = re.split(r"\s{2,}", line.strip())[0]
        if line.startswith(" "):
            paths.add(folder + name)
        else:
            folder = name if name.endswith("/") else ""
            paths.add(name)
    return paths


def commands_in(text: str) -> set[str]:
    """Return the words that follow `sonoray` at the start of a command, in code."""
    return {name for name, _ in invocations_in(text)}


def code_in(text: str) -> str:
    """Return the blocks and the words that are set as code, one a line."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", text))


def invocations_in(text: str) -> list[tuple[str, str]]:
    """Return the name and the arguments of every command in code, and of what is submitted."""
    found = []
    pattern = r"^(?:\$ )?(?:\.venv/bin/)?sonoray ([a-z0-9][a-z0-9-]*)(.*)$"
    for name, line in re.findall(pattern, code_in(text), re.MULTILINE):
        own, _, passed = line.partition(" -- ")
        found.append((name, own))
        if name == "submit" and passed:
            found.append((own.split()[0], passed))
    return found


def test_the_file_list_names_existing_paths_only():
    paths = listed_paths()
    assert "platform/sonoray/study/contract.py" in paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_file_list_has_every_module():
    modules = {
        str(path.relative_to(ROOT))
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert not sorted(modules - listed_paths())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_named_command_exists(page):
    from sonoray_jobs.cli.main import app

    known = set(typer.main.get_command(app).commands)
    assert commands_in(page.read_text(encoding="utf-8")) <= known


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_named_option_is_one_of_its_command(page):
    from sonoray_jobs.cli.main import app

    commands = typer.main.get_command(app).commands
    for name, arguments in invocations_in(page.read_text(encoding="utf-8")):
        command = commands[name]
        if hasattr(command, "commands") and arguments:  # a group: its first word is the command
            command = command.commands[arguments.split()[0]]
        options = command.params
        known = {flag for each in options for flag in [*each.opts, *each.secondary_opts]}
        named = set(re.findall(r"(?<!\S)--[a-z-]+", arguments))
        assert named <= known, f"sonoray {name}{arguments}"


def is_setting(annotation: Any, path: str) -> bool:
    """Whether a dotted path leads to a field, through unions, arrays and tables."""
    name, _, rest = path.partition(".")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(name)
        return field is not None and (not rest or is_setting(field.annotation, rest))
    if get_origin(annotation) is dict:  # of the user's own names
        return not rest or is_setting(get_args(annotation)[1], rest)
    inside = rest if name.isdecimal() else path
    return any(is_setting(part, inside) for part in get_args(annotation))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_named_setting_exists(page):
    from sonoray_jobs.road.config import RoadConfig

    sections = "|".join(RoadConfig.model_fields)
    pattern = rf"(?<![\w./-])(?:{sections})(?:\.[a-z0-9_]+)+"
    named = set(re.findall(pattern, code_in(page.read_text(encoding="utf-8"))))
    files = {name for name in named if name.endswith((".py", ".json"))}
    assert not sorted(name for name in named - files if not is_setting(RoadConfig, name))


@pytest.mark.parametrize("page", ["docs/kubernetes.md", "docs/zh/kubernetes.md"])
def test_every_named_setting_of_a_site_exists(page):
    from sonoray_jobs.cluster.kubernetes.site import Site

    sections = "|".join(Site.model_fields)
    pattern = rf"(?<![\w./-])(?:{sections})(?:\.[A-Za-z0-9_]+)+"
    named = set(re.findall(pattern, code_in((ROOT / page).read_text(encoding="utf-8"))))
    named = {name for name in named if not name.endswith(".py")}
    assert {"service.keys_secret", "jobs.NAME.arguments"} <= named
    assert not sorted(name for name in named if not is_setting(Site, name))


def test_the_readme_fits_a_page_and_has_the_notice_in_both_languages():
    assert len(README.splitlines()) <= README_LINES
    assert "**For research only. Not a medical device; no output may guide the care" in README
    assert "仅供科研使用，不得用于临床诊断。" in README


def test_the_readme_has_a_row_for_every_room():
    named = set()
    above = ""
    for cell in re.findall(r"^\| (.*?) \|", README.partition("\n## Rooms")[2], re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            above = name if cell.startswith("**") else above
            named.add(name if cell.startswith("**") else f"{above}/{name}".rstrip("/"))
    rooms = {
        str(path.parent.relative_to(ROOT))
        for source in SOURCES
        for path in (ROOT / source).rglob("__init__.py")
    }
    assert {"platform/sonoray", "platform/sonoray/ingest/dicom"} <= rooms
    assert not sorted(rooms - named)
    assert not sorted(name for name in named if not (ROOT / name).is_dir())


def test_every_module_that_the_readme_places_in_a_room_is_there():
    above, wrong = "", []
    table = README.partition("\n## Rooms")[2].partition("\n\n## ")[0]
    for first, last in re.findall(r"^\| ([^|]*) \|[^|]*\| (.*) \|$", table, re.MULTILINE)[2:]:
        names = re.findall(r"`([^`]+)`", first)
        above = names[0] if first.startswith("**") else above
        folders = [above] if first.startswith("**") else [f"{above}/{name}" for name in names]
        for module in re.findall(r"`([a-z0-9_/]+\.py)`", last):
            places = [*folders, above]
            if not any((ROOT / folder / module).is_file() for folder in places):
                wrong.append(f"{first}: {module}")
    assert not wrong


def test_the_road_page_names_every_command():
    from sonoray_jobs.cli.main import app

    assert set(typer.main.get_command(app).commands) <= commands_in(ROAD)


def test_the_serving_page_names_the_model_of_every_packaged_road():
    from sonoray_jobs.road.config import load_road, packaged_roads

    for name in packaged_roads():
        road = load_road(name)
        assert f"`{road.export.name_for(road.dataset)}`" in SERVING


def test_the_serving_page_names_the_variable_that_holds_the_key():
    from sonoray_jobs.service.service_client import KEY_VARIABLE

    assert f"`{KEY_VARIABLE}`" in SERVING


def test_the_serving_page_has_every_limit_with_its_default():
    from sonoray_serve.settings import Batching, Limits

    rows = re.findall(r"^\| `([a-z_]+)` \| ([\d,.]+) \|", SERVING, re.MULTILINE)
    shown = {name: float(value.replace(",", "")) for name, value in rows}
    fields = {**Limits.model_fields, **Batching.model_fields}
    assert shown == {name: field.default for name, field in fields.items()}


def test_the_serving_page_names_every_status_of_an_error():
    from sonoray_serve.problems import Problem

    table = SERVING.partition("| status |")[2].partition("\n\n")[0]
    shown = {int(status) for status in re.findall(r"\b\d{3}\b", table)}
    assert {problem.status for problem in Problem} <= shown


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_named_make_target_exists(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_named_module_exists(page):
    packages = "|".join(Path(source).name for source in SOURCES)
    named = re.findall(rf"\b(?:{packages})(?:\.[a-z_]+)+\b", page.read_text(encoding="utf-8"))
    assert not [name for name in named if find_spec(name) is None]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith("https://")]
    assert not [target for target in local if not (page.parent / target).exists()]


def anchors(page: Path) -> set[str]:
    """Return what a link to each heading of a page ends with."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for words in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_to_a_heading_finds_it(page):
    for target in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            assert anchor in anchors(page.parent / path if path else page), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_page_names_a_machine(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|root|home|Users|mnt|data)/\S*", text)
    assert not [host for host in REGISTRIES if host in text]


def test_no_build_file_names_a_package_registry():
    files = [ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    assert not [host for host in REGISTRIES if host in text]


def test_the_changelog_has_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert f"## [{project['version']}]" in changelog


def test_every_file_of_the_table_of_changes_exists():
    page = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    table = page.partition("\n## Where do I change ...?\n")[2].partition("\n\n## ")[0]
    named = re.findall(r"`((?:platform|model|serve|jobs|k8s)/[^`]+)`", table)
    assert {"model/llava_ultra/model.py", "serve/sonoray_serve/settings.py"} <= set(named)
    assert not [path for path in named if not (ROOT / path).exists()]
