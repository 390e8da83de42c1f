import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.errors import ConfigError
from sonoray.study.sample_order import Plan, num_steps, turns_of_epoch

COUNT = 37


def plan(rank, num_ranks, count=COUNT, size=8, epochs=range(2), seed=0, **part):
    return list(
        Plan(
            num_studies=count,
            seed=seed,
            studies_per_step=size,
            epochs=epochs,
            rank=rank,
            num_ranks=num_ranks,
            **part,
        )
    )


@settings(deadline=None, max_examples=60)
@given(count=st.integers(8, 60), size=st.integers(8, 20), num_ranks=st.integers(1, 4))
def test_every_study_is_seen_once_per_epoch_by_one_rank(count, size, num_ranks):
    for epoch in range(2):
        seen = Counter(
            study
            for rank in range(num_ranks)
            for step in plan(rank, num_ranks, count, size)
            if step.epoch == epoch
            for study in step.studies
        )
        assert seen == Counter(range(count))


@settings(deadline=None, max_examples=30)
@given(num_ranks=st.integers(1, 4))
def test_the_order_does_not_depend_on_the_number_of_workers(num_ranks):
    def global_steps(ranks):
        columns = zip(*(plan(rank, ranks) for rank in range(ranks)), strict=True)
        return [[study for step in column for study in step.studies] for column in columns]

    assert global_steps(num_ranks) == global_steps(1)


def test_no_rank_is_ever_without_a_study_and_all_have_the_same_steps():
    plans = [plan(rank, 4) for rank in range(4)]
    assert len({len(steps) for steps in plans}) == 1
    assert all(step.studies for steps in plans for step in steps)
    assert len(plans[0]) == 2 * num_steps(COUNT, 8)


def test_epochs_differ_in_order_and_repeat_with_the_seed():
    first, second = (
        [study for step in plan(0, 1) if step.epoch == epoch for study in step.studies]
        for epoch in (0, 1)
    )
    assert first != second
    assert plan(0, 1) == plan(0, 1)
    assert plan(0, 1) != plan(0, 1, seed=1)


def test_resuming_goes_on_after_the_last_whole_epoch():
    whole = plan(1, 2)
    assert plan(1, 2, epochs=range(1, 2)) == [step for step in whole if step.epoch == 1]


def test_a_part_of_a_plan_is_those_of_its_steps():
    whole = plan(1, 2)
    for begin in range(len(whole) + 1):
        assert plan(1, 2, begin=begin) == whole[begin:]
        assert plan(1, 2, begin=begin, end=begin + 3) == whole[begin : begin + 3]
    assert plan(1, 2, begin=len(whole) + 1) == []


@settings(max_examples=60)
@given(
    count=st.integers(16, 60),
    size=st.integers(16, 70),
    ranks=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    done=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_a_run_resumed_after_any_epoch_on_any_workers_sees_what_it_would_have_seen(
    count, size, ranks, done, seed
):
    """Steps of the whole split, in order: the ranks' shares put together."""

    def seen(num_ranks, epochs):
        shares = [plan(rank, num_ranks, count, size, epochs, seed) for rank in range(num_ranks)]
        return [
            (steps[0].epoch, steps[0].index, [s for step in steps for s in step.studies])
            for steps in zip(*shares, strict=True)
        ]

    before, after = ranks
    whole = seen(before, range(4))
    assert seen(before, range(done)) + seen(after, range(done, 4)) == whole
    for epoch in range(4):
        steps = [studies for at, _, studies in whole if at == epoch]
        assert Counter(study for studies in steps for study in studies) == Counter(range(count))
        sizes = {len(studies) for studies in steps}
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1  # no small rest, whose gradient would weigh as much


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (31, 16, [16, 15]),
        (32, 16, [16, 16]),
        (33, 16, [11, 11, 11]),
        (17, 16, [9, 8]),
        (15, 16, [15]),
        (16, 16, [16]),
        (7, 2, [2, 2, 2, 1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_no_step_holds_more_than_the_batch_and_all_hold_as_much_as_can_be(count, size, sizes):
    steps = plan(0, 1, count, size, range(1))
    assert [len(step.studies) for step in steps] == sizes
    assert num_steps(count, size) == len(sizes)


@settings(max_examples=60)
@given(
    count=st.integers(8, 60),
    size=st.integers(8, 20),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_a_step_is_the_split_of_its_epochs_permutation(count, size, ranks, seed):
    """The order is a promise: a training that was begun by an earlier version goes on with it."""
    for epoch in (1, 2):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        chunks = np.array_split(order, num_steps(count, size))
        for rank in range(ranks):
            steps = plan(rank, ranks, count, size, range(epoch, epoch + 1), seed)
            assert [step.index for step in steps] == list(range(len(chunks)))
            for step, chunk in zip(steps, chunks, strict=True):
                assert list(step.studies) == np.array_split(chunk, ranks)[rank].tolist()


def test_a_plan_is_computed_and_not_stored():
    plans = Plan(
        num_studies=100_000,
        seed=0,
        studies_per_step=16,
        epochs=range(1000),
        rank=0,
        num_ranks=2,
    )
    tracemalloc.start()
    try:
        last = plans[len(plans) - 1]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (last.epoch, last.index) == (999, 100_000 // 16 - 1)
    assert held < 10 * 100_000  # one permutation, and not 6 million steps
    with pytest.raises(IndexError):
        plans[len(plans)]


@pytest.mark.parametrize(("count", "size"), [(37, 3), (3, 8), (5, 4), (0, 8)])
def test_workers_that_a_step_could_not_feed_are_refused(count, size):
    with pytest.raises(ConfigError, match="cannot feed 4 workers"):
        plan(0, 4, count, size)


@settings(deadline=None, max_examples=60)
@given(
    num_turns=st.integers(1, 12),
    turns_per_epoch=st.integers(1, 12),
    epochs=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_turns_are_asked_equally_often(num_turns, turns_per_epoch, epochs, seed):
    asked = Counter(range(num_turns))
    for epoch in range(epochs):
        turns = turns_of_epoch(
            "s1", num_turns, turns_per_epoch=turns_per_epoch, seed=seed, epoch=epoch
        )
        assert turns == sorted(set(turns))
        assert len(turns) == min(num_turns, turns_per_epoch)
        asked.update(turns)
    assert max(asked.values()) - min(asked.values()) <= 1


def test_studies_and_seeds_have_orders_of_their_own_and_zero_asks_all():
    def first(study, seed):
        return tuple(turns_of_epoch(study, 8, turns_per_epoch=3, seed=seed, epoch=0))

    assert len({first(f"s{number}", 0) for number in range(20)}) > 5
    assert len({first("s0", seed) for seed in range(20)}) > 5
    assert first("s0", 1) == first("s0", 1)
    assert turns_of_epoch("s0", 4, turns_per_epoch=0, seed=0, epoch=7) == [0, 1, 2, 3]
