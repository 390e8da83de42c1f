"""What bootstrap does without a cluster: each part's maker, its stage and its report."""

import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_ultra.language.decoder import load_language, save_language
from llava_ultra.testing import tiny_config, tiny_language
from sonoray.digests.code import code_modules
from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.ingest.source_options import SourceOptions
from sonoray.stages import StageOutput
from sonoray.study import image_table
from sonoray.study.contract import Turn, iter_studies
from sonoray.study.image_table import read_images
from sonoray.study.prompt import conversation
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.data.closed_questions import read_protocol
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap, learn_sam
from sonoray_jobs.towers.embed_pipeline import Look, decode_piece
from sonoray_jobs.towers.embed_plan import Piece
from sonoray_jobs.towers.learning_texts import conversations_of, learning_studies

STEPS = {"steps": 1, "batch_size": 2}


def road(**language: str | int) -> RoadConfig:
    model = tiny_config().model_dump()
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 8},
            "model": {**model, "language": {**model["language"], **language}},
            "bootstrap": dict.fromkeys(bootstrap.PARTS, STEPS),
        }
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> StageOutput:
    workspace = Workspace.open(tmp_path_factory.mktemp("workspace"))
    ingest.run(workspace=workspace, road=road(), dataset="phantom")
    return workspace.dataset("phantom")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_language(tiny_language(tiny_config(), seed=5), folder)
    return folder


def make(part: str, config: RoadConfig, dataset: StageOutput, folder: Path) -> dict:
    studies = list(iter_studies(dataset.path, split="train"))
    maker = getattr(bootstrap, f"make_{part}")
    return maker(folder, config, dataset.path, studies, lambda *_: None)


def test_a_language_model_of_others_is_copied_untrained(dataset, source, tmp_path):
    summary = make("language", road(source=str(source)), dataset, tmp_path)
    assert summary["source"] == str(source)
    assert load_language(tmp_path).digest == load_language(source).digest
    output = StageOutput(path=tmp_path, manifest={"summary": summary}, reused=False)
    (line,) = bootstrap.Bootstrapped(outputs={"language": output}).lines()
    assert line == f"language: taken from {str(source)!r} (copied), {tmp_path}"


@pytest.mark.parametrize("own", [True, False])
def test_a_report_that_does_not_fit_is_refused_with_its_study(own, dataset, source, tmp_path):
    first, *others = iter_studies(dataset.path, split="train")
    turn = Turn(question="请描述超声所见。", answer="左侧甲状腺" * 100)
    studies = [*others, replace(first, turns=(*first.turns, turn))]
    config = road(source="" if own else str(source))
    with pytest.raises(DataError, match=rf"images: 1; .* '{first.study_id}', has 5\d\d;"):
        bootstrap.make_language(tmp_path, config, dataset.path, studies, lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_clip_reads_with_the_tokenizer_of_the_source(dataset, source, monkeypatch, tmp_path):
    from llava_ultra.pretrain import contrastive as clip

    read_with = []

    def remember(images, captions, tokenizer, *arguments, **named):
        read_with.append(tokenizer)
        return pretrain_clip(images, captions, tokenizer, *arguments, **named)

    pretrain_clip = clip.pretrain_clip
    monkeypatch.setattr(clip, "pretrain_clip", remember)
    make("clip", road(source=str(source)), dataset, tmp_path)
    assert read_with[0].get_vocab() == load_language(source).tokenizer.get_vocab()


def test_a_context_without_positions_is_refused(dataset, source, tmp_path):
    config = road(source=str(source), context_length=257)  # the tiny language model has 256
    with pytest.raises(ValueError, match="257 is more than the 256 positions"):
        make("language", config, dataset, tmp_path)


def test_towers_of_others_are_copied_and_only_standardised(dataset, tmp_path):
    import open_clip
    import torch
    from safetensors.torch import save_file

    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.sam import SamTower

    published = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    save_file(published.state_dict(), tmp_path / "clip.safetensors")
    own = SamTower(tiny_config().sam, target_grid=2).encoder.state_dict()
    torch.save({f"image_encoder.{name}": t for name, t in own.items()}, tmp_path / "sam.pth")
    values = road().model_dump()
    values["model"]["clip"] = {
        "source": "ViT-S-32-alt",
        "weights": str(tmp_path / "clip.safetensors"),
        "image_size": 64,
    }
    values["model"]["sam"]["weights"] = str(tmp_path / "sam.pth")
    config = RoadConfig.model_validate(values)
    for part, kind in (("clip", ClipTower), ("sam", SamTower)):
        folder = tmp_path / part
        folder.mkdir()
        summary = make(part, config, dataset, folder)
        tower = kind.load(folder)
        assert summary["fingerprint"] == tower.fingerprint
        assert 0 < summary["num_examples"] <= 64
        assert not torch.equal(tower.standardise.mean, torch.zeros(tower.num_channels))
        output = StageOutput(path=folder, manifest={"summary": summary}, reused=False)
        (line,) = bootstrap.Bootstrapped(outputs={part: output}).lines()
        assert "taken from" in line
        key = bootstrap.stage_of(part, config, dataset).key
        assert key != bootstrap.stage_of(part, road(), dataset).key
    visual = ClipTower.load(tmp_path / "clip").clip.visual.state_dict()
    kept = published.visual.state_dict()
    assert torch.equal(visual["conv1.weight"], kept["conv1.weight"])
    assert SamTower.load(tmp_path / "sam").encoder.state_dict().keys() == own.keys()


def test_only_a_language_model_of_ours_learns_reports_behind_the_closed_questions(dataset):
    first = with_values(road(), {"train.closed_first": True})
    for part in bootstrap.PARTS:
        same = bootstrap.stage_of(part, first, dataset).key == (
            bootstrap.stage_of(part, road(), dataset).key
        )
        assert same == (part != "language")
    adopted = with_values(road(source="a"), {"train.closed_first": True})
    key = bootstrap.stage_of("language", adopted, dataset).key
    assert key == bootstrap.stage_of("language", road(source="a"), dataset).key
    studies = learning_studies(dataset.path)
    asked = read_protocol(studies)
    assert asked.questions
    for study, alone, behind in zip(
        studies, conversations_of(studies), conversations_of(studies, asked), strict=True
    ):
        for number, turn in enumerate(study.turns):
            assert alone[number] == ((turn.question,), turn.answer)
            told = conversation(study.turns, number, asked)
            assert behind[number] == (told, turn.answer)
            assert (len(told) > 1) == (turn.topic == "report")


def test_another_source_is_another_language_and_another_clip(dataset):
    for part, changes in (("language", True), ("clip", True), ("sam", False)):
        keys = {bootstrap.stage_of(part, road(source=s), dataset).key for s in ("", "a", "b")}
        assert len(keys) == (3 if changes else 1)


def with_tower(part: str, **values: object) -> RoadConfig:
    config = road().model_dump()
    config["model"][part] |= values
    return RoadConfig.model_validate(config)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("clip", {"feature_layer": -1}),
        ("clip", {"feature_layers": (0, 1)}),
        ("clip", {"class_token": True}),
        ("sam", {"feature_layers": (0,)}),
    ],
)
def test_another_readout_of_a_tower_trains_nothing_anew(
    part, changes, dataset, monkeypatch, tmp_path
):
    from llava_ultra.pretrain import contrastive as clip
    from llava_ultra.pretrain import masks as sam
    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.sam import SamTower

    trained = []
    module = {"clip": clip, "sam": sam}[part]
    pretrain = getattr(module, f"pretrain_{part}")
    remember = lambda *given, **named: trained.append(part) or pretrain(*given, **named)  # noqa: E731
    monkeypatch.setattr(module, f"pretrain_{part}", remember)
    kind = {"clip": ClipTower, "sam": SamTower}[part]

    def make(config):
        stages = (
            bootstrap.learning_of(part, config, dataset),
            bootstrap.stage_of(part, config, dataset),
        )
        output = bootstrap.make_part(part, config, dataset, stages, tmp_path, lambda *_: None)
        tower = kind.load(output.path)
        assert output.manifest["summary"]["fingerprint"] == tower.fingerprint
        assert output.manifest["summary"]["num_steps"] == 1
        assert tower.config == getattr(config.model, part)
        assert (tower.standardise.mean != 0).any()
        return tower

    first, second = make(road()), make(with_tower(part, **changes))
    assert trained == [part]
    assert first.fingerprint != second.fingerprint
    encoders = [
        getattr(tower, "clip" if part == "clip" else "encoder") for tower in (first, second)
    ]
    weights = [encoder.state_dict() for encoder in encoders]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    other = with_tower(part, width=64)
    keys = [bootstrap.learning_of(part, each, dataset).key for each in (road(), other)]
    assert keys[0] != keys[1]


def test_another_grid_of_clip_reads_sam_anew_and_trains_it_not(dataset):
    keys = [
        [make(part, config, dataset).key for part in ("clip", "sam")]
        for make in (bootstrap.learning_of, bootstrap.stage_of)
        for config in (road(), with_tower("clip", image_size=64))
    ]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
    assert keys[2][1] != keys[3][1]


def test_weights_of_others_are_known_by_their_content(dataset, source, tmp_path):
    def keys(weights: Path, language: Path) -> list[str]:
        values = road(source=str(language)).model_dump()
        values["model"]["sam"]["weights"] = str(weights)
        config = RoadConfig.model_validate(values)
        return [bootstrap.stage_of(part, config, dataset).key for part in bootstrap.PARTS]

    here, there = tmp_path / "sam.pt", tmp_path / "moved.pt"
    here.write_bytes(b"weights")
    shutil.copy(here, there)
    moved = shutil.copytree(source, tmp_path / "moved")
    before = keys(here, source)
    assert keys(there, moved) == before
    here.write_bytes(b"other weights")
    (moved / "tokenizer.json").write_text("{}")
    assert all(a != b for a, b in zip(keys(here, moved), before, strict=True))


def test_every_module_that_decides_a_part_is_in_its_key(dataset):
    for part in bootstrap.PARTS:
        code = set(code_modules(*bootstrap.learning_of(part, road(), dataset).code))
        assert {"llava_ultra.parameters.schedule", "llava_ultra.pretrain.loop"} < code
        assert ("sonoray.images.decode" in code) == (part != "language")
        assert ("llava_ultra.pretrain.masks" in code) == (part == "sam")
    for part in ("clip", "sam"):
        code = set(code_modules(*bootstrap.stage_of(part, road(), dataset).code))
        assert {"llava_ultra.towers.tower", f"llava_ultra.towers.{part}"} < code


def test_images_beyond_the_default_limits_are_read_back(tmp_path):
    large = np.zeros((5001, 5000), np.uint8)
    png = encode_png(large)
    table = pa.table({"image_id": ["a"], "png": [png], "mask_png": [png]})
    (tmp_path / "images").mkdir()
    pq.write_table(table, tmp_path / "images" / "part-00000.parquet")
    image, mask = read_images(tmp_path, ["a"])["a"]
    assert np.array_equal(image, large)
    assert np.array_equal(mask, large)
    piece = Piece(file="images/part-00000.parquet", start=0, stop=1, lacking={"clip": 1})
    row = decode_piece(
        {"piece": piece}, folder=tmp_path, looks={"clip": Look(image_size=32)}, batch_size=1
    )
    assert row["canvases.clip"].shape == (1, 32, 32, 3)


@pytest.mark.parametrize("part", ["sam", "clip"])
def test_no_more_images_are_read_than_are_used(part, dataset, monkeypatch, tmp_path):
    decoded = []
    decode = image_table.decode_stored
    monkeypatch.setattr(
        image_table, "decode_stored", lambda png: decoded.append(png) or decode(png)
    )
    config = road().model_dump()
    config["bootstrap"][part]["max_examples"] = 3
    summary = make(part, RoadConfig.model_validate(config), dataset, tmp_path)
    assert summary["num_examples"] == 3
    pngs = pq.read_table(dataset.path / "images", columns=["png"])["png"].to_pylist()
    assert sum(png in pngs for png in decoded) == 3


def test_images_without_a_mask_do_not_count_for_sam_and_blank_ones_are_known(tmp_path):
    (tmp_path / "images").mkdir()
    blank = np.zeros((32, 32), np.uint8)
    masks = [None, encode_png(np.eye(32, dtype=np.uint8)), encode_png(blank)]
    table = {"image_id": ["a", "b", "c"], "mask_png": masks}
    pq.write_table(pa.table(table), tmp_path / "images" / "part-00000.parquet")
    found = learn_sam._lesions(tmp_path, ["c", "a", "b", "c"])
    assert list(found.items()) == [("c", False), ("b", True)]


def test_sam_trains_on_fewer_blank_images_where_asked(dataset, tmp_path):
    config = road().model_dump()
    config["bootstrap"]["sam"] |= {"blank_share": 0, "mask_levels": [128, 77], "word_weight": 1}
    everyone = make("sam", road(), dataset, tmp_path / "all")["num_examples"]
    summary = make("sam", RoadConfig.model_validate(config), dataset, tmp_path / "few")
    studies = iter_studies(dataset.path, split="train")
    shown = [image.labels["shows_finding"] for study in studies for image in study.images]
    assert everyone == len(shown)
    assert summary["missing_levels"] == [77]  # and 128 came through ingest
    output = StageOutput(path=tmp_path, manifest={"summary": summary}, reused=False)
    lines = bootstrap.Bootstrapped(outputs={"sam": output}).lines()
    assert lines[1] == "sam: no mask holds [77] of bootstrap.sam.mask_levels"
    assert summary["num_examples"] == shown.count("1") < len(shown)


def test_a_dataset_that_cannot_teach_is_told_what_it_lacks_and_the_way_out(dataset, tmp_path):
    workspace = Workspace.open(tmp_path / "workspace")
    rows = "".join(f"s{n},p{n},甲状腺未见异常。\n" for n in range(12))
    (tmp_path / "t.csv").write_text(f"study,patient,report\n{rows}", encoding="utf-8")
    options = SourceOptions(path=tmp_path / "t.csv")
    ingest.run(workspace=workspace, road=road(), dataset="table", options=options)
    output = workspace.dataset("table")
    told = bootstrap._why_no_studies(output)
    assert re.search(r"no training study .*\((\d+) in all: \1 without images\); ingest it", told)
    (tmp_path / "images").mkdir()
    table = pa.table({"image_id": ["a"], "mask_png": pa.nulls(1, pa.binary())})
    pq.write_table(table, tmp_path / "images" / "part-00000.parquet")
    pictures = list(iter_studies(dataset.path, split="train"))
    with pytest.raises(DataError, match=r"no lesion masks .*--set bootstrap\.dataset=phantom"):
        bootstrap.make_sam(tmp_path, road(), tmp_path, pictures, lambda *_: None)
    alone = with_values(road(), {"model.fusion": {"type": "clip_only"}})
    with pytest.raises(DataError, match=r"\(model\.fusion\.type=clip_only does not read SAM, but"):
        bootstrap.make_sam(tmp_path, alone, tmp_path, pictures, lambda *_: None)


def test_weights_that_would_run_code_are_refused_before_a_cluster_starts(tmp_path, dataset):
    class Harmful:
        def __reduce__(self):
            return (print, ("code ran",))

    path = tmp_path / "sam.pth"
    path.write_bytes(pickle.dumps({"a": Harmful()}, protocol=2))
    workspace = Workspace(dataset.path.parent.parent)
    config = with_tower("sam", weights=str(path))
    with pytest.raises(ValueError, match=r"sam\.pth' are no plain tensors: reading them would run"):
        bootstrap.run(workspace=workspace, road=config, dataset="phantom", address="no.such.host:1")
