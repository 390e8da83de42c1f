from dataclasses import fields

import pytest

from sonoray_serve.schedule.meters import Counts, Meters, metric_name, show_model


def test_every_count_is_a_metric_and_counters_grow_by_what_is_new(monkeypatch: pytest.MonkeyPatch):
    meters = Meters()
    told: dict[str, list[int]] = {}
    for field, metric in {**meters._gauges, **meters._counters}.items():
        method = "set" if field in meters._gauges else "inc"
        monkeypatch.setattr(metric, method, told.setdefault(field, []).append)
    assert set(told) == {field.name for field in fields(Counts)}
    meters.show(Counts(num_waiting=3, num_active=1, num_ended=5, num_answer_tokens=7))
    meters.show(Counts(num_waiting=0, num_active=2, num_ended=5, num_answer_tokens=17))
    assert told["num_waiting"] == [3, 0]
    assert told["num_active"] == [1, 2]
    assert told["num_ended"] == [5]
    assert told["num_answer_tokens"] == [7, 10]
    assert told["num_cancelled"] == []


def test_metrics_have_names_of_their_own():
    names = [metric_name(field.name) for field in fields(Counts)]
    assert len(set(names)) == len(names)
    assert metric_name("num_waiting") == "sonoray_engine_waiting"


def test_the_served_model_is_told_by_its_digest(monkeypatch: pytest.MonkeyPatch):
    from ray.serve.metrics import Gauge

    told = []
    monkeypatch.setattr(Gauge, "set", lambda _self, value, tags: told.append((value, tags)))
    tell = show_model("0123456789abcdef" * 4)
    tell()
    assert told == [(1, {"digest": "0123456789abcdef"})] * 2
