"""What is done of an ablation, read from a workspace with a small phantom and no Ray."""

from pathlib import Path

import pytest

from sonoray.cluster.step_board import StepBoard
from sonoray.errors import ConfigError, DataError
from sonoray.ingest.run import ingest as ingest_source
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation.ablation import ablate
from sonoray_jobs.evaluation.ablation.children import (
    Shared,
    make_children,
    shared_by,
    shared_towers,
)
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.parallel import run_child
from sonoray_jobs.evaluation.ablation.variants import Request, build_ablation, with_values
from sonoray_jobs.outputs.part_keys import learned_from
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig.model_validate(
    {
        "phantom": {"num_patients": 6, "image_size": 64, "images": [1, 2]},
        "ingest": {"splits": {"train": 0.6, "validation": 0.0, "test": 0.4}},
    }
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path)


def phantom(road, name="phantom"):
    """What children on generated studies share."""
    return Shared(dataset=name, road=road, is_generated=True)


def request_of(workspace: Workspace, **settings) -> Request:
    return Request(workspace=workspace, dataset="phantom", **settings)


def test_what_is_shared_is_listed_once(workspace):
    def shared(name: str, **settings) -> list[Shared]:
        ablation = build_ablation(name, ROAD, request_of(workspace, **settings))
        return shared_by(make_children(ablation, ROAD, [0, 1, 2]))

    assert [each.dataset for each in shared("balance")] == ["phantom"]
    assert [each.dataset for each in shared("modality")] == ["phantom"]
    found = shared("sampling", redundancies=(1, 3))
    assert [each.dataset for each in found] == ["phantom-redundancy-1", "phantom-redundancy-3"]
    assert len({each.key for each in found}) == 2


def test_other_towers_are_not_shared():
    wider = with_values(ROAD, {"model.clip.width": 64})
    one, other = (phantom(road) for road in (ROAD, wider))
    assert one.key != other.key
    noisier = with_values(ROAD, {"train.feature_noise": 0.5})
    assert phantom(noisier).key == one.key


def test_the_phantom_counts_as_made_only_as_it_is_configured(workspace):
    shared = phantom(ROAD)
    assert shared.status(workspace) == "to do: ingest, bootstrap, embed"
    ingest.run(workspace=workspace, road=ROAD, dataset="phantom")
    assert shared.status(workspace) == "to do: bootstrap, embed"
    assert shared.find_dataset(workspace).path == workspace.dataset("phantom").path
    larger = with_values(ROAD, {"phantom.num_patients": 7})
    assert phantom(larger).find_dataset(workspace) is None


def test_a_redundancy_has_a_dataset_of_its_own_with_one_image_that_shows_the_finding(workspace):
    ingest.run(workspace=workspace, road=ROAD, dataset="phantom")
    before = workspace.dataset("phantom").key
    ablation = build_ablation(
        "sampling", ROAD, Request(workspace=workspace, dataset="phantom", redundancies=(5,))
    )
    (shared,) = shared_by(make_children(ablation, ROAD, [0]))
    lines = shared.prepare(workspace, None)
    assert next(lines) == "dataset phantom-redundancy-5 (made)"  # and no further: no Ray
    assert workspace.dataset("phantom").key == before
    studies = list(iter_studies(workspace.dataset("phantom-redundancy-5").path))
    assert len(studies) == 6
    for study in studies:
        shown = [image.labels["shows_finding"] for image in study.images]
        assert len(shown) == 5
        assert shown.count("1") == int(study.labels["finding"])


def test_a_dataset_that_cannot_be_made_must_be_there(workspace):
    with pytest.raises(DataError, match="no dataset 'busbra'"):
        Shared(dataset="busbra", road=ROAD, is_generated=False).status(workspace)


def test_a_split_without_patients_is_refused_before_the_training(workspace):
    ablation = build_ablation("site-cue", ROAD, request_of(workspace))
    child, _ = make_children(ablation, ROAD, [0], "validation")
    ingest_source(PhantomSource(ROAD.phantom), workspace, ROAD.ingest)
    with pytest.raises(DataError, match="has no validation studies"):
        run_child(child, workspace, "sqlite://", {}, StepBoard(actor=None))


def test_a_plan_names_every_child_and_starts_nothing(workspace):
    choice = Choice(name="balance", dataset="phantom", seeds=(4, 5), variants=("0", "0.8"))
    planned = ablate.plan(workspace=workspace, road=ROAD, choice=choice)
    assert planned.lines() == [
        "shared stages:",
        "  phantom: to do: ingest, bootstrap, embed",
        "4 children:",
        "  0, seed 4: to train",
        "  0.8, seed 4: to train",
        "  0, seed 5: to train",
        "  0.8, seed 5: to train",
    ]
    assert planned.to_json()["children"][0] == {"child": "0, seed 4", "state": "to train"}
    assert not list(workspace.root.iterdir())


def test_all_redundancies_share_the_towers_of_the_plain_phantom(workspace):
    choice = Choice(
        name="sampling",
        dataset="phantom",
        seeds=(0,),
        redundancies=(1, 2),
        variants=("distilled", "first"),
    )
    planned = ablate.plan(workspace=workspace, road=ROAD, choice=choice)
    assert list(planned.shared) == [
        ("phantom", "to do: ingest, bootstrap"),
        ("phantom-redundancy-1", "to do: ingest, bootstrap, embed"),
        ("phantom-redundancy-2", "to do: ingest, bootstrap, embed"),
    ]
    ablation = choice.ablation(workspace, ROAD)
    (towers,) = shared_towers(ablation, ROAD)
    assert next(towers.prepare(workspace, None)) == "dataset phantom (made)"
    assert towers.status(workspace) == "to do: bootstrap"
    learned = workspace.dataset("phantom")
    for shared in shared_by(make_children(ablation, ROAD, [0])):
        next(shared.prepare(workspace, None))
        assert learned_from(workspace, shared.road, shared.dataset).key == learned.key
    assert shared_towers(build_ablation("balance", ROAD, request_of(workspace)), ROAD) == []


def test_redundancies_can_use_towers_that_are_there(workspace):
    """Fewer patients for the comparison do not make the towers' own dataset anew."""
    next(phantom(ROAD).prepare(workspace, None))
    road = with_values(ROAD, {"bootstrap.dataset": "phantom", "phantom.num_patients": 4})
    ablation = build_ablation("sampling", road, request_of(workspace, redundancies=(2,)))
    assert shared_towers(ablation, road) == []
    (shared,) = shared_by(make_children(ablation, road, [0]))
    next(shared.prepare(workspace, None))
    assert len(list(iter_studies(workspace.dataset(shared.dataset).path))) == 4
    learned = learned_from(workspace, shared.road, shared.dataset)
    assert len(list(iter_studies(learned.path))) == 6


def test_towers_that_saw_the_judged_patients_are_refused(workspace):
    """The same patients under another name: their keys differ, their images do not."""
    road = with_values(ROAD, {"phantom.num_patients": 16})
    for name in ("phantom", "phantom-again"):
        next(phantom(road, name).prepare(workspace, None))
    shared = with_values(road, {"bootstrap.dataset": "phantom"})
    with pytest.raises(DataError, match=r"share a patient, an image .* of 'phantom', from which"):
        learned_from(workspace, shared, "phantom-again")
    assert learned_from(workspace, shared, "phantom").key == workspace.dataset("phantom").key


def read_studies(workspace, name):
    """Studies that were read from a table, as their origin says; here the phantom's own."""
    source = PhantomSource(ROAD.phantom, name=name)
    return ingest_source(
        source, workspace, ROAD.ingest, origin={"source": "table", "path": "/archive"}
    )


@pytest.mark.parametrize("name", ["phantom-arm", "phantom"])
def test_studies_that_were_read_stay_whatever_their_dataset_is_called(workspace, name):
    before = read_studies(workspace, name)
    larger = with_values(ROAD, {"phantom.num_patients": 7})
    ablation = build_ablation("balance", larger, Request(workspace=workspace, dataset=name))
    (shared,) = shared_by(make_children(ablation, larger, [0]))
    assert not shared.is_generated
    assert shared.find_dataset(workspace).key == before.key
    assert shared.status(workspace) == "to do: bootstrap, embed"
    with pytest.raises(ConfigError, match="--redundancy is for"):
        build_ablation(
            "sampling", larger, Request(workspace=workspace, dataset=name, redundancies=(2,))
        )


def test_no_study_is_generated_over_those_that_were_read(workspace):
    read_studies(workspace, "phantom-redundancy-2")
    request = Request(workspace=workspace, dataset="phantom", redundancies=(2,))
    ablation = build_ablation("sampling", ROAD, request)
    (shared,) = shared_by(make_children(ablation, ROAD, [0]))
    for use in (shared.status, lambda each: next(shared.prepare(each, None))):
        with pytest.raises(DataError, match="'phantom-redundancy-2' was ingested, and this"):
            use(workspace)


def test_generated_studies_are_synthetic_under_any_name(workspace):
    next(phantom(ROAD, "kidney").prepare(workspace, None))
    assert workspace.is_synthetic("kidney")
    ablation = build_ablation("balance", ROAD, Request(workspace=workspace, dataset="kidney"))
    (shared,) = shared_by(make_children(ablation, ROAD, [0]))
    assert shared.is_generated
