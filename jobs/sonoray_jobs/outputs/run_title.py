"""What a training is called in MLflow's pages: dataset, configuration, what differs, and its name.

`phantom tiny lora.rank=64 3f2ab1` says what a row of a table is, and its last word finds it again:
`--run` takes the title as well as the training's own name. Settings are compared with those of the
packaged configuration of that name; a file of somebody's own has nothing to be compared with.
"""

import json
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray_jobs.road.config import RoadConfig, load_road, packaged_roads

_SECTIONS = {"model", "bootstrap", "train"}
_MOST_SETTINGS = 3
_MOST_CHARACTERS = 40
"""Of one setting; a longer one, such as a list of objectives, is named without its value."""


def run_title(road: RoadConfig, dataset: str, name: str) -> str:
    """Return the title of a training.

    Args:
        road: its settings.
        dataset: name of its dataset.
        name: of the training, as `outputs.find.training_name` gives it.
    """
    words = [dataset] if road.name in ("", dataset) else [dataset, road.name]
    differing = _differing(road)
    words += differing[:_MOST_SETTINGS]
    if len(differing) > _MOST_SETTINGS:
        words.append(f"and {len(differing) - _MOST_SETTINGS} more")
    return " ".join([*words, name.rpartition("-")[2][:6]])


def _differing(road: RoadConfig) -> list[str]:
    if road.name not in packaged_roads():
        return []
    usual = load_road(road.name).model_dump(mode="json", include=_SECTIONS)
    changed = changed_settings(usual, road.model_dump(mode="json", include=_SECTIONS))
    # without those that another variant, as of the fusion, does not have
    return [_shown(key, value) for key, (_, value) in changed.items() if value is not None]


def _shown(key: str, value: Any) -> str:  # noqa: ANN401 - a JSON value
    parts = key.split(".")
    short = ".".join(parts[-3:] if parts[-2].isdecimal() else parts[-2:])
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    shown = f"{short}={text}"
    return shown if len(shown) <= _MOST_CHARACTERS else short
