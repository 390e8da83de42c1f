import numpy as np
import pytest

from sonoray.study.contract import Task, Turn
from sonoray_jobs.evaluation.robustness.wording import WORDINGS, with_typos, with_wrong_claim

TURN = Turn(
    question="这个病灶是良性还是恶性？请看图回答。",
    answer="良性",
    task=Task.CLOSED,
    options=("良性", "恶性"),
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", WORDINGS.values(), ids=WORDINGS)
def test_no_strength_changes_nothing_and_a_seed_repeats(change):
    assert change(TURN, 0.0, rng()) == TURN.question
    assert change(TURN, 1.0, rng(3)) == change(TURN, 1.0, rng(3))


def test_typos_grow_with_the_strength_and_add_no_character():
    def slips(strength):
        texts = [with_typos(TURN, strength, rng(seed)) for seed in range(200)]
        assert all(set(text) <= set(TURN.question) for text in texts)
        return sum(text != TURN.question for text in texts)

    assert slips(0.1) < slips(0.5) < slips(1.0)


def test_a_question_of_one_character_stays_a_question():
    short = Turn(question="?", answer="")
    assert all(with_typos(short, 1.0, rng(seed)) for seed in range(50))


def test_a_claim_is_another_option_in_the_language_of_the_question():
    assert with_wrong_claim(TURN, 1.0, rng()) == "外院意见：恶性。" + TURN.question
    english = Turn(question="Benign?", answer="yes", options=("yes", "no"))
    assert with_wrong_claim(english, 1.0, rng()) == "Another hospital says: no. Benign?"
    told = [with_wrong_claim(TURN, 0.5, rng(seed)) != TURN.question for seed in range(400)]
    assert 0.4 < np.mean(told) < 0.6
    assert with_wrong_claim(Turn(question="几个？", answer="一"), 1.0, rng()) == "几个？"
