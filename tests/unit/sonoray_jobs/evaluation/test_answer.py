"""The evaluation's actor on a tiny model, without Ray: what a batch holds decides no answer."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.config import AdaptiveSampling, ModelConfig, RandomSampling
from llava_ultra.language.decoder import save_language
from llava_ultra.parameters.products import cpu_has_bfloat16
from llava_ultra.testing import tiny_config, tiny_language, tiny_model
from sonoray.errors import CheckpointError
from sonoray.features.store import FeatureStore
from sonoray.study.contract import SPLITS, Study, StudyImage, Task, Turn
from sonoray.study.prompt import FOLLOW_UP, ProtocolQuestion, ReportProtocol, with_protocol
from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
from sonoray_jobs.outputs.find import TrainedParts
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.feature_source import FeatureSource
from sonoray_jobs.training.restore import load_trained
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.saving.saver import checkpoint_files

SAMPLINGS = (
    AdaptiveSampling(num_selected=2, inference_score="balanced"),
    RandomSampling(num_selected=2),
)
COUNTS = (1, 7, 2, 32, 3)
"""Images of each study."""
CLOSED = Turn(
    question="病灶是良性还是恶性?",
    answer="恶性",
    task=Task.CLOSED,
    options=("良性", "恶性"),
    topic="pathology",
)
ORGAN = Turn(question="器官?", answer="肝脏", task=Task.CLOSED, options=("肝脏", "甲状腺", "乳腺"))
REPORT = Turn(question="请描述超声所见。", answer="左侧甲状腺见一低回声结节", task=Task.REPORT)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
labels = st.dictionaries(words, words, max_size=3)
studies = st.builds(
    Study,
    study_id=words,
    patient_key=words,
    split=st.sampled_from(SPLITS),
    dataset=words,
    images=st.lists(
        st.builds(
            StudyImage,
            image_id=words,
            uri=words,
            width=st.integers(1, 5000),
            height=st.integers(1, 5000),
            frame_index=st.integers(0, 100),
            source_ref=words,
            labels=labels,
        ),
        min_size=1,
        max_size=32,
    ).map(tuple),
    turns=st.lists(
        st.builds(
            Turn,
            question=words,
            answer=words,
            task=st.sampled_from(Task),
            options=st.lists(words, max_size=4).map(tuple),
            topic=words,
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    labels=labels,
    provenance=words,
)


@settings(max_examples=30)
@given(st.lists(studies, max_size=4))
def test_packing_loses_nothing(group):
    rows = pack_studies(group)
    assert [Study.from_row(json.loads(row["study"])) for row in rows] == group


def study_of(number: int, count: int) -> Study:
    images = tuple(
        StudyImage(
            image_id=f"{number}-{place}",
            uri="",
            width=8,
            height=8,
            labels={"shows_finding": str(int(place == count - 1))} if number else {},
        )
        for place in range(count)
    )
    turns = (CLOSED, ORGAN, REPORT)[: 1 + number % 3]
    return Study(
        study_id=f"s{number}",
        patient_key=f"p{number}",
        split="test",
        dataset="d",
        images=images,
        turns=turns,
    )


STUDIES = [study_of(number, count) for number, count in enumerate(COUNTS)]


@pytest.fixture(scope="module", params=SAMPLINGS, ids=lambda sampling: sampling.type)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return tiny_config(request.param)


@pytest.fixture(scope="module")
def folder(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(config.sampling.type)


@pytest.fixture(scope="module")
def parts(config: ModelConfig, folder: Path) -> TrainedParts:
    """A checkpoint with every trained tensor at random, over a random language model."""
    language = tiny_language(config)
    save_language(language, folder / "language")
    fingerprints = {"clip": "c" * 16, "sam": "s" * 16}
    digests = {"language": language.digest, **fingerprints}
    model = tiny_model(config, language)
    weights = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    position = Position(stage=1, epochs=1, steps=1, digests=digests)
    name = CheckpointStore(str(folder)).write(position, checkpoint_files(weights, {}))
    road = RoadConfig.model_validate({"model": config.model_dump(), "evaluate": {"max_tokens": 12}})
    return TrainedParts(
        road=road,
        checkpoint=folder / name,
        language=folder / "language",
        fingerprints=fingerprints,
    )


def actor_of(parts: TrainedParts, features: FeatureSource) -> AnswerActor:
    return AnswerActor(partial(load_trained, parts), parts.road.evaluate, features, "cpu")


@pytest.fixture(scope="module")
def actor(folder: Path, parts: TrainedParts) -> AnswerActor:
    stores = {}
    for seed, (tower, channels) in enumerate((("clip", 32), ("sam", 32))):
        store = FeatureStore(folder, tower, num_tokens=4, num_channels=channels)
        ids = [image.image_id for study in STUDIES for image in study.images]
        values = np.random.default_rng(seed).standard_normal((len(ids), *store.shape))
        store.write(ids, values)
        stores[tower] = store
    return actor_of(parts, FeatureSource(dataset=folder, stores=stores))


def answers(actor: AnswerActor, group: list[Study]) -> list[dict]:
    columns = actor({"study": [row["study"] for row in pack_studies(group)]})
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_every_question_is_answered_the_same_alone_in_company_and_in_any_order(actor):
    together = answers(actor, STUDIES)
    asked = [(study.study_id, turn.question) for study in STUDIES for turn in study.turns]
    assert [(row["study_id"], row["question"]) for row in together] == asked
    alone = [row for study in STUDIES for row in answers(actor, [study])]
    backwards = sorted(answers(actor, STUDIES[::-1]), key=lambda row: row["study_id"])
    for other in (alone, backwards):
        for row, expected in zip(other, together, strict=True):
            scores, wanted = json.loads(row["option_scores"]), json.loads(expected["option_scores"])
            assert scores == pytest.approx(wanted, abs=1e-4)
            assert row["image_scores"] == pytest.approx(expected["image_scores"], abs=1e-5)
            numbers = ("option_scores", "image_scores")
            assert {key: row[key] for key in row if key not in numbers} == {
                key: expected[key] for key in expected if key not in numbers
            }


@pytest.mark.parametrize("limit", [1, 120])
def test_no_more_tokens_are_held_than_configured_and_the_same_is_said(
    parts, actor, limit, monkeypatch
):
    wanted = answers(actor, STUDIES)
    evaluate = parts.road.evaluate.model_copy(update={"batch_tokens": limit})
    road = parts.road.model_copy(update={"evaluate": evaluate})
    small = actor_of(replace(parts, road=road), actor._features.source)
    held = []

    def watch(module, args, kwargs, output):
        cache = kwargs["past_key_values"]
        held.append((len(kwargs["attention_mask"]), cache.get_seq_length()))

    small._model.language_model.register_forward_hook(watch, with_kwargs=True)
    if isinstance(small._model.config.sampling, AdaptiveSampling):
        score, told = small._model.sampler.attention_scores, []
        questions = sum(len(study.turns) for study in STUDIES)

        def watch_scores(tokens, image_mask, study_index, text, mask):
            if sum(rows for rows, _ in told) < questions:  # reading picks by it once more
                told.append((len(text), tokens[0, :, :, 0].numel() + text.shape[1]))
            return score(tokens, image_mask, study_index, text, mask)

        monkeypatch.setattr(small._model.sampler, "attention_scores", watch_scores)
    found = answers(small, STUDIES)
    if isinstance(small._model.config.sampling, AdaptiveSampling):
        assert len(told) > 1
        assert all(rows == 1 or rows * length <= limit for rows, length in told)
    assert all(rows == 1 or rows * length <= limit for rows, length in held)
    assert (max(rows for rows, _ in held) > 1) == (limit > 1)
    for row, expected in zip(found, wanted, strict=True):
        assert row["generated"] == expected["generated"]
        scores = json.loads(row["option_scores"])
        assert scores == pytest.approx(json.loads(expected["option_scores"]), abs=1e-4)
        assert row["selected"] == expected["selected"]
        assert row["attention_pick"] == expected["attention_pick"]


def test_a_row_says_what_was_seen_and_why(actor):
    for row in answers(actor, STUDIES):
        number = int(row["study_id"][1:])
        count = COUNTS[number]
        assert len(row["image_scores"]) == count
        assert sum(row["image_scores"]) == pytest.approx(1, abs=1e-5)
        assert len(row["selected"]) == len(set(row["selected"])) == min(2, count)
        assert set(row["selected"]) <= set(range(count))
        assert row["image_scores"][row["selected"][0]] == max(row["image_scores"])
        told = row["attention_pick"]
        adaptive = isinstance(actor._model.config.sampling, AdaptiveSampling)
        assert (told in range(count)) if adaptive and number else told == -1
        assert row["showing"] == ([0] * (count - 1) + [1] if number else [-1] * count)
        scores = json.loads(row["option_scores"])
        (turn,) = (each for each in STUDIES[number].turns if each.question == row["question"])
        assert tuple(scores) == turn.options
        assert all(value < 0 for value in scores.values())
        expected = max(scores, key=lambda option: scores[option]) if scores else row["generated"]
        assert row["answer"] == expected


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16")
def test_a_model_in_half_precision_answers_nearly_the_same(actor, parts):
    load = partial(load_trained, parts, "bfloat16")
    half = AnswerActor(load, parts.road.evaluate, actor._features.source, "cpu")
    assert half._model.precision == "bfloat16"
    wanted, found = answers(actor, STUDIES), answers(half, STUDIES)
    assert [row["option_scores"] for row in found] != [row["option_scores"] for row in wanted]
    for row, expected in zip(found, wanted, strict=True):
        assert (row["study_id"], row["question"]) == (expected["study_id"], expected["question"])
        scores = json.loads(row["option_scores"])
        assert scores == pytest.approx(json.loads(expected["option_scores"]), abs=0.5)
        assert row["image_scores"] == pytest.approx(expected["image_scores"], abs=0.02)
        assert (row["attention_pick"] >= 0) == (expected["attention_pick"] >= 0)


def test_a_checkpoint_of_another_tower_is_refused(parts):
    other = replace(parts, fingerprints={**parts.fingerprints, "sam": "f" * 16})
    with pytest.raises(CheckpointError, match="trained over sam ssssssssssssssss, here it is ffff"):
        actor_of(other, FeatureSource(dataset=Path(), stores={}))


def test_a_checkpoint_holds_all_that_was_trained(parts, actor):
    """Two actors of one checkpoint agree to the bit, whatever torch drew in between."""
    torch.manual_seed(99)
    again = actor_of(parts, actor._features.source)
    assert answers(again, STUDIES) == answers(actor, STUDIES)


def test_a_follow_up_is_asked_with_what_was_said_before_it(actor):
    number = 2
    asked = replace(
        study_of(number, COUNTS[number]), turns=(CLOSED, replace(ORGAN, topic=FOLLOW_UP))
    )
    alone = replace(asked, turns=(replace(ORGAN, topic="organ"),))
    told = replace(asked, turns=(replace(CLOSED, task=Task.CONTEXT), asked.turns[1]))
    (_, with_both), (with_context,), (by_itself,) = (
        answers(actor, [each]) for each in (asked, told, alone)
    )
    scores, wanted = (json.loads(row.pop("option_scores")) for row in (with_context, with_both))
    others = json.loads(by_itself.pop("option_scores"))
    assert with_context == with_both
    # two questions are read in one batch, one alone: a processor may round them otherwise
    assert scores == pytest.approx(wanted, rel=1e-6)
    assert others != pytest.approx(wanted, rel=1e-4)
    assert with_both["prompt_hash"] != by_itself["prompt_hash"]
    assert with_both["question"] == by_itself["question"]


def test_a_report_follows_what_the_model_itself_answers(actor):
    """Whatever the archive says, and with the questions that the archive does not ask."""
    protocol = ReportProtocol(
        questions=tuple(
            ProtocolQuestion(topic=turn.topic, question=turn.question, options=turn.options)
            for turn in (CLOSED, replace(ORGAN, topic="organ"))
        )
    )
    group = [
        replace(study_of(number, COUNTS[number]), turns=(REPORT, replace(CLOSED, answer=answer)))
        for number, answer in ((1, "良性"), (2, "恶性"), (4, "良性"))
    ]
    asked = AnswerActor(
        lambda: (actor._model, actor._language),
        actor._settings,
        actor._features.source,
        "cpu",
        protocol=protocol,
    )
    rows = answers(asked, [with_protocol(study, protocol) for study in group])
    assert [row["task"] for row in rows] == ["report", "closed"] * len(group)
    reports, closed = rows[::2], rows[1::2]
    by_hand = [
        replace(study, turns=(replace(CLOSED, topic="pathology"), replace(ORGAN, topic="organ")))
        for study in group
    ]
    said = answers(actor, by_hand)
    assert [row["answer"] for row in closed] == [row["answer"] for row in said[::2]]
    for study, report, pathology, organ in zip(group, reports, said[::2], said[1::2], strict=True):
        told = (CLOSED.question, pathology["answer"], ORGAN.question, organ["answer"])
        turns = [
            Turn(question=told[0], answer=told[1]),
            Turn(question=told[2], answer=told[3], topic=FOLLOW_UP),
            replace(REPORT, topic=FOLLOW_UP),
        ]
        expected = answers(actor, [replace(study, turns=tuple(turns))])[-1]
        assert report["prompt_hash"] == expected["prompt_hash"]
        assert report["generated"] == expected["generated"]
        assert report["truth"] == REPORT.answer
