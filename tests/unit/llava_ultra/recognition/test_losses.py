import torch

from llava_ultra.recognition.losses import (
    ClassTexts,
    class_similarities,
    dkam_loss,
    masked_nce,
    same_rows,
)


def test_equal_texts_and_equal_known_labels_are_no_negatives():
    keys = torch.tensor([7, 8, 7, 9])
    labels = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 0]])
    same = same_rows(keys, labels)
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(same, expected)
    unlabelled = torch.zeros(2, 2, dtype=torch.int64)
    assert torch.equal(same_rows(keys[:2], unlabelled), torch.eye(2, dtype=torch.bool))


def test_a_copy_of_a_pair_changes_nothing_for_the_others():
    similarity = torch.tensor([[2.0, 0.5], [0.1, 1.0]], dtype=torch.float64)
    plain = masked_nce(similarity, torch.eye(2, dtype=torch.bool))
    copied = similarity[[0, 1, 1]][:, [0, 1, 1]]
    same = same_rows(torch.tensor([0, 1, 1]), None)
    row = torch.log1p(torch.exp(similarity[1, 0] - similarity[1, 1]))
    column = torch.log1p(torch.exp(similarity[0, 1] - similarity[1, 1]))
    assert masked_nce(copied, same) > plain  # the first pair has two negatives now
    alone = masked_nce(copied[1:, 1:], same[1:, 1:])
    assert alone == 0
    others = masked_nce(similarity, same[:2, :2])
    torch.testing.assert_close(2 * 2 * others - row - column, 2 * 2 * plain - row - column)


def test_pooling_is_the_mean_the_nearest_or_a_weighted_mean_of_a_classs_own_texts():
    texts = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    owner = torch.tensor([0, 0, 1])
    rows = torch.tensor([[1.0, 0.0]])
    plain = ClassTexts(vectors=texts, class_of=owner)
    half = 0.5**0.5
    torch.testing.assert_close(
        class_similarities(rows, plain, "mean"), torch.tensor([[half, -1.0]])
    )
    torch.testing.assert_close(class_similarities(rows, plain, "max"), torch.tensor([[1.0, -1.0]]))
    sure = ClassTexts(vectors=texts, class_of=owner, weights=torch.tensor([-50.0, 50, 60]))
    torch.testing.assert_close(
        class_similarities(rows, sure, "attention"), torch.tensor([[0.0, -1.0]])
    )


def test_studies_without_a_class_take_no_part_and_several_classes_count_alike():
    texts = ClassTexts(vectors=torch.eye(3), class_of=torch.arange(3))
    rows = torch.nn.functional.normalize(torch.tensor([[3.0, 1, 0], [0, 1, 1]]), dim=1)
    labels = torch.tensor([[1, 0, 0], [0, 0, 0]])
    arguments = {"temperature": torch.tensor(0.5), "pooling": "mean"}
    one = dkam_loss(rows, texts, labels, **arguments)
    torch.testing.assert_close(one, dkam_loss(rows[:1], texts, labels[:1], **arguments))
    assert dkam_loss(rows, texts, torch.zeros(2, 3), **arguments) == 0
    both = dkam_loss(rows[1:], texts, torch.tensor([[0, 1, 1]]), **arguments)
    each = [dkam_loss(rows[1:], texts, torch.eye(3)[[n]], **arguments) for n in (1, 2)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
