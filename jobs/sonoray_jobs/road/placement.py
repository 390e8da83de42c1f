"""Settings that no key of an output holds.

They say where work runs and not what comes out, or, at the value that they have by default, what
was done before they were there.
"""

from collections.abc import Mapping
from typing import Any

TRAINING_PLACEMENT = frozenset(
    {
        "num_workers",
        "min_workers",
        "collective_timeout_s",
        "deterministic",
        "cpus_per_worker",
        "data_cpus",
        "gpus_per_worker",
        "max_failures",
        "save_every",
        "keep_checkpoints",
        "allow_changed",
        "micro_studies",
        "micro_tokens",
        "activation_checkpointing",
        "zero_stage",
        "zero_whole_below",
        "offload",
    }
)
"""Of section `train`. They may change when a training is resumed: checkpoints fit any number of
workers, and a step is the same in parts and however its state is spread, up to rounding."""

EVALUATION_PLACEMENT = frozenset(
    {"actors", "actor_cpus", "actor_gpus", "batch_size", "batch_tokens"}
)
"""Of section `evaluate`."""

NEUTRAL: Mapping[str, Any] = {
    "train.precision": "float32",
    "train.hold_out": {},
    "train.closed_first": False,
    "bootstrap.tuned": "",
    "embed.precision": "float32",
    "evaluate.precision": "trained",
}
"""Settings that came later, with what was done before: outputs of before keep their names."""


ONCE_DECISIVE: Mapping[str, Mapping[str, Any]] = {"train": {"zero_stage": 2}}
"""By section: placement that keys of before held, with the value that keys still hold."""


def without_neutral(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the settings of a section that change nothing."""
    kept = {
        name: value
        for name, value in values.items()
        if (key := f"{section}.{name}") not in NEUTRAL or value != NEUTRAL[key]
    }
    return kept | dict(ONCE_DECISIVE.get(section, {}))
