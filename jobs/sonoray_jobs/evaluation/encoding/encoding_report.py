"""Instructions beside none, layer by layer: mean scores over the targets, and each target.

All intervals come from draws of patients; the correlation of a target counts the studies that it is
known of. Differences from no instruction are paired: both sides are scored on the same draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics import Bootstrap, Estimate
from sonoray.metrics.paired import paired_differences
from sonoray.metrics.resampling import Floats, Metric, estimates
from sonoray.metrics.tables import Table
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.encoding.ridge import (
    correlation_metric,
    noise_ceiling,
    predict_left_out,
)
from sonoray_jobs.evaluation.encoding.targets import Targets

Arrays = Mapping[str, np.ndarray]

_TOWERS = ("clip", "sam", "both")
_MOST_SHOWN = 24
"""Characters of an instruction in a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """Targets that are known of the same studies."""

    names: Sequence[str]
    places: np.ndarray
    """(S',) of their studies."""
    values: Floats
    """(S', T)."""


def judge_states(
    studies: Sequence[Study],
    states: np.ndarray,
    towers: Arrays,
    targets: Targets,
    instructions: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Score states and towers.

    Args:
        studies: S of them.
        states: (S, I, L, D).
        towers: by tower (S, F).
        targets: what is predicted.
        instructions: I of them, the first of which is none.
        bootstrap: how intervals are made; its seed is that of the folds too.
    """
    patients = [study.patient_key for study in studies]
    groups = _grouped(studies, targets)
    vectors: dict[tuple[Any, ...], np.ndarray] = {
        (number, layer): states[:, number, layer]
        for number in range(states.shape[1])
        for layer in range(states.shape[2])
    }
    vectors |= {(name,): each for name, each in towers.items()}
    vectors[("both",)] = np.concatenate([towers[name] for name in _TOWERS[:2]], axis=1)
    found = {key: _scores(each, groups, patients, bootstrap.seed) for key, each in vectors.items()}
    means = {key: _mean(list(own.values())) for key, own in found.items()}
    shown = {_name(key): metric for key, metric in means.items()}
    whole = estimates(shown, patients, bootstrap)
    last = states.shape[2] - 1
    gains = {
        number: paired_differences(
            {"r": means[0, last]}, {"r": means[number, last]}, patients, bootstrap
        )["r"]
        for number in range(1, len(instructions))
    }
    ones = np.ones((1, len(studies)))
    return {
        "num_studies": len(studies),
        "num_layers": states.shape[2],
        "instructions": list(instructions),
        "layers": [
            [_json(whole[_name((number, layer))]) for layer in range(states.shape[2])]
            for number in range(len(instructions))
        ],
        "towers": {name: _json(whole[name]) for name in _TOWERS},
        "gains": {str(number): asdict(each) for number, each in gains.items()},
        "targets": {
            name: {
                "num_studies": len(targets.measured[name]),
                "ceiling": noise_ceiling(list(targets.measured[name].values())),
                "towers": {tower: float(found[tower,][name](ones)[0]) for tower in _TOWERS},
                "layers": [
                    [float(found[number, layer][name](ones)[0]) for layer in range(last + 1)]
                    for number in range(len(instructions))
                ],
            }
            for name in targets.measured
        },
        "left_out": dict(targets.left_out),
    }


def instructions_table(values: Mapping[str, Any]) -> Table:
    """One row per instruction: the mean correlation over the targets, layer by layer."""
    layers = values["num_layers"]
    rows = [
        (
            _shown(instruction),
            *(f"{own[layer]['value']:.3f}" for layer in range(layers - 1)),
            str(Estimate(**own[-1])),
            "-" if not number else _signed(values["gains"][str(number)]),
        )
        for number, (instruction, own) in enumerate(
            zip(values["instructions"], values["layers"], strict=True)
        )
    ]
    names = ["embedding", *(f"layer {layer}" for layer in range(1, layers - 1)), "last layer"]
    return Table(header=("instruction", *names, "last, minus none"), rows=tuple(rows))


def targets_table(values: Mapping[str, Any]) -> Table:
    """One row per target: the towers, the last layer without instruction and with."""
    rows = []
    for name, each in values["targets"].items():
        last = [own[-1] for own in each["layers"]]
        told = f"{np.mean(last[1:]):.3f}" if last[1:] else "-"
        ceiling = each["ceiling"]
        rows.append(
            (
                name,
                str(each["num_studies"]),
                "-" if ceiling is None else f"{ceiling:.3f}",
                *(f"{each['towers'][tower]:.3f}" for tower in _TOWERS),
                f"{last[0]:.3f}",
                told,
            )
        )
    header = ("target", "studies", "ceiling", "clip", "sam", "both", "no instruction", "instructed")
    return Table(header=header, rows=tuple(rows))


def _grouped(studies: Sequence[Study], targets: Targets) -> list[_Known]:
    """Targets of the same studies together: their maps share a decomposition."""
    of_studies: dict[tuple[int, ...], list[str]] = {}
    for name, measured in targets.measured.items():
        places = tuple(place for place, study in enumerate(studies) if study.study_id in measured)
        of_studies.setdefault(places, []).append(name)
    return [
        _Known(
            names=names,
            places=np.array(places),
            values=np.array(
                [
                    [np.mean(targets.measured[name][studies[place].study_id]) for name in names]
                    for place in places
                ]
            ),
        )
        for places, names in of_studies.items()
    ]


def _scores(
    vectors: np.ndarray, groups: Sequence[_Known], patients: Sequence[str], seed: int
) -> dict[str, Metric]:
    """By target, its correlation as a function of weights of all studies."""
    found: dict[str, Metric] = {}
    for group in groups:
        own = [patients[place] for place in group.places]
        predicted, truth = predict_left_out(vectors[group.places], group.values, own, seed)
        for column, name in enumerate(group.names):
            metric = correlation_metric(predicted[:, column], truth[:, column])
            found[name] = _of_places(metric, group.places)
    return found


def _of_places(metric: Metric, places: np.ndarray) -> Metric:
    def chosen(weights: Floats) -> Floats:
        return metric(weights[:, places])

    return chosen


def _mean(metrics: Sequence[Metric]) -> Metric:
    def mean(weights: Floats) -> Floats:
        return np.asarray(np.mean([metric(weights) for metric in metrics], axis=0))

    return mean


def _name(key: tuple[Any, ...]) -> str:
    return "/".join(map(str, key))


def _json(estimate: Estimate | None) -> dict[str, Any]:
    assert estimate is not None  # a correlation is always defined here
    return estimate.to_json()


def _shown(instruction: str) -> str:
    if not instruction:
        return "none"
    cut = instruction[:_MOST_SHOWN]
    return cut if cut == instruction else f"{cut}..."


def _signed(difference: Mapping[str, Any]) -> str:
    text = f"{difference['value']:+.3f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
