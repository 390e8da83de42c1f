import numpy as np
import pytest

from sonoray.phantom.anatomy import PRESETS, Organ
from sonoray.phantom.physics import (
    NUM_BEAMS,
    NUM_DEPTHS,
    Tissue,
    beam_grid,
    echo_envelope,
    image_grid,
    log_compress,
    path_loss_db,
    scan_convert,
)

LINEAR = PRESETS[Organ.BREAST].probe
CONVEX = PRESETS[Organ.LIVER].probe
probes = pytest.mark.parametrize("probe", [LINEAR, CONVEX], ids=["linear", "convex"])


def speckle(probe, *, attenuation=0.0, num_scans=6, **scan):
    tissue = Tissue.uniform(beam_grid(probe), attenuation=attenuation)
    rng = np.random.default_rng(0)
    return np.stack([echo_envelope(tissue, rng, **scan) for _ in range(num_scans)])


def point_response(probe, row, beam):
    tissue = Tissue.uniform(beam_grid(probe), echo_db=-300.0, attenuation=0.0)
    tissue.specular[row, beam] = 1.0
    return echo_envelope(tissue, np.random.default_rng(0)).astype(np.float64)


def spread(profile):
    """Standard deviation of a Gaussian profile in samples, but for the ripple of its band limit."""
    profile = np.where(profile > 0.01 * profile.max(), profile, 0)
    position = np.arange(len(profile))
    centre = np.average(position, weights=profile)
    return np.sqrt(np.average((position - centre) ** 2, weights=profile))


@probes
def test_speckle_of_homogeneous_tissue_is_fully_developed(probe):
    envelope = speckle(probe)
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, abs=0.03)
    power = (envelope**2).ravel()  # exponential: a share of exp(-1) lies above the mean
    assert (power > power.mean()).mean() == pytest.approx(np.exp(-1), abs=0.01)


@probes
def test_speckle_keeps_its_power_at_every_depth(probe):
    power = (speckle(probe) ** 2).mean(axis=(0, 2))[8:-8]
    for part in np.array_split(power, 4):
        assert part.mean() == pytest.approx(1.0, abs=0.08)


@probes
def test_point_spread_has_the_sigmas_of_the_probe_and_widens_off_focus(probe):
    grid, step_mm = beam_grid(probe), probe.depth_mm / NUM_DEPTHS
    focus = int(probe.focus_mm / step_mm)
    response = point_response(probe, focus, NUM_BEAMS // 2)
    assert spread(response[:, NUM_BEAMS // 2]) * step_mm == pytest.approx(
        probe.axial_sigma_mm, rel=0.05
    )
    widths_mm = []
    for row in (focus, NUM_DEPTHS - 20):
        profile = point_response(probe, row, NUM_BEAMS // 2)[row]
        widths_mm.append(spread(profile) * float(grid.pitch_mm[row, 0]))
    assert widths_mm[0] == pytest.approx(probe.beam_sigma_mm, rel=0.05)
    assert widths_mm[1] > 1.3 * widths_mm[0]


@probes
def test_echo_falls_with_depth_as_the_attenuation_says(probe):
    envelope = speckle(probe, attenuation=0.5)
    level_db = 10 * np.log10((envelope**2).mean(axis=(0, 2)))[8:-8]
    depth_mm = beam_grid(probe).depth_mm[8:-8, 0]
    slope = np.polyfit(depth_mm, level_db, 1)[0]
    assert slope == pytest.approx(-0.5 * probe.frequency_mhz * 0.2, rel=0.03)


def test_time_gain_compensation_levels_the_image_and_lifts_the_noise():
    gain = LINEAR.loss_db_mm(0.5)
    level = (speckle(LINEAR, attenuation=0.5, gain_db_mm=gain) ** 2).mean(axis=(0, 2))
    assert level[200:240].mean() == pytest.approx(level[10:50].mean(), rel=0.1)
    silent = Tissue.uniform(beam_grid(LINEAR), echo_db=-300.0)
    noise = echo_envelope(silent, np.random.default_rng(0), noise_db=-60.0, gain_db_mm=gain)
    power_db = 10 * np.log10((noise**2).mean(axis=1))
    assert power_db[:20].mean() == pytest.approx(-60, abs=2)
    assert power_db[-20:].mean() - power_db[:20].mean() == pytest.approx(
        gain * LINEAR.depth_mm, rel=0.15
    )


def test_path_loss_is_two_way_and_grows_along_the_beam():
    loss = path_loss_db(Tissue.uniform(beam_grid(LINEAR), attenuation=0.5))
    assert loss[-1] == pytest.approx(2 * 0.5 * LINEAR.frequency_mhz * LINEAR.depth_mm / 10)
    assert (np.diff(loss, axis=0) > 0).all()


def test_log_compression_is_linear_in_db_and_clips_at_black_and_white():
    levels_db = np.array([-60.0, -50.0, -25.0, 5.0, 20.0])
    flat = np.ones((4, 4), np.float32)
    gray = [
        log_compress(flat * np.float32(10 ** (level / 20)), range_db=60, white_db=10)[0, 0]
        for level in levels_db
    ]
    expected = [0, 0, 255 * 25 / 60, 255 * 55 / 60, 255]
    assert gray == pytest.approx(expected, abs=1e-2)


@probes
def test_scan_conversion_puts_a_reflector_where_it_lies(probe):
    grid = beam_grid(probe)
    gray = np.zeros((NUM_DEPTHS, NUM_BEAMS), np.float32)
    row, beam = 150, 60
    gray[row - 2 : row + 3, beam - 2 : beam + 3] = 255
    image = scan_convert(gray, probe, 192).astype(np.float64)
    x_mm, z_mm = image_grid(probe, 192)
    pixel_mm = probe.side_mm / 192
    assert (image * x_mm).sum() / image.sum() == pytest.approx(grid.x_mm[row, beam], abs=pixel_mm)
    assert (image * z_mm).sum() / image.sum() == pytest.approx(grid.z_mm[row, beam], abs=pixel_mm)


def test_a_convex_image_is_black_outside_of_its_sector():
    image = scan_convert(np.full((NUM_DEPTHS, NUM_BEAMS), 200, np.float32), CONVEX, 128)
    assert image[0, 0] == image[0, -1] == image[0, 64] == 0
    assert image[40, 64] == 200
    linear = scan_convert(np.full((NUM_DEPTHS, NUM_BEAMS), 200, np.float32), LINEAR, 128)
    assert (linear == 200).all()
