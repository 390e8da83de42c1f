"""A GGUF file as `model.language.source`: its stage, its refusals, and the road behind it."""

from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.export.assistant import load_assistant
from llava_ultra.export.manifest import save_artifact
from llava_ultra.language.decoder import load_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.testing import tiny_config, tiny_gguf, tiny_image, tiny_language, tiny_towers
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.outputs.part_keys import stage_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap
from sonoray_jobs.training.worker import set_trainable


def road_from(source: str | Path) -> RoadConfig:
    model = tiny_config().model_dump()
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 4, "language": "en"},
            "model": {**model, "language": {"source": str(source), "context_length": 256}},
        }
    )


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf(path, tiny_language(tiny_config()), kind="Q8_0")
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace.open(tmp_path_factory.mktemp("workspace"))
    ingest.run(workspace=workspace, road=road_from(""), dataset="phantom")
    return workspace


def test_the_road_goes_from_a_gguf_file_to_an_answer(gguf, workspace, tmp_path):
    road, dataset = road_from(gguf), workspace.dataset("phantom")
    studies = list(iter_studies(dataset.path, split="train"))
    parts = tmp_path / "language"
    parts.mkdir()
    summary = bootstrap.make_language(parts, road, dataset.path, studies, lambda *_: None)
    assert summary["source"] == str(gguf)

    torch.manual_seed(0)
    language = load_language(parts)
    model = LlavaUltra(road.model, add_lora(language.model, road.model.lora))
    stage = road.train.stages[-1]
    assert stage.lora
    set_trainable(model, stage)
    shape = (2, road.model.num_tokens)
    features = [
        StudyFeatures(
            clip=np.random.default_rng(at).normal(size=(*shape, 32)).astype(np.float32),
            sam=np.random.default_rng(at).normal(size=(*shape, 32)).astype(np.float32),
        )
        for at in range(len(studies))
    ]
    rows = [
        (at, study.turns[1].question, study.turns[1].answer) for at, study in enumerate(studies)
    ]
    text = collate_texts(language.tokenizer, rows, max_tokens=256)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    losses = []
    for _ in range(30):
        output = model(collate_features(features), text)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.losses["answer_loss"]))
    assert losses[-1] < 0.95 * losses[0]  # random weights: adapters alone move little

    clip, sam = tiny_towers(road.model, language)
    base = load_language(parts)
    save_artifact(
        tmp_path,
        name="m",
        model=model,
        language=base,
        clip=clip,
        sam=sam,
        provenance={},
    )
    assistant = load_assistant(tmp_path, "cpu")
    question = [{"role": "user", "content": studies[0].turns[1].question}]
    prompt = assistant.prepare(assistant.encode([tiny_image(0), tiny_image(1)]), question)
    answer = "".join(assistant.stream(prompt, max_tokens=8))
    assert isinstance(answer, str)
    assert prompt.num_prompt_tokens > road.model.num_tokens


def test_the_key_follows_the_content_and_outlives_the_file(gguf, workspace, tmp_path):
    dataset = workspace.dataset("phantom")

    def key(source: Path) -> str:
        return stage_of("language", road_from(source), dataset).key

    copied = tmp_path / "copied.gguf"
    copied.write_bytes(gguf.read_bytes())
    before = key(copied)
    assert before == key(gguf)
    copied.unlink()
    assert key(copied) == before
    copied.write_bytes(gguf.read_bytes() + b" ")
    assert key(copied) != before


def test_a_package_is_known_by_its_content_too(gguf, workspace, tmp_path, monkeypatch):
    dataset = workspace.dataset("phantom")
    package = tmp_path / "carries_a_decoder"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiny.gguf").write_bytes(gguf.read_bytes())
    road = road_from("package:carries_a_decoder")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        found = stage_of("language", road, dataset).key
        assert found == stage_of("language", road_from(gguf), dataset).key
    assert stage_of("language", road, dataset).key == found  # gone, and remembered


@pytest.mark.parametrize(
    ("name", "share", "message"),
    [
        ("none.gguf", None, "does not exist; check the path"),
        ("half.gguf", 0.5, "is truncated, damaged or of a quantisation"),
    ],
)
def test_what_cannot_be_read_is_refused_before_a_cluster_starts(
    gguf, workspace, tmp_path, monkeypatch, name, share, message
):
    running = ray.is_initialized()  # of other tests in this process
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("a cluster was started"))
    path = tmp_path / name
    if share:
        data = gguf.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=message) as caught:
        bootstrap.run(workspace=workspace, road=road_from(path), dataset="phantom")
    assert "\n" not in str(caught.value)
    assert ray.is_initialized() == running
