import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from sonoray.features.id_index import IdIndex

NAMES = st.lists(st.lists(st.sampled_from([f"i{n}" for n in range(12)]), max_size=5), max_size=5)


@given(batches=NAMES, more=NAMES)
def test_an_id_is_found_where_it_was_first_added(batches, more):
    index = IdIndex()
    expected: dict[str, tuple[str, int]] = {}
    number = 0
    for group in (batches, more):
        named = [(f"batch-{number + place}", ids) for place, ids in enumerate(group)]
        number += len(named)
        index.add(named)
        for name, ids in named:
            for row, image_id in enumerate(ids):
                expected.setdefault(image_id, (name, row))
        asked = [f"i{n}" for n in range(14)]
        assert index.find(asked) == [expected.get(image_id) for image_id in asked]
    assert len(index) == len(expected)
    assert index.find([]) == []


def test_an_id_takes_24_bytes():
    count = 20_000
    index = IdIndex()
    tracemalloc.start()
    try:
        ids = (f"{number:064x}" for number in range(count))
        index.add((f"batch-{start}", [next(ids) for _ in range(1000)]) for start in range(20))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 26 * count
    assert index.find([f"{count - 1:064x}", "other"]) == [("batch-19", 999), None]
