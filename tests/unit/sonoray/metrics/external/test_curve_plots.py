import numpy as np
import pytest
from PIL import Image

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.calibration import measure_calibration
from sonoray.metrics.external.curve_plots import plot_curves
from sonoray.metrics.external.decision_curve import decision_curve
from sonoray.metrics.external.risk_coverage import risk_coverage

QUICK = Bootstrap(num_resamples=1000)


@pytest.mark.parametrize("patients", [list(range(60)), [0] * 60], ids=["many", "one"])
def test_the_decision_curve_is_a_third_panel(tmp_path, patients):
    generator = np.random.default_rng(0)
    chance = generator.random(60)
    probabilities = np.stack([1 - chance, chance], axis=1)
    truth = (generator.random(60) < chance).astype(int)
    calibration = measure_calibration(probabilities, truth, patients, QUICK)
    wrong = probabilities.argmax(axis=1) != truth
    risks = risk_coverage(probabilities.max(axis=1), wrong, patients, QUICK)
    decisions = decision_curve(chance, truth == 1, patients, QUICK)
    plot_curves(calibration, risks, decisions, tmp_path / "three.png")
    plot_curves(calibration, risks, (), tmp_path / "two.png")
    three, two = (Image.open(tmp_path / f"{name}.png") for name in ("three", "two"))
    assert three.height == two.height
    assert three.width == pytest.approx(two.width * 3 / 2, abs=3)
    assert np.asarray(three.convert("L")).min() < 100
