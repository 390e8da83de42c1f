"""What a student learns, from planted features: truths, a teacher's opinion, states, images."""

import math

import pytest
import torch

from llava_ultra.student.learning import Lessons, choose_left_out, learn, loss_of
from llava_ultra.student.network import Opinion
from llava_ultra.student.student_config import StudentConfig

OPTIONS = ("benign", "malignant")
QUICK = StudentConfig(
    hidden=16, epochs=25, studies_per_step=16, learning_rate=1e-2, dropout=0.0, noise=0.1
)
ALONE = {"truth": 0.0, "probabilities": 0.0, "states": 0.0, "images": 0.0}


def lessons(num=120, *, seed=0, told_wrong=False, patients_each=2):
    """Of three images one tells the answer in its first channel, and says in its last that it does.

    The second topic is asked of every other study.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(2, (num, 2), generator=generator)
    images = torch.randn(num, 3, 4, generator=generator)
    shows = torch.randint(3, (num,), generator=generator)
    rows = torch.arange(num)
    images[rows, shows, 0] = 3.0 * (2 * truth[:, 0] - 1)
    images[rows, shows, 1] = 3.0 * (2 * truth[:, 1] - 1)
    images[rows, shows, 3] = 4.0
    shares = torch.zeros(num, 2, 3)
    shares[rows, :, shows] = 1.0
    told = torch.zeros(num, 2, 2)
    said = 1 - truth if told_wrong else truth
    told.scatter_(2, said[..., None], 4.0)
    asked = torch.ones(num, 2, dtype=torch.bool)
    asked[::2, 1] = False
    return Lessons(
        topics={"pathology": OPTIONS, "margin": OPTIONS},
        patients=[f"p{number // patients_each}" for number in range(num)],
        images=images,
        mask=torch.ones(num, 3, dtype=torch.bool),
        asked=asked,
        allowed=torch.ones(num, 2, 2, dtype=torch.bool),
        truth=truth,
        told=told,
        states=(2.0 * truth - 1)[..., None].expand(-1, -1, 5).contiguous(),
        shares=shares,
    )


def accuracy(student, given):
    with torch.no_grad():
        answers = student(given.images, given.mask).logits.argmax(dim=-1)
    return float((answers == given.truth)[given.asked].float().mean())


def test_a_student_learns_true_answers_of_patients_that_it_has_not_seen():
    learned = learn(lessons(), QUICK)
    assert accuracy(learned.student, lessons(seed=1)) > 0.9
    assert 1 <= learned.epochs <= QUICK.epochs
    assert learned.history[learned.epochs - 1] == min(learned.history)
    assert len(learned.history) == QUICK.epochs


def test_the_other_student_is_that_of_the_best_round_and_has_not_seen_the_left_out():
    given = lessons()
    learned = learn(given, QUICK)
    alone = StudentConfig(**{**ALONE, "truth": 1.0})
    out = given.of(torch.where(learned.left_out)[0])
    with torch.no_grad():
        found = loss_of(learned.other(out.images, out.mask), out, alone)
    assert float(found) == pytest.approx(min(learned.history), rel=1e-5)
    by_heart = lessons()  # answers of the left out that nothing tells
    by_heart.truth[learned.left_out] = 1 - by_heart.truth[learned.left_out]
    assert torch.equal(learn(by_heart, QUICK.model_copy(update={"epochs": 1})).other.head,
                       learn(given, QUICK.model_copy(update={"epochs": 1})).other.head)  # fmt: skip


def test_without_truths_it_learns_what_the_model_believes():
    given = lessons(told_wrong=True)
    believing = QUICK.model_copy(update={**ALONE, "probabilities": 1.0})
    assert accuracy(learn(given, believing).student, lessons(seed=1)) < 0.1
    assert accuracy(learn(given, QUICK.model_copy(update={**ALONE, "truth": 1.0})).student,
                    lessons(seed=1)) > 0.9  # fmt: skip


def test_it_learns_which_images_the_sampler_looks_at():
    looking = QUICK.model_copy(update={**ALONE, "images": 1.0})
    given, fresh = lessons(), lessons(seed=1)
    student = learn(given, looking).student
    with torch.no_grad():
        looks = student(fresh.images, fresh.mask).image_logits.argmax(dim=-1)
    assert float((looks == fresh.shares.argmax(dim=-1)).float().mean()) > 0.9


def test_it_learns_the_states():
    given = lessons()
    apart = {}
    for weight in (0.0, 1.0):
        settings = QUICK.model_copy(update={**ALONE, "truth": 1.0, "states": weight})
        student = learn(given, settings).student
        with torch.no_grad():
            states = student(given.images, given.mask).states
        apart[weight] = float((states - given.states)[given.asked].square().mean())
    assert apart[1.0] < 0.5 < apart[0.0]


def test_equal_seeds_give_equal_students_and_leave_torchs_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    settings = QUICK.model_copy(update={"epochs": 2})
    first, again, other = (
        learn(lessons(40), each).student
        for each in (settings, settings, settings.model_copy(update={"seed": 1}))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.head, again.head)
    assert not torch.equal(first.head, other.head)


def test_a_patient_is_left_out_with_all_studies():
    patients = [f"p{number // 3}" for number in range(60)]
    left = choose_left_out(patients, 0)
    assert int(left.sum()) == 3 * 4
    by_patient = left.reshape(20, 3)
    assert torch.equal(by_patient.all(dim=1), by_patient.any(dim=1))
    assert choose_left_out(patients[:27], 0) is None  # 9 patients


def test_with_few_patients_it_learns_for_all_its_rounds():
    learned = learn(lessons(12, patients_each=2), QUICK.model_copy(update={"epochs": 3}))
    assert learned.epochs == 3
    assert learned.history == []
    assert learned.other is None


def one(**told):
    """A study with one question of two options and two images, the last of them padding."""
    values = {
        "topics": {"pathology": (*OPTIONS, "unclear")},
        "patients": ["p"],
        "images": torch.zeros(1, 2, 4),
        "mask": torch.tensor([[True, False]]),
        "asked": torch.ones(1, 1, dtype=torch.bool),
        "allowed": torch.tensor([[[True, True, False]]]),
        "truth": torch.tensor([[1]]),
        "told": torch.tensor([[[0.0, math.log(3), 99.0]]]),
        "states": torch.ones(1, 1, 2),
        "shares": torch.tensor([[[1.0, 0.0]]]),
    }
    return Lessons(**{**values, **told})


def opinion(**told):
    values = {
        "logits": torch.tensor([[[0.0, math.log(3), 50.0]]]),
        "image_logits": torch.tensor([[[0.3, -torch.inf]]]),
        "states": torch.tensor([[[1.0, 3.0]]]),
    }
    return Opinion(**{**values, **told})


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("truth", -math.log(0.75)),  # the option that is none of the question's does not count
        ("probabilities", 0.0),
        ("states", 2.0),  # (0 + 4) / 2
        ("images", 0.0),  # one image gets all
    ],
)
def test_each_loss_is_what_it_says(part, wanted):
    settings = StudentConfig.model_validate({**ALONE, part: 1.0})
    assert float(loss_of(opinion(), one(), settings)) == pytest.approx(wanted, abs=1e-6)


def test_the_divergence_is_the_models_from_the_students_at_a_temperature():
    settings = StudentConfig.model_validate({**ALONE, "probabilities": 1.0, "temperature": 2.0})
    flat = opinion(logits=torch.zeros(1, 1, 3))
    shares = torch.tensor([0.0, math.log(3) / 2]).softmax(dim=0)
    wanted = 4 * float((shares * (shares / 0.5).log()).sum())
    assert float(loss_of(flat, one(), settings)) == pytest.approx(wanted, rel=1e-5)


def test_what_is_not_asked_teaches_nothing():
    settings = StudentConfig()
    given = lessons(8)
    logits = torch.zeros(8, 2, 2, requires_grad=True)
    said = Opinion(logits=logits, image_logits=torch.zeros(8, 2, 3), states=given.states)
    loss_of(said, given, settings).backward()
    assert not logits.grad[::2, 1].any()
    assert logits.grad[1::2, 1].any()
