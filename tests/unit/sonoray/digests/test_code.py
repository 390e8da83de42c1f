"""The digest of a stage's code: what it covers, and what leaves it as it is."""

import ast
import shutil
import subprocess
import sys
import time
from pathlib import Path

import grimp
import pytest

from sonoray.digests import code
from sonoray.digests.code import NEUTRAL, PACKAGES, Sources, code_digest, code_modules

ROOT = Path(__file__).resolve().parents[4]
ROOTS = dict(zip(PACKAGES, ("platform", "model", "serve", "jobs"), strict=True))
TRAINING = "sonoray_jobs.training.worker"
STAGES = {
    "ingest": ("sonoray.ingest.intake", "sonoray.ingest.sources.dicom_archive"),
    "language": ("sonoray_jobs.towers.learn_language",),
    "sam": ("sonoray_jobs.towers.learn_sam",),
    "clip": ("sonoray_jobs.towers.learn_clip",),
    "readout": ("sonoray_jobs.outputs.layers",),
    "training": (TRAINING,),
    "evaluation": (
        "sonoray_jobs.evaluation.questions",
        "sonoray_jobs.training.restore",
        "sonoray_jobs.evaluation.answer",
        "sonoray_jobs.evaluation.judge",
    ),
    "export": ("sonoray_jobs.release.write_model",),
}


@pytest.fixture(scope="module")
def installed():
    return Sources({package: ROOT / folder / package for package, folder in ROOTS.items()})


@pytest.fixture
def tree(tmp_path):
    """A copy of all our source; `change` edits a module, and digests are taken anew."""

    class Tree:
        def __init__(self):
            for package, folder in ROOTS.items():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / folder / package, tmp_path / package, ignore=ignored)

        def digest(self, *entries):
            return Sources({package: tmp_path / package for package in PACKAGES}).digest(*entries)

        def path(self, module):
            return tmp_path.joinpath(*module.split(".")).with_suffix(".py")

        def change(self, module, old, new):
            text = self.path(module).read_text(encoding="utf-8")
            assert old in text, (module, old)
            self.path(module).write_text(text.replace(old, new), encoding="utf-8")

    return Tree()


def package(folder, **files):
    """Write a small package `p` and return its sources."""
    (folder / "p").mkdir(parents=True, exist_ok=True)
    for name, text in {"__init__": "", **files}.items():
        (folder / "p" / f"{name}.py").write_text(text)
    return Sources({"p": folder / "p"})


def test_every_import_is_found_that_grimp_finds(installed):
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    assert len(graph.modules) > 200
    for module in graph.modules:
        assert installed.imports(module) == graph.find_modules_directly_imported_by(module), module


def test_comments_docstrings_and_layout_change_nothing(tree):
    before = tree.digest(TRAINING)
    for module in code_modules(TRAINING):
        path = tree.path(module)
        if not path.is_file():
            path = path.with_suffix("") / "__init__.py"
        plain = ast.parse(path.read_text(encoding="utf-8"))
        assert isinstance(plain.body[0], ast.Expr)  # the module's docstring
        plain.body[0] = ast.Expr(ast.Constant("Another text."))
        for node in ast.walk(plain):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Another text."))
        text = "# a comment\n\n" + ast.unparse(ast.fix_missing_locations(plain))
        path.write_text(text, encoding="utf-8")
    assert tree.digest(TRAINING) == before


@pytest.mark.parametrize(
    ("stages", "module", "old", "new"),
    [
        (["training", "evaluation"], "sonoray.study.prompt", "检查部位", "部位"),
        (
            ["training", "evaluation"],
            "llava_ultra.config",
            "else min(config.num_selected, images)",
            "else 1",
        ),
        (
            ["training", "evaluation"],
            "sonoray.features.formats",
            "\n\n\ndef ",
            "\n\n\nx = 1\n\n\ndef ",
        ),
        (["training"], "sonoray.study.sample_order", "\n\n\ndef ", "\n\n\nx = 1\n\n\ndef "),
        (["training"], "llava_ultra.parameters.schedule", "\n\n\ndef ", "\n\n\nx = 1\n\n\ndef "),
        (["evaluation"], "sonoray.metrics.closed", "\n\n\ndef ", "\n\n\nx = 1\n\n\ndef "),
        (["sam", "clip", "readout", "training"], "llava_ultra.towers.pixels", "0.25", "0.5"),
        (["ingest"], "sonoray.ingest.dicom.pixels", "\n\n\ndef ", "\n\n\nx = 1\n\n\ndef "),
    ],
)
def test_a_change_of_what_runs_is_another_digest(tree, stages, module, old, new):
    tree.change(module, old, new)
    for stage in stages:
        assert tree.digest(*STAGES[stage]) != code_digest(*STAGES[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_keeps_its_digest_where_what_it_never_runs_changes(tree, stage):
    tree.change("sonoray_jobs.cli.main", "import", "import this\nimport")
    tree.change("sonoray_jobs.training.train", "import", "import this\nimport")
    tree.change("sonoray.cluster.session", "import", "import this\nimport")
    tree.change("sonoray.errors", "class", "x = 1\n\n\nclass")
    assert tree.digest(*STAGES[stage]) == code_digest(*STAGES[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_holds_the_command_line_or_the_look_ups(stage):
    found = code_modules(*STAGES[stage])
    assert not [name for name in found if name.startswith(("sonoray_jobs.cli", "sonoray.tracking"))]
    assert not {"sonoray_jobs.outputs.find", "sonoray_jobs.demo", "sonoray.workspace"} & set(found)


def test_what_learns_covers_the_choice_of_studies_and_an_export_its_parts():
    for part in ("language", "sam", "clip"):
        assert "sonoray_jobs.towers.learning_texts" in code_modules(*STAGES[part])
    assert {
        "llava_ultra.export.manifest",
        "llava_ultra.towers.clip",
        "llava_ultra.towers.sam",
        "sonoray_jobs.training.restore",
    } <= set(code_modules(*STAGES["export"]))


def test_a_training_covers_cue_choice_of_images_and_features():
    assert {
        "sonoray.study.prompt",
        "sonoray.study.sample_order",
        "sonoray.features.formats",
        "sonoray.features.store",
        "llava_ultra.config",
        "llava_ultra.connector.pick",
        "llava_ultra.language.tokenizer",
        "sonoray_jobs.training.stream",
        "sonoray_jobs.towers.feature_source",
        "llava_ultra.towers.pixels",
    } <= set(code_modules(TRAINING))


def test_a_training_holds_nothing_of_sources_privacy_or_the_service():
    """Of the images, what decodes them: it runs where features are not stored."""
    rooms = ("sonoray.ingest", "sonoray.privacy", "sonoray.phantom", "sonoray.images")
    found = code_modules(TRAINING)
    held = [name for name in found if name.startswith((*rooms, "sonoray_serve"))]
    assert held == ["sonoray.images.decode", "sonoray.images.transparency"]


def test_what_decides_nothing_imports_nothing_that_decides(installed):
    graph = grimp.build_graph("sonoray")
    neutral = [name for name in graph.modules if name.startswith(NEUTRAL)]
    below = set().union(*(installed.imports(name) for name in neutral))
    assert len(neutral) > 5
    assert not {name for name in below if not name.startswith(NEUTRAL)} - {"sonoray.config.model"}


def test_imports_in_functions_count_and_those_for_type_checkers_do_not(tmp_path):
    sources = package(
        tmp_path,
        a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import c\n"
        "else:\n    from p import d\ndef f():\n    import p.b\n",
        b="from . import e\nfrom .f import x\nimport json\n",
        c="",
        d="",
        e="",
        f="x = 1\n",
    )
    assert sources.modules("p.a") == ("p.a", "p.b", "p.d", "p.e", "p.f")


def test_a_name_of_a_package_is_its_module_or_the_package_itself(tmp_path):
    sources = package(tmp_path, __init__="from p.b import x\n", a="from p import x, c\n", b="x=1")
    assert sources.modules("p.a") == ("p", "p.a", "p.b")


@pytest.mark.parametrize("text", ["x = 1", "'a'; x = 2", "def x(a: int): ...", "x: str = 'a'"])
def test_each_text_that_runs_otherwise_has_its_digest(tmp_path, text):
    known = {"": package(tmp_path / "0", a="").digest("p.a")}
    known[text] = package(tmp_path / "1", a=text).digest("p.a")
    known["y"] = package(tmp_path / "2", a=text.replace("x", "y")).digest("p.a")
    assert len(set(known.values())) == 3


def test_the_name_of_a_module_and_not_its_place_is_in_the_digest(tmp_path):
    here = package(tmp_path / "here", a="x = 1\n", b="x = 1\n")
    assert here.digest("p.a") == package(tmp_path / "there", a="x = 1  # one\n").digest("p.a")
    assert here.digest("p.a") != here.digest("p.b")


def test_a_source_of_somebody_else_counts_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "theirs.py").write_text("import sonoray.study.prompt\n")
    assert code_modules("theirs") == (*code_modules("sonoray.study.prompt"), "theirs")
    with pytest.raises(ModuleNotFoundError, match="no source of module 'nowhere'"):
        code_digest("nowhere")


def test_an_installed_copy_has_the_same_digest(tree, tmp_path):
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sonoray, sys; from sonoray.digests.code import code_digest\n"
            f"print(sonoray.__file__, code_digest({TRAINING!r}))",
        ],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert told == [str(tmp_path / "sonoray" / "__init__.py"), code_digest(TRAINING)]


def test_it_takes_well_under_a_second_once_and_nothing_after():
    taken = []
    for _ in range(3):  # on a busy machine one of them may wait for caches
        code._installed.cache_clear()
        code_digest.cache_clear()
        start = time.process_time()
        first = code_digest(TRAINING)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.6
    assert code_digest(TRAINING) == first
    assert code_digest.cache_info().hits == 1
