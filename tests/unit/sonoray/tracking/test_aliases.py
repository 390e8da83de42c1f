"""An alias moves, is remembered and goes back, also where somebody moved it by hand."""

import pytest

from sonoray.errors import TrackingError
from sonoray.tracking.aliases import aliased_version, move_alias, take_back
from sonoray.tracking.registry import DIGEST_TAG, find_version


@pytest.fixture
def versions(store, new_run, request):
    """Three versions of a name of their own."""
    name = f"m{abs(hash(request.node.name))}"
    run_id = new_run(name)
    store.client.create_registered_model(name)
    for number in range(1, 4):
        store.client.create_model_version(
            name, f"file:///nowhere/{number}", run_id=run_id, tags={DIGEST_TAG: f"{number}" * 64}
        )
    return {number: find_version(store, f"models:/{name}/{number}") for number in range(1, 4)}


def test_an_alias_goes_back_the_way_it_came(store, versions):
    name = versions[1].name
    assert aliased_version(store, name, "champion") is None
    for number in (1, 3, 2, 3):
        move_alias(store, versions[number], "champion")
        assert aliased_version(store, name, "champion") == versions[number]
    move_alias(store, versions[3], "champion")  # again: no step of its own
    for left, now in ((3, 2), (2, 3), (3, 1)):
        before, after = take_back(store, name, "champion")
        assert (before.version, after.version) == (left, now)
    with pytest.raises(TrackingError, match="named no version before 1"):
        take_back(store, name, "champion")
    assert aliased_version(store, name, "champion") == versions[1]


def test_two_aliases_have_two_histories(store, versions):
    move_alias(store, versions[1], "champion")
    move_alias(store, versions[2], "champion")
    move_alias(store, versions[3], "canary")
    take_back(store, versions[1].name, "champion")
    assert aliased_version(store, versions[1].name, "champion") == versions[1]
    assert aliased_version(store, versions[1].name, "canary") == versions[3]


def test_a_move_by_hand_is_a_step_too(store, versions):
    name = versions[1].name
    move_alias(store, versions[1], "champion")
    store.client.set_registered_model_alias(name, "champion", "2")
    move_alias(store, versions[3], "champion")
    assert [take_back(store, name, "champion")[1].version for _ in range(2)] == [2, 1]
    store.client.set_registered_model_alias(name, "champion", "3")
    assert take_back(store, name, "champion")[1] == versions[1]


def test_what_cannot_be_taken_back_is_told(store, versions):
    name = versions[1].name
    with pytest.raises(TrackingError, match="no alias 'champion'"):
        take_back(store, name, "champion")
    with pytest.raises(TrackingError, match="no alias 'champion'"):
        take_back(store, "unheard-of", "champion")
    move_alias(store, versions[1], "champion")
    move_alias(store, versions[2], "champion")
    store.client.delete_model_version(name, "1")
    with pytest.raises(TrackingError, match="versions 2, 3"):
        take_back(store, name, "champion")
    assert aliased_version(store, name, "champion") == versions[2]


@pytest.mark.parametrize("alias", ["v1", "latest", "a b", "", "x@y"])
def test_an_alias_that_mlflow_would_misread_is_refused(store, versions, alias):
    with pytest.raises(TrackingError, match="must consist of"):
        move_alias(store, versions[1], alias)
