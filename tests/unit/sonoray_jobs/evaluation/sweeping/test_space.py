"""Which settings a sweep searches, read from text; nothing that does not fit the road starts."""

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation.sweeping.space import Field, read_fields, road_at
from sonoray_jobs.road.config import load_road

ROAD = load_road("tiny", [])


@pytest.mark.parametrize(
    ("text", "ends", "shown"),
    [
        ("model.lora.rank:[4, 8]", ["4", "8"], "4, 8"),
        ('train.variant:["a", "乙"]', ['"a"', '"乙"'], '"a", "乙"'),
        ("train.seed:0..9", [0, 9], "0 to 9"),
        ("train.weight_decay:0 .. 0.1", [0, 0.1], "0 to 0.1"),
        ("a:log 1e-4..1e-2", [1e-4, 1e-2], "0.0001 to 0.01, by its logarithm"),
        ("a:-3..-1", [-3, -1], "-3 to -1"),
    ],
)
def test_a_field_is_a_list_or_a_range(text, ends, shown):
    field = Field.read(text)
    assert (field.ends, field.shown) == (ends, shown)
    assert all(type(found) is type(end) for found, end in zip(field.ends, ends, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.seed", "is no KEY:"),
        (":[1, 2]", "is no KEY:"),
        ("train.seed=4", "is no KEY:"),
        ("train.seed:a..b", "is no KEY:"),
        ("train.seed:[1]", "two or more values"),
        ("train.seed:[1, 1]", "two or more values"),
        ("train.seed:[1, ", "write it as"),
        ("train.seed:3..3", "from a lower to a higher"),
        ("train.seed:nan..3", "from a lower to a higher"),
        ("a:log 0..1", "both above 0"),
    ],
)
def test_what_is_none_is_refused_with_its_text(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Field.read(text)
    assert text.strip() in str(caught.value)


@pytest.mark.parametrize(
    "text", ["train.seed:0..9", "train.stages.1.learning_rate:log 1e-4..1e-2", "a:[1, 2, 3]"]
)
def test_what_ray_tune_draws_lies_in_the_field_and_in_optunas_distribution(text):
    field = Field.read(text)
    distribution = field.distribution()
    drawn = [
        each.item() if hasattr(each, "item") else each
        for each in field.domain().sample(size=200, random_state=0)
    ]
    assert all(distribution._contains(distribution.to_internal_repr(each)) for each in drawn)
    if field.choices:
        assert set(drawn) == set(field.choices)
    elif field.is_whole:
        assert set(drawn) == set(range(int(field.low), int(field.high) + 1))
    else:
        assert field.low <= min(drawn) < max(drawn) <= field.high


def test_a_point_is_a_road_with_its_settings():
    fields = read_fields(
        [
            "train.stages.1.epochs:1..3",
            "model.lora.rank:[4, 8]",
            "train.stages.0.lora:[true, false]",
        ],
        ROAD,
    )
    point = {"train.stages.1.epochs": 2, "model.lora.rank": "8", "train.stages.0.lora": "true"}
    road = road_at(ROAD, fields, point)
    assert (road.train.stages[1].epochs, road.model.lora.rank) == (2, 8)
    assert road.train.stages[0].lora is True
    assert ROAD.train.stages[0].lora is False


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([], "one or more settings"),
        (["train.seed:0..1", "train.seed:2..3"], "each once"),
        (["train.sed:0..9"], "train.sed"),
        (["train.stages.9.epochs:1..2"], "no such setting"),
        (["train.nothing.here:1..2"], "no such setting"),
        (["train.clip_norm:-1..2"], "clip_norm"),
        (["train.studies_per_step:[0, 8]"], "studies_per_step"),
    ],
)
def test_what_does_not_fit_the_road_is_refused_before_anything_starts(over, message):
    with pytest.raises(ConfigError, match=message):
        read_fields(over, ROAD)
