"""The report of made-up answers whose means, differences and constants are known."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sonoray.metrics import Bootstrap
from sonoray.stages import StageOutput
from sonoray_jobs.evaluation.ablation.children import Child, Outcome
from sonoray_jobs.evaluation.ablation.figure import draw, make_figure
from sonoray_jobs.evaluation.ablation.report import make_report, overview, to_markdown
from sonoray_jobs.evaluation.ablation.variants import Ablation, EvaluationSet, Setting, Variant
from sonoray_jobs.outputs.find import Trained
from sonoray_jobs.road.config import RoadConfig

ABLATION = Ablation(
    name="visual",
    question="Which?",
    reference="blend",
    variants=(Variant(name="blend"), Variant(name="concat")),
    settings=(Setting(dataset="phantom", name="redundancy 3"),),
    tests=(EvaluationSet(name="liver"), EvaluationSet(name="breast")),
)
RIGHT = {("blend", 0): 2, ("blend", 1): 4, ("concat", 0): 6, ("concat", 1): 6}
"""Of eight closed questions."""


def predictions(right: int) -> list[dict]:
    closed = [
        {
            "topic": "margin",
            "task": "closed",
            "truth": "光滑" if number < 6 else "毛刺",
            "answer": ("光滑" if number < 6 else "毛刺") if number < right else "?",
        }
        for number in range(8)
    ]
    text = {"topic": "size", "task": "open", "truth": "较大", "answer": "较大"}
    return [
        {"study_id": f"s{n}", "patient_key": f"p{n}", "selected": [0]}
        | {"showing": [n % 2, 1 - n % 2, *[0] * (n // 8)]}
        | each
        for n, each in enumerate([*closed, text])
    ]


def outcome(folder: Path, variant: str, seed: int) -> tuple[Child, Outcome]:
    evaluations = {}
    for test in ("liver", "breast"):
        path = folder / f"{variant}-{seed}-{test}"
        path.mkdir(parents=True)
        rows = predictions(RIGHT[variant, seed] if test == "liver" else 8)
        pq.write_table(pa.Table.from_pylist(rows), path / "predictions.parquet")
        margin = {"constant_answer": "光滑", "auc": {"value": 0.5 + seed / 4}}
        manifest = {"summary": {"closed": {"margin": margin}}}
        evaluations[test] = StageOutput(path=path, manifest=manifest, reused=True)
    trained = Trained(
        name=f"run-{variant}-{seed}",
        run_id=f"id-{variant}-{seed}",
        checkpoint=folder,
        metrics={},
        reused=True,
        elapsed_s=61.4 if seed else None,
    )
    child = Child(
        setting="redundancy 3",
        variant=variant,
        seed=seed,
        is_generated=True,
        dataset="phantom-redundancy-3",
        road=RoadConfig(),
        tests={},
        split="test",
    )
    return child, Outcome(trained=trained, evaluations=evaluations)


@pytest.fixture
def report(tmp_path: Path) -> dict:
    return make_report(
        ABLATION,
        [outcome(tmp_path, variant, seed) for variant, seed in RIGHT],
        ["redundancy 3, concat, seed 2"],
        dataset="phantom",
        split="validation",
        command="sonoray ablate visual",
        parent_run_id="parent-id",
        bootstrap=Bootstrap(num_resamples=1000),
    )


def test_the_method_says_whether_seeds_are_drawn(report, tmp_path):
    assert report["method"].startswith("Means over the questions of the validation split")
    assert "draws of patients and, independently, of seeds" in report["method"]
    one = make_report(
        ABLATION,
        [outcome(tmp_path / "one", variant, 0) for variant in ("blend", "concat")],
        [],
        dataset="phantom",
        split="validation",
        command="sonoray ablate visual --seeds 0",
        parent_run_id="parent-id",
        bootstrap=Bootstrap(num_resamples=1000),
    )
    assert "1000 draws of patients alone: one seed shows nothing of how" in one["method"]
    assert "independently" not in one["method"]


def test_every_comparison_has_its_own_numbers(report):
    liver, breast = report["comparisons"]
    assert [(each["setting"], each["test"]) for each in (liver, breast)] == [
        ("redundancy 3", "liver"),
        ("redundancy 3", "breast"),
    ]
    groups = {group["name"]: group for group in liver["groups"]}
    assert list(groups) == [
        "all closed questions",
        "margin",
        "size",
        "picked image shows the finding",
    ]
    margin = groups["margin"]
    assert (margin["num_questions"], margin["num_patients"]) == (8, 8)
    blend, concat = margin["variants"]["blend"], margin["variants"]["concat"]
    assert blend["value"] == pytest.approx(3 / 8)
    assert blend["by_seed"] == {"0": 0.25, "1": 0.5}
    assert blend["difference"] is None
    assert concat["value"] == pytest.approx(6 / 8)
    assert concat["difference"]["value"] == pytest.approx(3 / 8)
    assert concat["difference"]["low"] < 3 / 8 < concat["difference"]["high"]
    assert concat["baseline"]["value"] == pytest.approx(6 / 8)
    assert concat["auc"] == pytest.approx(0.625)
    assert groups["all closed questions"]["variants"]["blend"]["value"] == pytest.approx(3 / 8)
    assert groups["size"]["variants"]["blend"]["value"] == 1.0
    assert groups["size"]["variants"]["blend"]["baseline"] is None
    hits = groups["picked image shows the finding"]
    assert hits["variants"]["blend"]["value"] == pytest.approx(4 / 9)
    assert hits["variants"]["concat"]["baseline"]["value"] == pytest.approx((8 / 2 + 1 / 3) / 9)
    same = {group["name"]: group for group in breast["groups"]}["margin"]["variants"]["concat"]
    assert (same["value"], same["difference"]["value"]) == (1.0, 0.0)


def test_markdown_and_terminal_show_them(report):
    text = "\n".join(to_markdown(report, "report.png"))
    for part in (
        "# Ablation visual on phantom",
        "sonoray ablate visual\n",
        "`parent-id`",
        "## Redundancy 3, asked of liver",
        "### margin: accuracy",
        "| difference from blend | random pick | by seed |",
        "| difference from blend | constant answer | AUC | by seed |",
        "| blend | 0.375 [",
        "| reference |",
        "| +0.375 [+",
        "`id-concat-1` | 61 s |",
        "`id-concat-0` | - |",
        "- redundancy 3, concat, seed 2",
        "![means and intervals](report.png)",
        "1000 draws of patients",
    ):
        assert part in text
    table = overview(report)
    assert table.header == (
        *("", "variant", "all closed questions", "minus blend"),
        *("margin", "size", "hit@1"),
    )
    assert [row[:2] for row in table.rows] == [
        (where, what)
        for where in ("redundancy 3, asked of liver", "redundancy 3, asked of breast")
        for what in ("blend", "concat", "constant answer, random pick")
    ]
    assert table.rows[1][2].startswith("0.750 [")
    assert table.rows[1][3].startswith("+0.375 [")
    assert table.rows[1][4:] == ("0.750", "1.000", "0.444")
    assert table.rows[2][2].startswith("0.750 [")
    assert table.rows[2][3:] == ("", "0.750", "-", "0.481")


def test_a_child_that_is_missing_leaves_the_others(tmp_path):
    report = make_report(
        ABLATION,
        [outcome(tmp_path, "concat", 0)],
        [],
        dataset="phantom",
        split="validation",
        command="x",
        parent_run_id="p",
        bootstrap=Bootstrap(num_resamples=1000),
    )
    values = report["comparisons"][0]["groups"][0]["variants"]
    assert list(values) == ["concat"]
    assert values["concat"]["difference"] is None
    assert "| concat | 0.750 [" in "\n".join(to_markdown(report, "report.png"))


def test_the_picture_has_a_panel_for_every_group(report, tmp_path):
    draw(report, tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1440, 768)  # two by two
        assert picture.info.get("Software") is None
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # both variants' bars


def test_the_picture_names_what_it_shows_and_hides_an_empty_panel(report):
    for comparison in report["comparisons"]:
        comparison["groups"].pop()
    figure = make_figure(report)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("blend", "concat", "constant answer, random pick"),
    ]
