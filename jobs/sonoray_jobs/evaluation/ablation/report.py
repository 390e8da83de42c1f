"""The report of an ablation: one structure of plain values, and its Markdown and text.

```
{ablation, question, dataset, split, reference, seeds, command, parent_run_id, method,
 comparisons: [{setting, test,
   groups: [{name, score, num_questions, num_patients,
     variants: {NAME: {value, low, high, by_seed, difference, constant, auc}}}]}],
 children: [{setting, variant, seed, training, run_id, elapsed_s, ...}], failures: [LABEL, ...]}
```
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from sonoray.metrics import ALL_CLOSED, Bootstrap, Table
from sonoray.metrics.seeds import estimate_mean
from sonoray_jobs.evaluation.ablation.scores import (
    ACCURACY,
    HIT,
    HITS,
    Group,
    Row,
    check_same_questions,
    make_groups,
    score_variants,
)
from sonoray_jobs.evaluation.predictions import read_predictions, to_pick

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.ablation.children import Child, Outcome
    from sonoray_jobs.evaluation.ablation.variants import Ablation

Report = Mapping[str, Any]

KEEP_ALL = "keep_all"
"""The variant that leaves no image out, so that nothing is hit or missed."""

_DRAWN = (
    "Means over the questions of the {split} split and over seeds; 95 % intervals from {draws} "
    "draws of "
)
_SEVERAL_SEEDS = (
    "patients and, independently, of seeds. Differences are paired: the same question, the same "
    "seed. Seeds draw initial weights, order and dropout of the training; towers, language model "
    "and split stay. "
)
_ONE_SEED = (
    "patients alone: one seed shows nothing of how trainings vary. Differences are paired: the "
    "same question. "
)
_BASELINES = {ACCURACY: "constant answer", HIT: "random pick"}
NO_MODEL = "constant answer, random pick"
_UNCORRECTED = "Intervals are not corrected for the number of comparisons."


def make_report(
    ablation: "Ablation",
    outcomes: Sequence[tuple["Child", "Outcome"]],
    failures: Sequence[str],
    *,
    dataset: str,
    split: str,
    command: str,
    parent_run_id: str,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Score all finished children.

    Raises:
        DataError: children that should have answered the same questions did not.
    """
    comparisons = []
    for setting in ablation.settings:
        here = [(child, left) for child, left in outcomes if child.setting == setting.name]
        for test in ablation.tests if here else ():
            groups = _compare(ablation, here, test.name, bootstrap)
            comparisons.append({"setting": setting.name, "test": test.name, "groups": groups})
    seeds = sorted({child.seed for child, _ in outcomes})
    drawn = _DRAWN.format(split=split, draws=bootstrap.num_resamples)
    return {
        "ablation": ablation.name,
        "question": ablation.question,
        "dataset": dataset,
        "split": split,
        "reference": ablation.reference,
        "seeds": seeds,
        "command": command,
        "parent_run_id": parent_run_id,
        "method": drawn + (_SEVERAL_SEEDS if len(seeds) > 1 else _ONE_SEED) + _UNCORRECTED,
        "comparisons": comparisons,
        "children": [_child_row(child, left) for child, left in outcomes],
        "failures": list(failures),
    }


def _child_row(child: "Child", left: "Outcome") -> dict[str, Any]:
    return {
        "setting": child.setting,
        "variant": child.variant,
        "seed": child.seed,
        "training": left.trained.name,
        "run_id": left.trained.run_id,
        "elapsed_s": left.trained.elapsed_s,
    }


def _compare(
    ablation: "Ablation",
    outcomes: Sequence[tuple["Child", "Outcome"]],
    test: str,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """All groups of questions of one test in one setting."""
    tables: dict[str, dict[int, Sequence[Row]]] = {}
    summaries: dict[str, dict[int, Mapping[str, Any]]] = {}
    for child, left in outcomes:
        rows = read_predictions(left.evaluations[test].path)
        tables.setdefault(child.variant, {})[child.seed] = rows
        summary = left.evaluations[test].manifest["summary"]
        summaries.setdefault(child.variant, {})[child.seed] = summary
    check_same_questions(
        {f"{name} seed {seed}": rows for name, own in tables.items() for seed, rows in own.items()}
    )
    any_table = next(iter(next(iter(tables.values())).values()))
    groups = []
    for group in make_groups(tables):
        scores = score_variants(tables, group, reference=ablation.reference, bootstrap=bootstrap)
        groups.append(
            {
                "name": group.name,
                "score": group.score,
                "num_questions": len(group.rows),
                "num_patients": len(set(group.patients)),
                "variants": {
                    name: {
                        **asdict(score.mean),
                        "by_seed": {str(seed): value for seed, value in score.by_seed.items()},
                        "difference": score.difference and asdict(score.difference),
                        "baseline": _estimate_baseline(
                            any_table, group, summaries[name], bootstrap
                        ),
                        "auc": _mean_auc(group, summaries[name]),
                    }
                    for name, score in scores.items()
                },
            }
        )
    return groups


def _estimate_baseline(
    rows: Sequence[Row],
    group: Group,
    summaries: Mapping[int, Mapping[str, Any]],
    bootstrap: Bootstrap,
) -> dict[str, Any] | None:
    """What needs no model: the training's most frequent answer to each topic, a random image."""
    here = [rows[number] for number in group.rows]
    if group.score == HIT:
        scores = [to_pick(row).chance for row in here]
    elif group.score == ACCURACY:
        closed = next(iter(summaries.values()))["closed"]  # seeds train on the same studies
        constants = [closed[row["topic"]]["constant_answer"] for row in here]
        if None in constants:  # a topic that its training never met
            return None
        pairs = zip(here, constants, strict=True)
        scores = [float(row["truth"] == constant) for row, constant in pairs]
    else:
        return None
    return asdict(estimate_mean(np.array(scores)[:, None], group.patients, bootstrap))


def _mean_auc(group: Group, summaries: Mapping[int, Mapping[str, Any]]) -> float | None:
    """Mean of the evaluations' AUC over seeds; None where one of them has none."""
    if group.score != ACCURACY or group.name == ALL_CLOSED:
        return None
    areas = [summary["closed"][group.name]["auc"] for summary in summaries.values()]
    if any(area is None for area in areas):
        return None
    return sum(float(area["value"]) for area in areas) / len(areas)


def overview(report: Report) -> Table:
    """What the terminal shows: a row per comparison and variant, intervals of the first group."""
    names = list(
        dict.fromkeys(group["name"] for each in report["comparisons"] for group in each["groups"])
    )
    main, *others = names
    rows = []
    for comparison in report["comparisons"]:
        groups = {group["name"]: group["variants"] for group in comparison["groups"]}
        none: Mapping[str, Any] = {}
        for variant, values in groups.get(main, none).items():
            means = [groups.get(name, none).get(variant) for name in others]
            cells = (_cell(values), _cell(values["difference"], sign="+"), *map(_mean, means))
            rows.append((_title(comparison), variant, *cells))
        baselines = [_baseline(groups.get(name, none)) for name in names]
        cells = (_cell(baselines[0]), "", *map(_mean, baselines[1:]))
        rows.append((_title(comparison), NO_MODEL, *cells))
    shown = [HIT if name == HITS else name for name in others]
    header = ("", "variant", main, f"minus {report['reference']}", *shown)
    skip = 0 if any(row[0] for row in rows) else 1
    return Table(header=header[skip:], rows=tuple(row[skip:] for row in rows))


def to_markdown(report: Report, figure: str) -> list[str]:
    """Write the report as Markdown.

    Args:
        report: as `make_report` returns it.
        figure: file name of the picture beside it.
    """
    return [
        f"# Ablation {report['ablation']} on {report['dataset']}",
        "",
        report["question"],
        "",
        "```",
        report["command"],
        "```",
        "",
        f"{report['method']} MLflow parent run: `{report['parent_run_id']}`.",
        "",
        f"![means and intervals]({figure})",
        "",
        *(line for each in report["comparisons"] for line in _comparison(report, each)),
        *_children(report),
        *_failures(report),
    ]


def _comparison(report: Report, comparison: Mapping[str, Any]) -> Iterator[str]:
    if title := _title(comparison):
        yield from (f"## {title[0].upper()}{title[1:]}", "")
    for group in comparison["groups"]:
        yield f"### {group['name']}: {group['score']}"
        yield ""
        yield f"{group['num_questions']} questions about {group['num_patients']} patients."
        yield ""
        yield from _group_table(group, report["reference"]).markdown()
        yield ""


def _group_table(group: Mapping[str, Any], reference: str) -> Table:
    baseline = _BASELINES.get(group["score"])
    closed = group["score"] == ACCURACY
    rows = [
        (
            name,
            _cell(values),
            "reference" if name == reference else _cell(values["difference"], sign="+"),
            *((_cell(values["baseline"]),) if baseline else ()),
            *((_number(values["auc"]),) if closed else ()),
            ", ".join(f"{value:.3f}" for value in values["by_seed"].values()),
        )
        for name, values in group["variants"].items()
    ]
    header = ("variant", group["score"], f"difference from {reference}")
    more = (*([baseline] if baseline else ()), *(["AUC"] if closed else ()))
    return Table(header=(*header, *more, "by seed"), rows=tuple(rows))


def _children(report: Report) -> Iterator[str]:
    yield from ("## Trainings", "")
    yield "Wall time of the last attempt, beside whatever else ran."
    yield ""
    rows = tuple(
        (
            child["setting"] or "-",
            child["variant"],
            str(child["seed"]),
            f"`{child['training']}`",
            f"`{child['run_id']}`",
            "-" if child["elapsed_s"] is None else f"{child['elapsed_s']:.0f} s",
        )
        for child in report["children"]
    )
    header = ("setting", "variant", "seed", "training", "MLflow run", "wall time")
    yield from Table(header=header, rows=rows).markdown()
    yield ""


def _failures(report: Report) -> Iterator[str]:
    """Labels only: a reason may quote a patient's text, and the report goes to MLflow."""
    if report["failures"]:
        yield from ("## Failed", "")
        yield from (f"- {label}" for label in report["failures"])
        yield from ("", "The command says why, on the terminal and under `--json`.", "")


def _title(comparison: Mapping[str, Any]) -> str:
    test = comparison["test"] and f"asked of {comparison['test']}"
    return ", ".join(filter(None, [comparison["setting"], test]))


def _baseline(variants: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What needs no model; None where variants were trained on other studies."""
    values = [each["baseline"] for each in variants.values()]
    return values[0] if values and all(each == values[0] for each in values) else None


def _mean(values: Mapping[str, Any] | None) -> str:
    return "-" if values is None else f"{values['value']:.3f}"


def _cell(values: Mapping[str, Any] | None, sign: str = "") -> str:
    if values is None:
        return "-"
    number = f"{{:{sign}.3f}}".format
    if values["low"] is None:
        return number(values["value"])
    return f"{number(values['value'])} [{number(values['low'])}, {number(values['high'])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
