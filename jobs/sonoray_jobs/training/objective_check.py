"""Whether a road's objectives can be learned in the stages and with the spreading that it has."""

import json
from pathlib import Path

from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig

_MOST_ZERO = 2
"""Stage of ZeRO up to which every worker has all weights."""


def check_objectives(road: RoadConfig, language: Path) -> None:
    """Refuse objectives that a training could not follow, before a worker starts.

    Args:
        road: the configuration.
        language: folder of the language model.

    Raises:
        ConfigError: one needs whole weights, which are spread over workers, or a layer that the
            decoder lacks; or a stage would have nothing to learn from.
    """
    count = json.loads((language / "config.json").read_text("utf-8")).get("num_hidden_layers")
    active = road.model.active_objectives
    for each in active:
        if each.needs_whole_weights and road.train.zero_stage > _MOST_ZERO:
            raise ConfigError(
                f"objective {each.type!r} needs whole weights on every worker, which "
                f"train.zero_stage {road.train.zero_stage} spreads; set it to {_MOST_ZERO}"
            )
        layer = getattr(each, "layer", None)
        if count and layer is not None and not (1 <= layer <= count or -count <= layer <= -1):
            raise ConfigError(
                f"objective {each.type!r}: layer {layer} is none of this decoder's {count} layers; "
                f"give 1 to {count}, or -1 to -{count} from the last one"
            )
    for stage in road.train.stages:
        if not stage.lora and all("adapters" in each.needs for each in active):
            raise ConfigError(
                f"train.stages {stage.name!r} has lora = false, and what is trained for "
                f"({', '.join(each.type for each in active)}) rests while the adapters do; list "
                "'answer' in model.objectives, or set lora = true"
            )
