"""Every setting is used by somebody: a packaged road, a page of the docs or a test names it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.site import Site
from sonoray_jobs.road.config import RoadConfig, load_road, packaged_roads

ROOT = Path(__file__).resolve().parents[4]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("k8s/**/*.toml")]


def leaves(annotation: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all values, through unions, arrays and tables."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{path}.{name}" if path else name)
        return
    inner = [leaf for part in get_args(annotation) for leaf in leaves(part, path) if leaf != path]
    yield from inner or [path]


def set_in(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths that a file sets."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from set_in(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from set_in(inner, path)
    else:
        yield path


def test_the_paths_of_settings_are_found():
    found = set(leaves(RoadConfig))
    assert {"train.stages.epochs", "model.fusion.type", "serve.limits.max_tokens"} <= found
    assert set(set_in({"a": [{"b": 1}, {"c": [2]}], "d": {}})) == {"a.b", "a.c"}


def test_every_setting_is_used_by_a_road_a_page_or_a_test():
    files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in packaged_roads().values()]
    in_roads = {path for file in files for path in set_in(file)}
    docs = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    words = set(re.findall(r"\w+", tests))
    unused = {
        path
        for path in leaves(RoadConfig)
        if path not in in_roads and path not in docs and path.rpartition(".")[2] not in words
    }
    assert not unused, "use them in a road, a page or a test, or make them constants"


@pytest.mark.parametrize(
    "override",
    [
        "bootstrap.language.hint_noise=-1",
        "dicom.frames.max_probed=0",
        "dicom.limits.max_decoded_bytes=0",
        "dicomweb.connect_timeout_s=0",
        "phantom.dynamic_range_db=0",
        "serve.engine.min_replicas=0",
        "serve.health_check_period_s=0",
        "serve.ingress.min_replicas=0",
        "serve.limits.max_image_pixels=0",
        "serve.limits.studies_in_memory=0",
        "serve.vision.min_replicas=0",
    ],
)
def test_a_value_out_of_range_is_refused_by_name(override):
    with pytest.raises(ConfigError, match=re.escape(override.partition("=")[0])):
        load_road("tiny", [override])


def patterns_in(schema: Any) -> Iterator[dict[str, Any]]:
    """All parts of a JSON schema that have a pattern."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from patterns_in(inner)


@pytest.mark.parametrize("config", [RoadConfig, Site])
def test_a_value_with_a_pattern_has_examples_to_show_in_place_of_it(config):
    found = list(patterns_in(config.model_json_schema()))
    assert found
    for schema in found:
        assert schema.get("examples"), schema
        for example in schema["examples"]:
            assert re.search(schema["pattern"], example), (example, schema)


def test_a_value_of_another_form_is_told_by_examples():
    told = r"train\.save_every = 'often': write it as in '50 steps' or '10 minutes'$"
    with pytest.raises(ConfigError, match=told):
        load_road("tiny", ["train.save_every=often"])
