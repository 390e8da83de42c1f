import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from sonoray.errors import DataError
from sonoray.metrics import (
    AllClosed,
    AnswerRecord,
    Bootstrap,
    ClosedMetrics,
    Estimate,
    all_closed_metrics,
    closed_metrics,
)
from sonoray.metrics.class_rates import auc_metric, balanced_accuracy_metric, f1_metric
from sonoray.metrics.resampling import among, estimate, estimates, mean_metric, unvaried

BENIGN, MALIGNANT = "良性", "恶性"
QUICK = Bootstrap(num_resamples=1000)


def random_records(
    seed: int,
    *,
    num_patients: int,
    images: int = 1,
    options: tuple[str, ...] = (BENIGN, MALIGNANT),
    signal: float = 1.0,
    agreement: float = 0.0,
) -> list[AnswerRecord]:
    """Answers with normal noise; `agreement` is the share of it that a patient's images share."""
    generator = np.random.default_rng(seed)
    records = []
    for patient in range(num_patients):
        truth = int(generator.integers(len(options)))
        own = generator.normal(size=len(options))
        for image in range(images):
            noise = generator.normal(size=len(options))
            scores = np.sqrt(agreement) * own + np.sqrt(1 - agreement) * noise
            scores[truth] += signal
            scores = np.round(4 * scores) / 4  # exact ties, which a ranking must count half
            records.append(
                AnswerRecord(
                    study_id=f"s{patient}-{image}",
                    patient_key=f"p{patient}",
                    topic="pathology",
                    truth=options[truth],
                    answer=options[int(np.argmax(scores))],
                    options=options,
                    option_scores=dict(zip(options, scores.tolist(), strict=True)),
                )
            )
    return records


def only(records: list[AnswerRecord], **kwargs: object) -> ClosedMetrics:
    arguments = {"training_answers": {}, "bootstrap": QUICK} | kwargs
    [metrics] = closed_metrics(records, **arguments)  # type: ignore[arg-type]
    return metrics


@pytest.mark.parametrize("options", [(BENIGN, MALIGNANT), ("2", "3", "4", "5")])
@pytest.mark.parametrize("seed", range(5))
def test_estimates_equal_scikit_learn(options: tuple[str, ...], seed: int) -> None:
    records = random_records(seed, num_patients=60, images=2, options=options)
    metrics = only(records)
    truth = [record.truth for record in records]
    answer = [record.answer for record in records]
    scores = np.array([[record.option_scores[option] for option in options] for record in records])
    if len(options) == 2:
        auc = roc_auc_score([t == MALIGNANT for t in truth], scores[:, 1] - scores[:, 0])
    else:
        likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = likelihoods / likelihoods.sum(axis=1, keepdims=True)
        auc = roc_auc_score(truth, probabilities, multi_class="ovr", labels=list(options))
    assert metrics.auc is not None
    assert metrics.accuracy.value == pytest.approx(accuracy_score(truth, answer), abs=1e-12)
    assert metrics.balanced_accuracy.value == pytest.approx(
        balanced_accuracy_score(truth, answer), abs=1e-12
    )
    assert metrics.auc.value == pytest.approx(auc, abs=1e-12)
    macro = f1_score(truth, answer, average="macro")
    assert metrics.macro_f1.value == pytest.approx(macro, abs=1e-12)
    assert metrics.positive_f1 is None
    calibration = (metrics.brier, metrics.ece)
    assert all(each is not None and each.low <= each.high for each in calibration)  # type: ignore[operator,union-attr]
    if len(options) == 2:
        for found, option in ((metrics.sensitivity, options[1]), (metrics.specificity, options[0])):
            assert found is not None
            recall = recall_score(truth, answer, pos_label=option)
            assert found.value == pytest.approx(recall, abs=1e-12)
        chances = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
        brier = brier_score_loss([t == options[1] for t in truth], chances)
        assert metrics.brier is not None
        assert metrics.brier.value == pytest.approx(brier, abs=1e-12)
    else:
        assert (metrics.sensitivity, metrics.specificity) == (None, None)
    named = only(records, positive={"pathology": options[0]})
    if len(options) == 2:  # the other way round
        assert (named.sensitivity, named.specificity) == (metrics.specificity, metrics.sensitivity)
    of_it = f1_score(truth, answer, labels=[options[0]], average="macro")
    assert named.positive_f1 is not None
    assert named.positive_f1.value == pytest.approx(of_it, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_weighted_metrics_equal_scikit_learn_on_the_drawn_sample(num_classes: int) -> None:
    """A draw's counts as weights give what scikit-learn gives for the repeated answers."""
    generator = np.random.default_rng(3)
    num = 40
    truth = generator.integers(num_classes, size=num)
    scores = np.round(generator.normal(size=(num, num_classes)), 1)
    scores /= 10 * np.abs(scores).sum(axis=1, keepdims=True)  # scikit-learn wants sums of one
    scores += (1 - scores.sum(axis=1, keepdims=True)) / num_classes
    hits = (scores.argmax(axis=1) == truth).astype(np.float64)
    counts = generator.multinomial(num, np.full(num, 1 / num), size=6)
    weights = counts.astype(np.float64)
    columns = scores if num_classes > 2 else scores[:, 1:]
    got = np.stack(
        [
            mean_metric(hits)(weights),
            balanced_accuracy_metric(hits, truth)(weights),
            auc_metric(columns, truth)(weights),
            f1_metric(truth, scores.argmax(axis=1), range(num_classes))(weights),
            f1_metric(truth, scores.argmax(axis=1), [1])(weights),
        ]
    )
    for draw, count in enumerate(counts):
        index = np.repeat(np.arange(num), count)
        drawn, guess = truth[index], scores.argmax(axis=1)[index]
        drawn_scores = scores[index] if num_classes > 2 else scores[index, 1]
        expected = [
            accuracy_score(drawn, guess),
            balanced_accuracy_score(drawn, guess),
            roc_auc_score(drawn, drawn_scores, multi_class="ovr"),
            f1_score(drawn, guess, average="macro"),
            f1_score(drawn, guess, labels=[1], average="macro"),
        ]
        np.testing.assert_allclose(got[:, draw], expected, rtol=0, atol=1e-12)


@st.composite
def any_records(draw: st.DrawFn) -> list[AnswerRecord]:
    """Few answers of few patients, with ties, off-option answers and any scores."""
    options = tuple("甲乙丙丁"[: draw(st.integers(1, 4))])
    scores = st.one_of(st.sampled_from([-1.0, 0.0]), st.floats(-1e6, 1e6))
    return [
        AnswerRecord(
            study_id=f"s{number}",
            patient_key=f"p{draw(st.integers(0, 4))}",
            topic="t",
            truth=draw(st.sampled_from(options)),
            answer=draw(st.sampled_from((*options, "?"))),
            options=options,
            option_scores={option: draw(scores) for option in options},
        )
        for number in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=40)
@given(records=any_records())
def test_every_metric_and_interval_lies_between_0_and_1(records: list[AnswerRecord]) -> None:
    answers = {"t": [record.truth for record in records]}
    metrics = only(records, training_answers=answers)
    hits = [record.truth == record.answer for record in records]
    assert metrics.accuracy.value == pytest.approx(np.mean(hits), abs=1e-12)
    assert metrics.num_off_option == sum(record.answer == "?" for record in records)
    assert metrics.constant_accuracy is not None
    assert metrics.constant_accuracy.value >= 1 / len(metrics.options) - 1e-12
    classes = {record.truth for record in records}
    assert (metrics.auc is None) == (len(classes) < 2)
    for item in (
        metrics.accuracy,
        metrics.balanced_accuracy,
        metrics.constant_accuracy,
        metrics.auc,
    ):
        if item is None:
            continue
        assert 0 <= item.value <= 1
        assert 0 <= item.num_undefined <= QUICK.num_resamples
        assert (item.low is None) == (item.high is None)
        if item.low is not None and item.high is not None:
            assert 0 <= item.low <= item.high <= 1


@pytest.mark.parametrize("seed", range(10))
def test_interval_holds_the_estimate(seed: int) -> None:
    metrics = only(random_records(seed, num_patients=25, images=2))
    for item in (metrics.accuracy, metrics.balanced_accuracy, metrics.auc):
        assert item is not None
        assert item.low is not None
        assert item.high is not None
        assert item.low <= item.value <= item.high


def width(item: Estimate | None) -> float:
    assert item is not None
    assert item.low is not None
    assert item.high is not None
    return item.high - item.low


def test_interval_narrows_with_the_root_of_the_patients() -> None:
    few = only(random_records(1, num_patients=100))
    many = only(random_records(1, num_patients=1600))
    for name in ("accuracy", "balanced_accuracy", "auc"):
        ratio = width(getattr(few, name)) / width(getattr(many, name))
        assert ratio == pytest.approx(4, rel=0.35)


def test_agreeing_images_of_a_patient_widen_the_interval() -> None:
    records = random_records(2, num_patients=80, images=5, agreement=1.0)
    alone = [
        AnswerRecord(
            study_id=record.study_id,
            patient_key=record.study_id,
            topic=record.topic,
            truth=record.truth,
            answer=record.answer,
            options=record.options,
            option_scores=record.option_scores,
        )
        for record in records
    ]
    clustered, independent = only(records), only(alone)
    assert clustered.accuracy.value == independent.accuracy.value
    for name in ("accuracy", "auc"):
        # Five equal images carry the information of one: the root of 5 is 2.2.
        assert width(getattr(clustered, name)) > 1.7 * width(getattr(independent, name))


@pytest.mark.slow
def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """95 % nominal; the percentile interval of 80 clustered patients is a little short of it."""
    reference = only(random_records(0, num_patients=40_000, images=1, agreement=0.5))
    assert reference.auc is not None
    trials, covered = 200, {"accuracy": 0, "auc": 0}
    for seed in range(1, trials + 1):
        metrics = only(random_records(seed, num_patients=80, images=3, agreement=0.5))
        for name in covered:
            item = getattr(metrics, name)
            covered[name] += item.low <= getattr(reference, name).value <= item.high
    for name, count in covered.items():
        assert 0.90 <= count / trials <= 0.98, name


def test_no_signal_reaches_no_auc_above_one_half() -> None:
    auc = only(random_records(5, num_patients=300, signal=0.0)).auc
    assert auc is not None
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low < 0.5 < auc.high


def test_equal_seeds_give_equal_intervals_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sonoray.metrics import resampling as bootstrap

    records = random_records(6, num_patients=40)
    first = only(records)
    assert only(records) == first
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", 40 * 7)
    blocks = only(records)
    assert first.brier is not None
    assert blocks.brier is not None
    assert blocks.brier.high == pytest.approx(first.brier.high, abs=1e-12)  # a sum of fractions
    assert replace(blocks, brier=None) == replace(first, brier=None)
    assert only(records, bootstrap=Bootstrap(num_resamples=1000, seed=1)) != first


def test_draws_of_one_class_are_skipped_and_counted() -> None:
    records = random_records(7, num_patients=5)
    flipped = [
        AnswerRecord(
            study_id=r.study_id,
            patient_key=r.patient_key,
            topic=r.topic,
            truth=MALIGNANT if i == 0 else BENIGN,
            answer=r.answer,
            options=r.options,
            option_scores=r.option_scores,
        )
        for i, r in enumerate(records)
    ]
    metrics = only(flipped)
    assert metrics.auc is not None
    # The malignant patient is missing from a draw with probability 0.8^5 and alone in 0.2^5.
    assert metrics.auc.num_undefined / 1000 == pytest.approx(0.8**5 + 0.2**5, abs=0.05)
    assert metrics.balanced_accuracy.num_undefined == metrics.auc.num_undefined
    assert metrics.accuracy.num_undefined == 0


def test_one_class_alone_has_no_auc_and_one_patient_no_interval() -> None:
    [record] = random_records(8, num_patients=1)
    metrics = only([record])
    assert metrics.auc is None
    assert (metrics.accuracy.low, metrics.accuracy.high) == (None, None)
    assert metrics.balanced_accuracy.value == metrics.accuracy.value


def test_positive_option_turns_the_ranking() -> None:
    records = random_records(9, num_patients=50)
    metrics = only(records)
    assert metrics.positive == MALIGNANT
    turned = only(records, positive={"pathology": BENIGN})
    assert metrics.auc is not None
    assert turned.auc is not None
    # Ranking the benign by the benign score is the same ranking read from the other end.
    assert turned.auc.value == pytest.approx(metrics.auc.value, abs=1e-12)
    assert turned.positive == BENIGN
    with pytest.raises(DataError, match="未知"):
        only(records, positive={"pathology": "未知"})


@pytest.mark.parametrize(
    ("options", "positive"),
    [
        (("有", "无"), "有"),
        (("Yes", "No"), "Yes"),
        (("否", "是"), "是"),
        ((BENIGN, MALIGNANT), MALIGNANT),
        ((MALIGNANT, BENIGN), BENIGN),
    ],
)
def test_what_stands_beside_a_plain_no_is_positive_else_the_last(
    options: tuple[str, ...], positive: str
) -> None:
    records = random_records(3, num_patients=40, options=options)
    metrics = only(records)
    assert metrics.positive == positive
    named = only(records, positive={"pathology": positive})
    assert metrics.sensitivity == named.sensitivity
    assert metrics.auc == named.auc


def test_auc_ranks_the_positive_option_high() -> None:
    records = [
        AnswerRecord(
            study_id=str(i),
            patient_key=str(i),
            topic="t",
            truth=truth,
            answer=BENIGN,
            options=(BENIGN, MALIGNANT),
            option_scores={BENIGN: -1.0, MALIGNANT: score},
        )
        for i, (truth, score) in enumerate([(MALIGNANT, -2.0), (BENIGN, -3.0)])
    ]
    metrics = only(records)
    assert metrics.auc is not None
    assert metrics.auc.value == 1.0
    assert metrics.balanced_accuracy.value == 0.5


def test_constant_answer_comes_from_training() -> None:
    records = random_records(10, num_patients=30)
    share = np.mean([record.truth == MALIGNANT for record in records])
    training = {"pathology": [MALIGNANT] * 3 + [BENIGN] * 2}
    metrics = only(records, training_answers=training)
    assert metrics.constant_answer == MALIGNANT
    assert metrics.constant_accuracy is not None
    assert metrics.constant_accuracy.value == pytest.approx(share)
    tie = only(records, training_answers={"pathology": [MALIGNANT, BENIGN]})
    assert tie == only(records, training_answers={"pathology": [BENIGN, MALIGNANT]})
    assert only(records).constant_answer is None


def test_topics_are_apart_and_off_option_answers_are_wrong() -> None:
    def record(topic: str, answer: str) -> AnswerRecord:
        return AnswerRecord(
            study_id="s", patient_key="p", topic=topic, truth="左", answer=answer,
            options=("左", "右"),
        )  # fmt: skip

    free = AnswerRecord(study_id="s", patient_key="p", topic="free", truth="a", answer="a")
    side, other = closed_metrics(
        [record("side", "左"), free, record("side", "不知道"), record("other", "左")],
        training_answers={},
        bootstrap=QUICK,
    )
    assert (side.topic, side.num_questions, side.num_off_option) == ("side", 2, 1)
    assert side.accuracy.value == 0.5
    assert side.auc is None
    assert (other.topic, other.accuracy.value) == ("other", 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truth": "其他"}, "其他"),
        ({"option_scores": {BENIGN: 0.0}}, "do not match"),
        ({"option_scores": {BENIGN: 0.0, MALIGNANT: float("nan")}}, "finite"),
    ],
)
def test_record_that_contradicts_itself_is_refused(change: dict[str, object], words: str) -> None:
    values = {
        "study_id": "s1", "patient_key": "p", "topic": "pathology", "truth": BENIGN,
        "answer": BENIGN, "options": (BENIGN, MALIGNANT),
    }  # fmt: skip
    with pytest.raises(DataError, match=words) as caught:
        only([AnswerRecord(**{**values, **change})])  # type: ignore[arg-type]
    assert "s1" in str(caught.value)


def test_metrics_are_frozen_and_become_json() -> None:
    metrics = only(random_records(11, num_patients=20), training_answers={"pathology": [BENIGN]})
    values = json.loads(json.dumps(metrics.to_json(), allow_nan=False))
    assert values["topic"] == "pathology"
    assert values["auc"]["low"] < values["auc"]["high"]
    with pytest.raises(FrozenInstanceError):
        metrics.topic = "x"  # type: ignore[misc]


def test_bootstrap_refuses_few_draws() -> None:
    with pytest.raises(ValueError, match="1000"):
        Bootstrap(num_resamples=999)


def test_estimate_of_an_undefined_metric_is_none() -> None:
    metric = auc_metric(np.array([[0.1], [0.2]]), np.array([1, 1]))
    assert estimate(metric, ["a", "b"], QUICK) is None


def test_metrics_share_the_draws_and_a_part_of_the_answers_has_its_own_value() -> None:
    patients = [f"p{number // 2}" for number in range(20)]
    values = np.arange(20.0)
    odd = values % 2 == 1
    mean = mean_metric(values)
    found = estimates(
        {"mean": mean, "odd": among(mean, odd), "none": among(mean, values < 0)}, patients, QUICK
    )
    assert found["mean"] == estimate(mean, patients, QUICK)
    assert found["none"] is None
    assert found["odd"] is not None
    # every patient has an even answer and the odd one above it, so each draw differs by one half
    assert found["odd"].value == 10.0
    assert found["odd"].low == pytest.approx(found["mean"].low + 0.5)
    few = estimate(among(mean, values == 3), patients, QUICK)
    assert few is not None
    assert (few.low, few.high) == (None, None)  # one patient's answers
    assert few.num_undefined / 1000 == pytest.approx(0.9**10, abs=0.05)  # its patient is not drawn


@pytest.mark.parametrize(("right", "low", "high"), [(1.0, 0.025, 1.0), (0.0, 0.0, 0.975)])
def test_answers_that_are_all_alike_have_the_exact_interval_over_patients(
    right: float, low: float, high: float
) -> None:
    patients = [f"p{number // 3}" for number in range(60)]
    found = estimate(mean_metric(np.full(60, right)), patients, QUICK)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    exact = binomtest(20 * int(right), 20).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    half = among(mean_metric(np.full(60, right)), np.arange(60) < 6)
    some = estimate(half, patients, QUICK)  # of two patients, though 20 are drawn
    assert some is not None
    assert (some.low, some.high) == pytest.approx((low**0.5, 1 - (1 - high) ** 0.5), abs=1e-12)


def test_equal_scores_of_differences_may_go_either_way() -> None:
    low, high = unvaried(0.0, 20, 0.95, lowest=-1.0)
    assert low is not None
    assert high is not None
    assert -low == pytest.approx(high, abs=1e-15)
    assert high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_an_answer_that_is_no_option_costs_its_truth_and_is_no_class() -> None:
    records = [
        AnswerRecord(
            study_id=str(i), patient_key=str(i), topic="t", truth=truth, answer=answer,
            options=(BENIGN, MALIGNANT),
        )
        for i, (truth, answer) in enumerate(
            [(BENIGN, BENIGN), (BENIGN, "不知道"), (MALIGNANT, MALIGNANT)]
        )
    ]  # fmt: skip
    assert only(records).macro_f1.value == pytest.approx((2 / 3 + 1) / 2)


def test_package_import_stays_light() -> None:
    heavy = (
        "('torch', 'ray', 'mlflow', 'sklearn', 'pandas', 'scipy', 'nltk', 'jieba', 'matplotlib')"
    )
    code = f"import sys, sonoray.metrics; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_accuracy_over_all_closed_questions_counts_questions_and_clusters_patients() -> None:
    benign = random_records(5, num_patients=40, images=2, agreement=1.0)
    organ = [replace(record, topic="organ") for record in random_records(6, num_patients=40)]
    text = AnswerRecord(study_id="s", patient_key="p", topic="report", truth="a", answer="a")
    records = [*benign, *organ, text]
    training = {benign[0].topic: [benign[0].truth], "organ": [organ[0].truth]}
    found = all_closed_metrics(records, training_answers=training)
    assert found is not None
    closed = records[:-1]
    assert found.num_questions == len(closed)
    assert found.num_patients == len({record.patient_key for record in closed})
    right = [record.answer == record.truth for record in closed]
    assert found.accuracy.value == pytest.approx(np.mean(right), abs=1e-12)
    constant = [record.truth == training[record.topic][0] for record in closed]
    assert found.constant_accuracy is not None
    assert found.constant_accuracy.value == pytest.approx(np.mean(constant), abs=1e-12)
    assert all_closed_metrics(benign, training_answers=training, bootstrap=QUICK) == AllClosed(
        num_questions=len(benign),
        num_patients=40,
        accuracy=only(benign).accuracy,
        constant_accuracy=only(benign, training_answers=training).constant_accuracy,
    )
    unknown = all_closed_metrics(records, training_answers={"organ": ["x"]})
    assert unknown is not None
    assert unknown.constant_accuracy is None
    assert all_closed_metrics([text], training_answers=training) is None
