from dataclasses import replace

import numpy as np
import pytest

from sonoray.phantom.anatomy import PRESETS, Organ
from sonoray.phantom.lesion import (
    CALCIFICATION,
    PROTOTYPES,
    Echogenicity,
    Grain,
    Kind,
    Margin,
    Posterior,
    Section,
    SizeClass,
    draw_lesion,
    lesion_distance,
    lesion_mask,
    paint_lesion,
)
from sonoray.phantom.physics import Tissue, beam_grid, echo_envelope, image_grid

BREAST = PRESETS[Organ.BREAST]
GRID = beam_grid(BREAST.probe)
CENTRED = Section(x_mm=0.0, z_mm=15.0, scale=1.0, tilt_rad=0.0, shift=0)


def find_lesion(keep, *, size_mm=12.0):
    """The first drawn lesion that `keep` accepts, at a fixed size."""
    rng = np.random.default_rng(0)
    drawn = (draw_lesion(rng, size_bounds_mm=BREAST.size_bounds_mm) for _ in range(1000))
    return replace(next(filter(keep, drawn)), size_mm=size_mm, aspect=0.8)


def of_kind(kind, **attributes):
    return find_lesion(
        lambda lesion: (
            lesion.kind is kind
            and all(getattr(lesion, name) == value for name, value in attributes.items())
        )
    )


def level_db(lesion, region, *, num_scans=8):
    """Mean echo of a region in otherwise homogeneous tissue, gain compensated."""
    rng = np.random.default_rng(1)
    power = []
    for _ in range(num_scans):
        tissue = Tissue.uniform(GRID)
        if lesion is not None:
            paint_lesion(tissue, lesion, CENTRED, rng)
        envelope = echo_envelope(tissue, rng, gain_db_mm=BREAST.probe.loss_db_mm(0.5))
        power.append((envelope[region] ** 2).mean())
    return 10 * np.log10(np.mean(power))


INSIDE = np.hypot(GRID.x_mm, (GRID.z_mm - 15) / 0.8) < 3.5
BEHIND = (np.abs(GRID.x_mm) < 2.5) & (GRID.z_mm > 23) & (GRID.z_mm < 32)
BESIDE = (np.abs(GRID.x_mm) > 11) & (GRID.z_mm > 23) & (GRID.z_mm < 32)


def test_a_cyst_is_black_and_enhances_what_lies_behind():
    cyst = of_kind(Kind.CYST)
    assert level_db(cyst, INSIDE) < level_db(None, INSIDE) - 20
    gain_db = BREAST.probe.loss_db_mm(0.48) * 12 * 0.8  # what the cyst did not take
    assert level_db(cyst, BEHIND) - level_db(None, BEHIND) == pytest.approx(gain_db, abs=1.5)
    assert level_db(cyst, BESIDE) == pytest.approx(level_db(None, BESIDE), abs=0.5)


@pytest.mark.parametrize(
    ("kind", "at_least_db"), [(Kind.CALCIFIED, 15), (Kind.MALIGNANT, 6)], ids=str
)
def test_calcified_and_malignant_lesions_cast_a_shadow(kind, at_least_db):
    lesion = of_kind(kind)
    assert lesion.posterior is Posterior.SHADOW
    assert level_db(lesion, BEHIND) < level_db(None, BEHIND) - at_least_db
    assert level_db(lesion, BESIDE) == pytest.approx(level_db(None, BESIDE), abs=0.5)


def test_a_benign_solid_lesion_leaves_what_lies_behind_as_it_is():
    benign = of_kind(Kind.BENIGN)
    assert benign.posterior is Posterior.NONE
    assert level_db(benign, BEHIND) == pytest.approx(level_db(None, BEHIND), abs=0.7)


def test_echogenicities_are_ordered_against_the_tissue_around():
    around = level_db(None, INSIDE)
    levels = {
        echo: level_db(
            find_lesion(lambda each, echo=echo: each.echogenicity is echo and not each.calcified),
            INSIDE,
        )
        - around
        for echo in Echogenicity
    }
    assert levels[Echogenicity.ANECHOIC] < -20 < levels[Echogenicity.HYPO] < -9
    assert levels[Echogenicity.ISO] == pytest.approx(0, abs=3)
    assert levels[Echogenicity.HYPER] > 7


def test_microcalcifications_stand_out_of_the_lesion():
    def brightest(calcified):
        lesion = of_kind(Kind.MALIGNANT, echogenicity=Echogenicity.HYPO, calcified=calcified)
        tissue, rng = Tissue.uniform(GRID), np.random.default_rng(2)
        paint_lesion(tissue, lesion, CENTRED, rng)
        return echo_envelope(tissue, rng, gain_db_mm=BREAST.probe.loss_db_mm(0.5))[INSIDE].max()

    assert brightest(calcified=True) > 8 * brightest(calcified=False)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_the_mask_has_the_place_and_size_of_the_section(scale):
    lesion = of_kind(Kind.CYST)
    section = replace(CENTRED, x_mm=-3.0, scale=scale)
    x_mm, z_mm = image_grid(BREAST.probe, 192)
    mask = lesion_mask(lesion, section, [], x_mm, z_mm) == 255
    pixel_mm = BREAST.probe.side_mm / 192
    area_mm2 = np.pi / 4 * (12 * scale) ** 2 * 0.8
    assert mask.sum() * pixel_mm**2 == pytest.approx(area_mm2, rel=0.12)
    assert (mask * x_mm).sum() / mask.sum() == pytest.approx(-3.0, abs=0.5)
    assert (mask * z_mm).sum() / mask.sum() == pytest.approx(15.0, abs=0.5)


def test_the_mask_marks_calcium_inside_of_the_lesion():
    x_mm, z_mm = image_grid(BREAST.probe, 192)
    lesion = of_kind(Kind.CYST)
    inside = lesion_mask(lesion, CENTRED, [], x_mm, z_mm) > 0
    grains = [
        Grain(x_mm=CENTRED.x_mm, z_mm=CENTRED.z_mm, radius_mm=1.0),
        Grain(x_mm=CENTRED.x_mm + 15, z_mm=CENTRED.z_mm, radius_mm=1.0),  # in the tissue
    ]
    mask = lesion_mask(lesion, CENTRED, grains, x_mm, z_mm)
    pixel_mm = BREAST.probe.side_mm / 192
    assert ((mask > 0) == inside).all()
    assert (mask == CALCIFICATION).sum() * pixel_mm**2 == pytest.approx(np.pi, rel=0.2)
    whole = lesion_mask(of_kind(Kind.CALCIFIED), CENTRED, [], x_mm, z_mm)
    assert set(np.unique(whole)) == {0, CALCIFICATION}


def test_a_spiculated_margin_is_longer_than_a_smooth_one():
    def compactness(margin):
        lesion = find_lesion(lambda each: each.margin is margin)
        x_mm, z_mm = image_grid(BREAST.probe, 512)
        distance, _ = lesion_distance(lesion, CENTRED, x_mm, z_mm)
        inside = distance < 0
        border = (inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum()
        return border**2 / inside.sum()

    assert compactness(Margin.SPICULATED) > 1.5 * compactness(Margin.SMOOTH)


def test_a_lesion_is_malignant_exactly_where_two_of_three_signs_meet():
    for prototype in PROTOTYPES:
        signs = [
            prototype.echogenicity is Echogenicity.HYPO,
            prototype.margin is Margin.SPICULATED,
            prototype.calcified,
        ]
        assert (sum(signs) >= 2) == (prototype.kind is Kind.MALIGNANT), prototype


def test_the_table_of_prototypes_is_balanced():
    weights = np.array([prototype.weight for prototype in PROTOTYPES])
    assert weights.sum() == pytest.approx(1.0)
    for share in (
        sum(p.weight for p in PROTOTYPES if p.kind is Kind.MALIGNANT),
        sum(p.weight for p in PROTOTYPES if p.margin is Margin.SPICULATED),
        sum(p.weight for p in PROTOTYPES if p.calcified),
    ):
        assert share == pytest.approx(0.5, abs=0.03)
    for echo in Echogenicity:
        assert sum(p.weight for p in PROTOTYPES if p.echogenicity is echo) < 0.45


def test_size_class_follows_from_the_size():
    rng = np.random.default_rng(0)
    low, first, second, high = BREAST.size_bounds_mm
    seen = set()
    for _ in range(60):
        lesion = draw_lesion(rng, size_bounds_mm=BREAST.size_bounds_mm)
        bounds = {
            SizeClass.SMALL: (low, first),
            SizeClass.MEDIUM: (first, second),
            SizeClass.LARGE: (second, high),
        }[lesion.size_class]
        assert bounds[0] <= lesion.size_mm <= bounds[1]
        seen.add(lesion.size_class)
    assert seen == set(SizeClass)
