"""Guards of the source tree's shape: what no linter sees and what breaks far from its cause."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {
    "platform": "sonoray",
    "model": "llava_ultra",
    "jobs": "sonoray_jobs",
    "serve": "sonoray_serve",
}
MODULES = sorted(
    path
    for root, package in SOURCE_ROOTS.items()
    for path in (ROOT / root / package).rglob("*.py")
    if "__pycache__" not in path.parts
)
MAX_LINES = 400
MAX_MEDIAN_LINES = 130
MAX_AT_ROOT = 4
MAX_IN_ROOM = 12
HEAVY = {"torch", "transformers", "deepspeed", "ray", "mlflow", "sklearn", "fastapi"}


def dotted_names(package_folder: Path) -> list[str]:
    """Return the import names of all modules of a package."""
    return [dotted_name(path) for path in sorted(package_folder.rglob("*.py"))]


def dotted_name(path: Path) -> str:
    """Return the import name of one of our modules."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_after(statements: str) -> set[str]:
    """Run the statements in a fresh interpreter and return the names in its `sys.modules`."""
    code = f"{statements}\nimport sys\nprint(*sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stderr
    return set(child.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("folder", [*SOURCE_ROOTS, "k8s", "tests"])
def test_top_folders_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(("root", "package"), SOURCE_ROOTS.items())
def test_source_root_holds_one_package_and_no_module(root, package):
    entries = {path.name for path in (ROOT / root).iterdir()} - {"__pycache__"}
    assert entries == {package}
    assert (ROOT / root / package / "__init__.py").is_file()


def test_package_names_shadow_nothing_in_the_standard_library():
    assert not sys.stdlib_module_names & set(SOURCE_ROOTS.values())


def test_pythons_own_platform_module_works_in_the_repository_root():
    child = subprocess.run(
        [sys.executable, "-c", "import platform, uuid; print(platform.machine())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is_for_and_stays_readable(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert len(docstring) > 20, f"{docstring!r} says too little"
    assert len(text.splitlines()) <= MAX_LINES


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_importing_the_platform_leaves_the_model_libraries_out():
    names = dotted_names(ROOT / "platform" / "sonoray")
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert {"sonoray.config.model", "sonoray.study.contract"} <= loaded
    assert not loaded & {"torch", "transformers", "deepspeed", "llava_ultra"}


def test_importing_the_command_line_leaves_every_heavy_library_out():
    loaded = modules_after("import sonoray_jobs.cli.main")
    assert not loaded & {
        "torch",
        "transformers",
        "deepspeed",
        "ray",
        "mlflow",
        "sklearn",
        "fastapi",
    }


def test_reading_a_configuration_leaves_every_heavy_library_out():
    """Nearly every command reads one, also where there is nothing to do."""
    loaded = modules_after("from sonoray_jobs.road.config import load_road; load_road('tiny')")
    assert "sonoray.privacy.deidentify" in loaded
    assert not loaded & {"torch", "transformers", "ray", "mlflow", "scipy", "sklearn", "av"}


def test_importing_the_model_leaves_ray_and_the_platform_out():
    names = dotted_names(ROOT / "model" / "llava_ultra")
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert "llava_ultra.connector.fusion" in loaded
    assert not loaded & {"ray", "mlflow", "sonoray"}


def test_jobs_are_run_by_others_and_never_their_libraries():
    """What several jobs look up stands in `outputs` or in a module that is no job."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    jobs = {
        path: dotted_name(path)
        for path, tree in trees.items()
        if "sonoray_jobs" in path.parts
        and any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)
    }
    runners = (
        "sonoray_jobs.cli.",
        "sonoray_jobs.demo",
        "sonoray_jobs.evaluation.ablation.",
        "sonoray_jobs.evaluation.modes.",
        "sonoray_jobs.evaluation.sweeping.",
    )
    assert len(jobs) > 10
    borrowed = {
        (dotted_name(path), f"{node.module}.{alias.name}")
        for path, tree in trees.items()
        if not dotted_name(path).startswith(runners)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if {node.module, f"{node.module}.{alias.name}"} & set(jobs.values())
    }
    # each shares its room with the job that it completes
    assert borrowed <= {
        ("sonoray_jobs.data.quarantine", "sonoray_jobs.data.ingest"),
    }


def test_what_needs_a_ray_stands_where_the_tests_of_one_ray_do():
    """`tests/conftest.py` keeps these folders in one process: a second Ray would cost minutes."""
    folders = {"e2e", "ray", "serve"}
    modules = [
        path for path in (ROOT / "tests").rglob("test_*.py") if path.name != "test_layout.py"
    ]
    using = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in modules
        if re.search(r"ray_local|finished_road|mark\.ray\b", path.read_text(encoding="utf-8"))
    }
    assert using == folders


def rooms() -> dict[Path, list[Path]]:
    """Return the modules of every folder of a package, those of its subfolders left out."""
    found: dict[Path, list[Path]] = {}
    for path in MODULES:
        modules = found.setdefault(path.parent, [])
        if path.name != "__init__.py":
            modules.append(path)
    return found


@pytest.mark.parametrize("folder", rooms(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_room_is_one_that_a_reader_can_survey(folder):
    is_root = folder.name in SOURCE_ROOTS.values()
    names = [path.stem for path in rooms()[folder]]
    assert len(names) <= (MAX_AT_ROOT if is_root else MAX_IN_ROOM), names


@pytest.mark.parametrize("package", SOURCE_ROOTS.values())
def test_a_name_stands_for_one_module_or_room_of_a_package(package):
    """`__main__` is a name that Python gives."""
    own = {
        folder: modules
        for folder, modules in rooms().items()
        if package in folder.relative_to(ROOT).parts
    }
    names = [path.stem for modules in own.values() for path in modules if path.stem != "__main__"]
    names += [folder.name for folder in own]
    assert not sorted(name for name, count in Counter(names).items() if count > 1)


def test_a_training_worker_knows_nothing_of_sources_keys_or_the_service():
    """Also through imports inside functions: what it could come to run."""
    graph = grimp.build_graph(
        *SOURCE_ROOTS.values(), exclude_type_checking_imports=True, cache_dir=None
    )
    closure = graph.find_upstream_modules("sonoray_jobs.training.worker")
    assert {"llava_ultra.model", "llava_ultra.objectives.grounding"} <= closure
    foreign = ("sonoray.ingest", "sonoray.phantom", "sonoray.privacy", "sonoray_serve")
    assert not [name for name in closure if name.startswith(foreign)]
    assert "sonoray_jobs.road.config" not in closure
    assert len(closure) < 105  # modules of 753


def test_importing_a_training_worker_loads_no_library_that_is_used_later():
    loaded = modules_after("import sonoray_jobs.training.worker")
    later = HEAVY | {"numpy", "pyarrow", "pandas", "rich", "pydicom", "PIL", "scipy", "safetensors"}
    assert not loaded & later


def test_modules_are_short():
    lengths = [
        len(path.read_text(encoding="utf-8").splitlines())
        for modules in rooms().values()
        for path in modules
    ]
    assert median(lengths) <= MAX_MEDIAN_LINES
