"""The packaged configurations: every file loads, and the docs name only those that exist."""

import re
from pathlib import Path

import pytest

from sonoray.config.canonical import canonical_json
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig, load_road, packaged_roads

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "jobs" / "sonoray_jobs" / "road" / "presets").iterdir())
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = [*PAGES, *ROOT.glob("[jps]*/sono*/**/*.py")]
VALUE = r"(?:\[(?:[^][]|\[[^]]*\])*\]|\{[^}]*\}|[^\s;`\"')]+)"
OVERRIDE = re.compile(rf"\b(?:{'|'.join(RoadConfig.model_fields)})(?:\.\w+)+={VALUE}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_packaged_file_is_a_valid_road(path):
    assert path.suffix == ".toml"
    road = load_road(str(path))
    assert validate_config(RoadConfig, road.model_dump(mode="json"), "dump") == road
    assert canonical_json(road) == canonical_json(load_road(path.stem))


def test_the_packaged_roads_are_the_files():
    assert set(packaged_roads()) == {path.stem for path in FILES}
    assert {"tiny", "busbra"} <= set(packaged_roads())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_unknown_key_is_refused_by_name(path):
    with pytest.raises(ConfigError, match=r"unknown key 'train\.epcohs'"):
        load_road(str(path), ["train.epcohs=3"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_docs_name_packaged_roads_only(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"--config ([a-z_-]+)(?!\S)", text)) <= set(packaged_roads())


def test_every_override_that_a_text_shows_is_one_that_a_road_takes():
    """Help texts, messages and docs: what is pasted from them has to work."""
    texts = [path.read_text(encoding="utf-8") for path in TEXTS]
    shown = {override for text in texts for override in OVERRIDE.findall(text)}
    assert {"train.num_workers=1", "phantom.seed=7"} <= shown
    for override in shown:
        load_road("tiny", [override])
