import json
from pathlib import Path

import pytest

from llava_ultra.config import (
    AdaptiveSampling,
    BlendFusion,
    ConcatFusion,
    FirstSampling,
    KeepAllSampling,
    RandomSampling,
)
from sonoray.errors import ConfigError, DataError
from sonoray.stages import Stage, run_stage
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.children import make_children, shared_by
from sonoray_jobs.evaluation.ablation.variants import (
    ABLATIONS,
    BALANCES,
    REDUNDANCIES,
    Request,
    build_ablation,
    fusion_types,
    with_values,
)
from sonoray_jobs.road.config import RoadConfig, load_road, packaged_roads

ROAD = RoadConfig()
MIX = {
    "model.towers": [
        {"name": "fine", "sam": {"weights": "fine.pth"}},
        {"name": "other", "sam": {"weights": "other.pth", "image_size": 96}},
    ]
}


@pytest.fixture
def request_for(tmp_path: Path):
    def make(dataset: str = "phantom", **settings) -> Request:
        return Request(workspace=Workspace.open(tmp_path), dataset=dataset, **settings)

    return make


def roads(name: str, request: Request, road: RoadConfig = ROAD) -> dict[str, RoadConfig]:
    """The road of each variant, in the first setting."""
    ablation = build_ablation(name, road, request)
    children = make_children(ablation, road, [7])
    return {
        child.variant: child.road
        for child in children
        if child.setting == ablation.settings[0].name
    }


def changed(road: RoadConfig, base: RoadConfig = ROAD) -> set[str]:
    """Sections of two levels in which a road differs."""
    one, other = road.model_dump(mode="json"), base.model_dump(mode="json")
    return {
        f"{section}.{key}"
        for section, table in one.items()
        if isinstance(table, dict)
        for key in table
        if table[key] != other[section][key]
    }


@pytest.mark.parametrize("packaged", packaged_roads())
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_of_every_packaged_road_is_a_valid_road_of_its_own(
    name, packaged, request_for
):
    """On the phantom: `modality` asks other data sets for the values of their labels."""
    road = load_road(packaged)
    if name == "towers":
        road = with_values(road, MIX)
    ablation = build_ablation(name, road, request_for())
    assert ablation.reference in [variant.name for variant in ablation.variants]
    children = make_children(ablation, road, [0, 1])
    assert len(children) == 2 * len(ablation.variants) * len(ablation.settings)
    configs = [json.dumps([c.dataset, c.road.model_dump(mode="json")]) for c in children]
    assert len(set(configs)) == len(children)
    assert len({child.label for child in children}) == len(children)
    for child in children:
        assert child.road.train.seed == child.seed
        assert set(child.tests) == {test.name for test in ablation.tests}


def test_objectives_adds_mlip_to_the_pretraining_and_laver_to_the_training(request_for):
    found = roads("objectives", request_for())
    added = {"mlip": "bootstrap.clip", "laver": "model.objectives"}
    for name, own in {"none": (), "mlip": ("mlip",), "laver": ("laver",), "both": added}.items():
        assert changed(found[name]) == {"train.seed", *(added[each] for each in own)}
        clip, model = found[name].bootstrap.clip.objectives, found[name].model.objectives
        assert [each.type for each in clip] == ["image_text", *(["mlip"] if "mlip" in own else [])]
        assert [each.type for each in model][3:] == (["laver"] if "laver" in own else [])
    assert found["both"].bootstrap.clip.objectives[1].bank == "phantom-zh"
    adopted = load_road("qwen_small")
    assert adopted.model.clip.weights
    assert list(roads("objectives", request_for(), adopted)) == ["none", "laver"]


def test_visual_changes_the_fusion_alone(request_for):
    found = roads("visual", request_for())
    assert list(found) == list(fusion_types())
    assert {"clip_only", "sam_only", "blend", "concat"} <= set(found)
    for name, road in found.items():
        assert road.model.fusion.type == name
        needs = {"model.clip"} if name == "layer_merge" else set()
        assert (
            changed(road)
            == {"train.seed", "model.fusion"} - ({"model.fusion"} if name == "blend" else set())
            | needs
        )


def test_visual_keeps_the_settings_of_the_roads_own_fusion(request_for):
    road = with_values(ROAD, {"model.fusion": {"type": "blend", "alpha": "channel"}})
    found = roads("visual", request_for(), road)
    assert found["blend"].model.fusion == BlendFusion(alpha="channel")
    assert found["concat"].model.fusion == ConcatFusion()


def test_sampling_changes_what_its_names_say(request_for):
    road = with_values(
        ROAD,
        {
            "model.sampling": {
                "type": "adaptive",
                "num_selected": 2,
                "training_rule": "weighted",
            },
            "model.objectives": [
                {"type": "answer"},
                {"type": "distillation", "temperature": 3.0},
                {"type": "grounding", "weight": 0.7},
            ],
        },
    )
    models = {
        name: each.model
        for name, each in roads("sampling", request_for(dataset="busbra"), road).items()
    }
    found = {name: model.sampling for name, model in models.items()}
    base = AdaptiveSampling(num_selected=2, training_rule="weighted")
    assert found == {
        "distilled": base,
        "feature": base.model_copy(update={"balance": 0.0}),
        "attention": base.model_copy(update={"balance": 1.0, "inference_score": "attention"}),
        "keep_all": KeepAllSampling(),
        "first": FirstSampling(num_selected=2),
        "random": RandomSampling(num_selected=2),
    }
    answer, distillation, grounding = road.model.objectives
    for name, model in models.items():
        alone = name in ("feature", "attention")
        expected = (answer, grounding) if alone else (answer, distillation, grounding)
        assert model.objectives == expected, name


def test_sampling_makes_one_phantom_per_redundancy(request_for):
    ablation = build_ablation("sampling", ROAD, request_for())
    assert [setting.dataset for setting in ablation.settings] == [
        f"phantom-redundancy-{number}" for number in REDUNDANCIES
    ]
    few = build_ablation("sampling", ROAD, request_for(redundancies=(2, 4)))
    for child in make_children(few, ROAD, [0]):
        number = int(child.setting.removeprefix("redundancy "))
        assert child.road.phantom.images == (number, number)
        assert child.road.phantom.max_showing == 1
    (elsewhere,) = build_ablation("sampling", ROAD, request_for(dataset="busbra")).settings
    assert (elsewhere.dataset, elsewhere.values) == ("busbra", {})


def test_balance_changes_the_balance_alone(request_for):
    found = roads("balance", request_for())
    assert [road.model.sampling.balance for road in found.values()] == list(BALANCES)
    for road in found.values():
        own = with_values(road, {"model.sampling": ROAD.model.sampling.model_dump(mode="json")})
        assert changed(own) == {"train.seed"}


def test_site_cue_is_a_setting_of_the_training(request_for):
    found = roads("site-cue", request_for())
    assert {name: road.train.site_cue for name, road in found.items()} == {
        "without": False,
        "with": True,
    }
    assert changed(found["with"]) == {"train.seed", "train.site_cue"}


def test_modality_trains_on_one_organ_and_asks_about_each(request_for):
    ablation = build_ablation("modality", ROAD, request_for())
    organs = [organ.value for organ in ROAD.phantom.organs]
    for child in make_children(ablation, ROAD, [0]):
        wanted = {} if child.variant == "all" else {"organ": child.variant}
        assert child.road.train.only == wanted
        assert child.road.evaluate.only == {}
        assert {name: road.evaluate.only for name, road in child.tests.items()} == {
            organ: {"organ": organ} for organ in organs
        }
        assert all(road.train == child.road.train for road in child.tests.values())


def test_modality_says_which_dataset_it_lacks(request_for):
    with pytest.raises(DataError, match="no dataset 'busbra'"):
        build_ablation("modality", ROAD, request_for(dataset="busbra"))
    with pytest.raises(DataError, match=r"label 'side' .* run: sonoray ingest phantom"):
        build_ablation("modality", ROAD, request_for(label="side"))


def test_what_does_not_fit_is_one_line(request_for):
    with pytest.raises(ConfigError, match="ablation 'x' is unknown; use one of visual, sampling"):
        build_ablation("x", ROAD, request_for())
    with pytest.raises(ConfigError, match="--redundancy is for the sampling ablation"):
        build_ablation("visual", ROAD, request_for(redundancies=(3,)))
    visual = build_ablation("visual", ROAD, request_for())
    for names in (["blend"], ["blend", "x"], ["blend", "blend"]):
        with pytest.raises(ConfigError, match="must name two or more of: clip_only, sam_only"):
            visual.chosen(names)


def test_modality_names_the_labels_that_tell_studies_apart(tmp_path):
    workspace = Workspace.open(tmp_path)
    studies = [
        Study(
            study_id=f"s{number}",
            patient_key=f"p{number}",
            split="train",
            dataset="clinic",
            images=(StudyImage(image_id="i", uri="x", width=8, height=8),),
            turns=(Turn(question="?", answer="a", task=Task.OPEN),),
            labels={"organ": ("liver", "kidney")[number], "device": "one"},
        )
        for number in range(2)
    ]

    def make(folder: Path):
        write_studies(folder, studies)
        return {}

    output = run_stage(Stage(name="ingest-clinic", config={}), workspace.stages, make)
    workspace.point_dataset("clinic", output)
    ablation = build_ablation("modality", ROAD, Request(workspace=workspace, dataset="clinic"))
    assert [variant.name for variant in ablation.variants] == ["all", "kidney", "liver"]
    for label, number in (("spleen", 0), ("device", 1)):
        request = Request(workspace=workspace, dataset="clinic", label=label)
        with pytest.raises(ConfigError, match=rf"'{label}' has {number} .* two or more: organ$"):
            build_ablation("modality", ROAD, request)


def test_some_variants_keep_their_reference_or_take_the_first(request_for):
    visual = build_ablation("visual", ROAD, request_for())
    assert visual.chosen([]) is visual
    some = visual.chosen(["concat", "blend"])
    assert [variant.name for variant in some.variants] == ["blend", "concat"]
    assert some.reference == "blend"
    assert visual.chosen(["sam_only", "clip_only"]).reference == "sam_only"


def test_towers_are_added_one_by_one_and_none_is_embedded_anew(request_for):
    with pytest.raises(ConfigError, match=r"model\.towers is empty; name there the towers"):
        build_ablation("towers", ROAD, request_for())
    road = with_values(ROAD, MIX)
    found = roads("towers", request_for(), road)
    assert {name: each.model.read_towers for name, each in found.items()} == {
        "clip+sam": ("clip", "sam"),
        "clip+sam+fine": ("clip", "sam", "fine"),
        "clip+sam+fine+other": ("clip", "sam", "fine", "other"),
        "append": ("clip", "sam", "fine", "other"),
    }
    assert {each.model.fusion.type for each in found.values()} == {"concat", "append"}
    children = make_children(build_ablation("towers", road, request_for()), road, [7])
    assert len(shared_by(children)) == 1
    other = with_values(ROAD, {"model.towers": MIX["model.towers"][:1]})
    assert (
        shared_by(make_children(build_ablation("towers", other, request_for()), other, [7]))[0].key
        != shared_by(children)[0].key
    )
