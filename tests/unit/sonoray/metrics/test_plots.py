"""The pictures of an evaluation: written, of a sensible size, and drawn from the numbers."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.metrics import AnswerRecord, Bootstrap, Estimate, closed_metrics
from sonoray.metrics.plots import plot_closed, plot_history, plot_roc


def evaluated(*, signal):
    generator = np.random.default_rng(0)
    records = []
    for number in range(40):
        truth = number % 2
        scores = generator.normal(size=2)
        scores[truth] += signal
        records.append(
            AnswerRecord(
                study_id=str(number), patient_key=str(number), topic="pathology",
                truth="ab"[truth], answer="ab"[int(scores.argmax())], options=("a", "b"),
                option_scores=dict(zip("ab", scores.tolist(), strict=True)),
            )
        )  # fmt: skip
    return records, closed_metrics(
        records, training_answers={"pathology": ["a"]}, bootstrap=Bootstrap(num_resamples=1000)
    )


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def test_pictures_follow_the_numbers_and_repeat_themselves(tmp_path):
    for name, signal in (("weak", 0.0), ("strong", 3.0), ("again", 3.0)):
        records, metrics = evaluated(signal=signal)
        plot_closed(metrics, tmp_path / f"closed-{name}.png")
        assert plot_roc(records, metrics, tmp_path / f"roc-{name}.png")
    for kind in ("closed", "roc"):
        weak, strong, again = (
            pixels(tmp_path / f"{kind}-{name}.png") for name in ("weak", "strong", "again")
        )
        assert min(strong.shape) > 150
        np.testing.assert_array_equal(strong, again)
        assert weak.shape != strong.shape or not np.array_equal(weak, strong)


def test_both_arms_of_an_interval_are_drawn(tmp_path):
    _, [item] = evaluated(signal=1.0)
    value = item.accuracy.value
    seen = []
    for number, (low, high) in enumerate([(0.1, 0.9), (0.1, value), (value, 0.9), (value, value)]):
        accuracy = Estimate(value=value, low=low, high=high)
        path = tmp_path / f"{number}.png"
        plot_closed([replace(item, accuracy=accuracy)], path)
        seen.append((pixels(path) < 200).sum())
    both, left, right, none = seen
    assert none < min(left, right) <= max(left, right) < both


def test_no_curve_without_scores_of_two_options(tmp_path):
    record = AnswerRecord(
        study_id="s", patient_key="p", topic="t", truth="a", answer="a", options=("a", "b")
    )
    metrics = closed_metrics([record], training_answers={})
    plot_closed(metrics, tmp_path / "closed.png")  # neither an AUC nor an interval nor a constant
    assert not plot_roc([record], metrics, tmp_path / "roc.png")
    assert [path.name for path in tmp_path.iterdir()] == ["closed.png"]
    with pytest.raises(DataError, match="no closed question"):
        plot_closed([], tmp_path / "none.png")


def test_a_history_is_drawn(tmp_path):
    plot_history({"alpha": [(1, 0.5), (2, 0.6)]}, tmp_path / "up.png", (0, 1))
    plot_history({"alpha": [(1, 0.6), (2, 0.5)]}, tmp_path / "down.png", (0, 1))
    up, down = (pixels(tmp_path / f"{name}.png") for name in ("up", "down"))
    assert not np.array_equal(up, down)
