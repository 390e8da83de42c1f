"""The student's network: padding changes nothing, what is saved answers alike."""

import numpy as np
import pytest
import torch

from llava_ultra.student.network import (
    SHAPE,
    WEIGHTS,
    Student,
    StudentShape,
    pad_images,
    pool_tokens,
)

SHAPE_ = StudentShape(
    features=6, hidden=8, topics={"pathology": ("a", "b"), "organ": ("x", "y", "z")}, state_width=5
)


def made(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return Student(SHAPE_, dropout).eval()


def studies(counts=(3, 1, 2), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, 6)).astype(np.float32) for count in counts]


def test_a_study_gets_the_same_alone_and_in_a_batch():
    student, images = made(), studies()
    together = student(*pad_images(images))
    assert together.logits.shape == (3, 2, 3)
    assert together.states.shape == (3, 2, 5)
    for place, own in enumerate(images):
        alone = student(*pad_images([own]))
        torch.testing.assert_close(alone.logits[0], together.logits[place])
        looks = together.image_logits[place, :, : len(own)]
        torch.testing.assert_close(alone.image_logits[0], looks)
    assert together.image_logits[1, :, 1:].isneginf().all()


def test_the_order_of_images_does_not_matter_and_what_they_show_does():
    student, (images, *_) = made(), studies()
    first = student(*pad_images([images])).logits
    torch.testing.assert_close(student(*pad_images([images[::-1].copy()])).logits, first)
    assert not torch.allclose(student(*pad_images([images[:1]])).logits, first)


def test_features_are_standardised_by_those_it_was_fitted_on():
    student = made()
    images = torch.from_numpy(np.concatenate(studies((50, 50)))) * 7 + 3
    student.fit_features(images)
    moved = (images - student.mean) / student.deviation
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.std(dim=0, unbiased=False), torch.ones(6))


def test_a_saved_student_answers_alike_and_keeps_no_map_to_states(tmp_path):
    student, images = made(), pad_images(studies())
    student.fit_features(images[0][images[1]])
    student.save(tmp_path, teacher="t")
    again = Student.load(tmp_path)
    assert again.state is None
    assert again.shape.topics == SHAPE_.topics
    assert torch.equal(again(*images).logits, student(*images).logits)
    assert again(*images).states is None


@pytest.mark.parametrize("gone", [WEIGHTS, SHAPE])
def test_half_a_student_is_refused(tmp_path, gone):
    made().save(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(ValueError, match="holds no student"):
        Student.load(tmp_path)


def test_tokens_are_pooled_to_mean_and_maximum():
    tokens = np.array([[[1, 8], [3, 2]]], np.float16)
    assert pool_tokens(tokens).tolist() == [[2, 5, 3, 8]]
    assert pool_tokens(tokens).dtype == np.float32
