"""MLIP's parts against a restatement in double precision, and in a pretraining."""

import numpy as np
import pytest
import torch

from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.objectives.pretraining.image_text import ImageTextObjective
from llava_ultra.objectives.pretraining.mlip import MlipObjective
from llava_ultra.objectives.pretraining.mlip_losses import (
    DivergenceEncoder,
    category_loss,
    global_loss,
    local_loss,
)
from llava_ultra.objectives.pretraining.tower_objective import Knowledge
from llava_ultra.pretrain.contrastive import encode_captions, pretrain_clip
from llava_ultra.pretrain.pretrain_config import ClipPretrainConfig
from llava_ultra.testing import TEXTS, tiny_config

TAU = 0.07
CLIP = tiny_config().clip


def unit(*shape, seed=0):
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cross_entropy(logits):
    """Mean over rows, whose own column is the truth."""
    return float(np.mean([np.log(np.exp(row).sum()) - row[n] for n, row in enumerate(logits)]))


def test_the_global_part_is_this_sum_in_double_precision():
    images, views = unit(5, 4), unit(5, 3, 4, seed=1)
    logits = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            logits[i, j] = np.log(np.mean([np.exp(images[i] @ v / TAU) for v in views[j]]))
    wanted = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    apart = np.mean(
        [(own[v] @ own[w]) ** 2 for own in views for v in range(3) for w in range(3) if v != w]
    )
    found = global_loss(torch.tensor(images), torch.tensor(views), TAU)
    assert [float(each) for each in found] == pytest.approx([wanted, apart], rel=1e-9)
    one = global_loss(torch.tensor(images), torch.tensor(views[:, :1]), TAU)
    assert float(one[1]) == 0


def test_the_local_part_is_this_sum_in_double_precision():
    patches, terms = unit(3, 4, 6), unit(5, 6, seed=1)
    marks = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
    shares = np.array([0.5, 0.1, 0.3, 0.2, 0.9])
    total = weight = 0.0
    for i in range(3):
        found = [np.log(np.mean(np.exp(patches[i] @ term / TAU))) for term in terms]
        for t in np.flatnonzero(marks[i]):
            others = sum(np.exp(found[u]) for u in np.flatnonzero(~marks[i]))
            missed = -np.log(np.exp(found[t]) / (np.exp(found[t]) + others))
            total += -np.log(shares[t]) * missed
            weight += -np.log(shares[t])
    given = (torch.tensor(each) for each in (patches, terms, marks, shares))
    assert float(local_loss(*given, TAU)) == pytest.approx(total / weight, rel=1e-9)
    none = local_loss(
        torch.tensor(patches),
        torch.tensor(terms),
        torch.zeros(3, 5, dtype=torch.bool),
        torch.tensor(shares),
        TAU,
    )
    assert float(none) == 0


def test_the_category_part_is_this_sum_in_double_precision():
    sides, texts = (unit(4, 6), unit(4, 6, seed=1)), unit(5, 6, seed=2)
    class_of, labels = [0, 0, 1, 2, 2], np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
    anchors = np.stack([texts[:2].mean(0), texts[2], texts[3:].mean(0)])
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    losses = []
    for side in sides:
        own = []
        for row, label in zip(side, labels, strict=True):
            logits = anchors @ row / TAU
            logs = logits - np.log(np.exp(logits).sum())
            if label.any():
                own.append(-float(label / label.sum() @ logs))
        losses.append(np.mean(own))
    found = category_loss(
        [torch.tensor(side) for side in sides],
        torch.tensor(texts),
        torch.tensor(class_of),
        torch.tensor(labels),
        TAU,
    )
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-9)


def test_views_begin_as_turns_of_a_vector_and_are_not_the_same():
    torch.manual_seed(0)
    views = DivergenceEncoder(3, 8)(torch.tensor(unit(4, 8)).float())
    assert views.shape == (4, 3, 8)
    torch.testing.assert_close(views.norm(dim=-1), torch.ones(4, 3))
    assert (views[:, 0] * views[:, 1]).sum(-1).abs().max() < 0.99


def pictures(count=24):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 60, (32, 32), dtype=np.uint8) for _ in range(count)]
    for number, image in enumerate(images):
        image[4:16, 4:16] += 180 * (number % 2)
    return images, ["高回声病灶" if number % 2 else "未见病灶" for number in range(count)]


def pretrained(*objectives, knowledge=None, told=None):
    images, captions = pictures()
    tokenizer = train_tokenizer([*TEXTS, *captions], 400)
    config = ClipPretrainConfig(
        steps=12, batch_size=8, learning_rate=2e-3, objectives=objectives or (ImageTextObjective(),)
    )
    if knowledge:
        ids = encode_captions(tokenizer, ["高回声", "未见", "病灶"], 12)
        marks = torch.tensor([[n % 2 == 1, n % 2 == 0, True] for n in range(len(images))])
        classes = encode_captions(tokenizer, ["未见病灶", "高回声病灶"], 12)
        labels = torch.tensor([[1 - n % 2, n % 2] for n in range(len(images))])
        knowledge = Knowledge(
            term_ids=_padded(ids),
            term_marks=marks,
            class_ids=_padded(classes),
            class_of=torch.tensor([0, 1]),
            labels=labels,
        )
    return pretrain_clip(images, captions, tokenizer, CLIP, config, knowledge=knowledge, told=told)


def _padded(ids):
    return torch.nn.functional.pad(ids, (0, CLIP.context_length - ids.shape[1]))


def test_each_objective_logs_its_own_loss_and_their_weighted_sum_is_learned():
    told = {}
    mlip = MlipObjective(weight=0.5, bank="b")
    _, losses = pretrained(ImageTextObjective(), mlip, knowledge=True, told=told)
    assert set(told) == {"image_text_loss", "mlip_loss"}
    expected = np.array(told["image_text_loss"]) + 0.5 * np.array(told["mlip_loss"])
    assert losses == pytest.approx(expected.tolist(), rel=1e-5)
    assert np.mean(told["mlip_loss"][-3:]) < 0.8 * told["mlip_loss"][0]


def test_views_are_pushed_apart_by_the_weight_given():
    first = []
    for divergence in (0, 1, 0.25):
        told = {}
        pretrained(MlipObjective(local=0, divergence=divergence), told=told)
        first.append(told["mlip_loss"][0])
    assert first[1] > first[0]
    assert first[2] == pytest.approx(0.75 * first[0] + 0.25 * first[1], rel=1e-5)


def test_without_it_nothing_of_it_is_computed_and_the_tower_is_the_same():
    plain, losses = pretrained()
    off, others = pretrained(ImageTextObjective(), MlipObjective(weight=0, bank="b"))
    assert losses == others
    assert plain.fingerprint == off.fingerprint
    other, _ = pretrained(ImageTextObjective(), MlipObjective(bank="b"), knowledge=True)
    assert other.fingerprint != plain.fingerprint
    assert set(other.state_dict()) == set(plain.state_dict())  # its head is thrown away


def test_what_is_left_out_is_not_needed():
    assert MlipObjective(bank="b").needs == {"patches", "terms", "classes"}
    assert MlipObjective().needs == {"patches", "terms"}
    assert MlipObjective(local=0, bank="b", category=0).needs == set()
    assert ImageTextObjective().needs == set()
    with pytest.raises(ValueError, match="leave nothing to learn from"):
        ClipPretrainConfig(objectives=(MlipObjective(weight=0),))
    with pytest.raises(ValueError, match="repeat a type"):
        ClipPretrainConfig(objectives=(MlipObjective(), MlipObjective()))
