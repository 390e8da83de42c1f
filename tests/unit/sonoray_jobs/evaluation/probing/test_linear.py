"""Probes on planted features: found where they are, judged by study, blind to the left-out."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.probing.linear import asked_of, fit, left_out
from sonoray_jobs.evaluation.probing.pooling import PooledStudy, gather, images_that_count
from sonoray_jobs.evaluation.probing.suspects import confident_options, find_suspects

OPTIONS = ("良性", "恶性")


def study_of(number, answer, *, patient=None, split="train", images=2):
    turn = Turn(
        question="性质？", answer=answer, task=Task.CLOSED, options=OPTIONS, topic="pathology"
    )
    return Study(
        study_id=f"s{number:03}", patient_key=patient or f"p{number}", split=split, dataset="d",
        images=tuple(
            StudyImage(image_id=f"{number}-{at}", uri="", width=8, height=8)
            for at in range(images)
        ),
        turns=(turn,),
    )  # fmt: skip


def pooled_studies(*, num=80, told=2.0, flipped=(), seed=0, split="train"):
    """Studies whose SAM features tell the answer, with noise; CLIP's are noise alone."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(num):
        truth = number % 2
        answer = OPTIONS[1 - truth if number in flipped else truth]
        signal = np.zeros(6)
        signal[0] = told * (2 * truth - 1)
        made.append(
            PooledStudy(
                study=study_of(number + 1000 * (split == "test"), answer, split=split),
                towers={
                    "clip": rng.standard_normal((2, 4)).astype(np.float32),
                    "sam": (rng.standard_normal((2, 6)) + signal).astype(np.float32),
                },
            )
        )
    return made


def accuracy(probe, asked):
    scores = probe.scores(asked)
    answers = [max(each, key=lambda option: each[option]) for each in scores]
    return np.mean([one == turn.answer for one, turn in zip(answers, asked.turns, strict=True)])


def test_a_probe_finds_what_a_tower_tells_and_nothing_in_noise():
    train, test = pooled_studies(), pooled_studies(seed=1, split="test")
    expected = {("sam",): (0.95, 1), ("clip", "sam"): (0.95, 1), ("clip",): (0.3, 0.7)}
    for towers, (low, high) in expected.items():
        probe = fit(asked_of(train, "pathology", towers))
        assert low <= accuracy(probe, asked_of(test, "pathology", towers)) <= high


def test_a_study_is_the_mean_of_its_images_and_its_options_sum_to_one():
    asked = asked_of(pooled_studies(num=20), "pathology", ("sam",))
    probe = fit(asked)
    logs = probe.log_probabilities(asked)
    assert np.exp(logs).sum(axis=1) == pytest.approx(1)
    by_image = probe._model.predict_log_proba(asked.features)
    mean = by_image[:2].mean(axis=0)
    assert logs[0] == pytest.approx(mean - np.logaddexp.reduce(mean))


def test_an_option_that_was_never_learned_is_the_unlikeliest():
    train = pooled_studies(num=20)
    options = (*OPTIONS, "不明")
    turn = Turn(
        question="?", answer="不明", task=Task.CLOSED, options=options, topic="pathology"
    )  # fmt: skip
    odd = PooledStudy(
        study=Study(
            study_id="odd", patient_key="odd", split="test", dataset="d",
            images=train[0].study.images, turns=(turn,),
        ),
        towers=train[0].towers,
    )  # fmt: skip
    (scores,) = fit(asked_of(train, "pathology", ("sam",))).scores(
        asked_of([odd], "pathology", ("sam",))
    )
    assert set(scores) == {*OPTIONS, "不明"}
    assert min(scores, key=scores.get) == "不明"


@pytest.mark.parametrize("answers", [["良性"] * 6, ["良性"] * 5 + ["恶性"]])
def test_there_is_no_probe_of_one_answer_or_of_one_patient_of_it(answers):
    made = [
        PooledStudy(study=study_of(at, answer), towers={"sam": np.ones((2, 3), np.float32)})
        for at, answer in enumerate(answers)
    ]
    asked = asked_of(made, "pathology", ("sam",))
    assert fit(asked) is None
    assert left_out(asked) is None
    assert find_suspects(asked) == []
    assert asked_of(made, "organ", ("sam",)) is None


def test_no_answer_speaks_for_itself():
    """Features that only name the patient: what is not left out would be known by heart."""
    answers = np.random.default_rng(0).integers(2, size=30)  # a patient has one
    made = [
        PooledStudy(
            study=study_of(number, OPTIONS[answers[number // 2]], patient=f"p{number // 2}"),
            towers={"sam": np.eye(30, dtype=np.float32)[[number // 2] * 2] * 9},
        )
        for number in range(60)
    ]
    asked = asked_of(made, "pathology", ("sam",))
    options, shares = left_out(asked)
    truth = np.array([options.index(answer) for answer in asked.truths])
    by_heart = fit(asked).log_probabilities(asked)[:, 1]
    assert roc_auc_score(truth, by_heart) == 1
    assert roc_auc_score(truth, shares[:, 1]) < 0.6


def test_planted_wrong_answers_are_suspect_and_come_first():
    flipped = {3, 20, 41, 58}
    found = find_suspects(
        asked_of(pooled_studies(flipped=flipped, told=3.0), "pathology", ("clip", "sam"))
    )
    names = [each.study_id for each in found]
    assert {f"s{number:03}" for number in flipped} <= set(names[:6])
    first = found[0]
    assert first.answer != first.suggested
    assert first.margin == max(each.margin for each in found) > 0.5
    assert find_suspects(asked_of(pooled_studies(told=6.0), "pathology", ("sam",))) == []


def test_confidence_is_above_the_mean_of_those_who_have_the_option():
    shares = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.3, 0.7], [0.75, 0.25]])
    given = np.array([0, 0, 1, 1, 1])
    # thresholds: (0.9 + 0.7) / 2 and (0.8 + 0.7 + 0.25) / 3
    assert confident_options(shares, given) == [0, -1, 1, 1, -1]


def test_what_actors_return_finds_its_study():
    studies = [study_of(0, "良性"), study_of(1, "恶性", images=1)]
    rows = [
        {"place": 1, "clip": [1.0, 2.0], "sam": [5.0]},
        {"place": 0, "clip": [3.0, 4.0], "sam": [6.0]},
        {"place": 0, "clip": [7.0, 8.0], "sam": [9.0]},
    ]
    first, second = gather(studies, rows)
    assert first.towers["clip"].tolist() == [[3, 4], [7, 8]]
    assert second.towers["sam"].tolist() == [[5]]
    shows = StudyImage(image_id="x", uri="", width=8, height=8, labels={"shows_finding": "1"})
    marked = Study(
        study_id="m", patient_key="p", split="train", dataset="d",
        images=(*studies[0].images, shows), turns=studies[0].turns,
    )  # fmt: skip
    assert images_that_count(marked) == [shows]
    assert images_that_count(studies[0]) == studies[0].images
