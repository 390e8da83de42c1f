import pytest

from sonoray.metrics import Bootstrap
from sonoray.metrics.picks import Pick, chance_rate, hit_rate

BOOTSTRAP = Bootstrap(num_resamples=1000)


def pick(showing, first, num_seen=1, patient="p"):
    return Pick(patient_key=patient, showing=showing, num_seen=num_seen, first=first)


@pytest.mark.parametrize(
    ("showing", "num_seen", "judged"),
    [
        ([1, 0], 1, True),
        ([1, -1], 1, True),
        ([1, 1, 0], 2, True),
        ([1, 1], 1, True),
        ([1, 0], 2, False),  # every image was seen: nothing was picked
        ([1], 1, False),
        ([0, 0], 1, False),  # no pick could be right
        ([-1, -1], 1, False),
        ([0, -1], 1, False),
    ],
)
def test_a_pick_is_judged_where_it_could_be_right_and_an_image_was_left_out(
    showing, num_seen, judged
):
    assert pick(showing, 0, num_seen).is_judged is judged


def test_the_image_put_first_is_right_where_it_is_known_to_show_the_finding():
    assert [pick([1, 0, -1], first).hit for first in range(3)] == [1.0, 0.0, 0.0]
    assert pick([1, 0, -1], 0).chance == pytest.approx(1 / 3)


def test_rates_are_of_the_judged_picks_alone():
    picks = [
        pick([1, 0], 0, patient="a"),
        pick([1, 0, 0, 0], 2, patient="b"),
        pick([1, 0], 0, num_seen=2, patient="c"),
        pick([-1, -1], 0, patient="d"),
    ]
    assert hit_rate(picks, BOOTSTRAP).value == 0.5
    assert chance_rate(picks, BOOTSTRAP).value == (1 / 2 + 1 / 4) / 2
    low, high = (getattr(hit_rate(picks, BOOTSTRAP), end) for end in ("low", "high"))
    assert (low, high) == (0.0, 1.0)  # two patients, one of them right


def test_without_a_judged_pick_there_is_no_rate():
    assert hit_rate([], BOOTSTRAP) is None
    assert hit_rate([pick([1, 0], 0, num_seen=2)], BOOTSTRAP) is None
    assert chance_rate([pick([0, 0], 0)], BOOTSTRAP) is None
