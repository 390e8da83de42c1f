import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.language.chat import IGNORED, encode_answer, encode_chat
from llava_ultra.testing import tiny_config, tiny_language

TOKENIZER = tiny_language(tiny_config()).tokenizer
texts = st.text(alphabet="甲状腺乳肝良恶性有无, 12mm", min_size=1, max_size=20)


def study(count, value=1.0):
    return StudyFeatures(
        clip=np.full((count, 2, 3), value, np.float16),
        sam=np.full((count, 2, 5), value, np.float16),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=6))
def test_ragged_groups_keep_every_image_and_nothing_else(counts):
    batch = collate_features([study(count, value=i + 1) for i, count in enumerate(counts)])
    assert batch.image_mask.sum(1).tolist() == counts
    for index, count in enumerate(counts):
        assert (batch.clip[index, :count] == index + 1).all()
        assert (batch.sam[index, count:] == 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), texts, texts), min_size=1, max_size=5))
def test_labels_are_the_answers_and_only_they(rows):
    batch = collate_texts(TOKENIZER, rows, max_tokens=200)
    assert batch.study_index.tolist() == [index for index, _, _ in rows]
    for row, (_, question, answer) in enumerate(rows):
        real = batch.ids[row][batch.mask[row]].tolist()
        prompt, _ = encode_chat(TOKENIZER, [{"role": "user", "content": question}])
        reply = encode_answer(TOKENIZER, answer)
        assert real == prompt + reply
        labels = batch.labels[row]
        assert labels[labels != IGNORED].tolist() == reply
        assert (labels[~batch.mask[row]] == IGNORED).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.just(0), texts, texts), min_size=1, max_size=5))
def test_without_answers_leaves_the_prompts(rows):
    batch = collate_texts(TOKENIZER, rows, max_tokens=200).without_answers()
    for row, (_, question, _) in enumerate(rows):
        prompt, _ = encode_chat(TOKENIZER, [{"role": "user", "content": question}])
        assert batch.ids[row][batch.mask[row]].tolist() == prompt
    assert (batch.labels == IGNORED).all()


def test_an_answer_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="the context leaves 20"):
        collate_texts(TOKENIZER, [(0, "甲状腺", "良性" * 20)], max_tokens=20)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (study(0), "0 images"),
        (study(2, value=np.nan), r"study 1 of the batch has CLIP .* NaN or infinity \(nan\)"),
        (
            StudyFeatures(clip=study(2).clip, sam=study(2, value=np.inf).sam),
            r"study 1 of the batch has SAM .* NaN or infinity \(inf\)",
        ),
        (
            StudyFeatures(clip=study(2).clip, sam=study(2).sam[..., :4]),
            r"study 1 of the batch has SAM features of \(2, 4\) .* study 0 of \(2, 5\)",
        ),
        (StudyFeatures(clip=study(2).clip, sam=study(3).sam), "2 CLIP and 3 SAM"),
    ],
)
def test_features_that_cannot_be_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        collate_features([study(1), broken])


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="0 studies"):
        collate_features([])
    with pytest.raises(ValueError, match="0 questions"):
        collate_texts(TOKENIZER, [], max_tokens=20)


def test_batches_are_float32():
    batch = collate_features([study(2)])
    assert batch.clip.dtype == batch.sam.dtype == torch.float32


def test_noise_has_its_size_and_leaves_the_mask_and_the_original_alone():
    batch = collate_features([study(32), study(16)])
    before = batch.clip.clone()
    noisy = batch.with_noise(0.5, [1, 2])
    assert torch.equal(batch.clip, before)
    assert torch.equal(noisy.image_mask, batch.image_mask)
    noise = (noisy.sam - batch.sam)[batch.image_mask]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
    assert torch.equal(batch.with_noise(0.5, [1, 2]).clip, noisy.clip)
    assert torch.equal(noisy.clip[1, 16:], torch.zeros_like(noisy.clip[1, 16:]))  # no image there


def test_a_studys_noise_is_its_own_whatever_batch_it_is_in():
    studies = [study(3), study(1), study(2)]
    together = collate_features(studies).with_noise(0.5, [5, 6, 7])
    for number, seed in enumerate((5, 6, 7)):
        alone = collate_features([studies[number]]).with_noise(0.5, [seed])
        count = int(alone.image_mask.sum())
        assert torch.equal(together.clip[number, :count], alone.clip[0])
        assert torch.equal(together.sam[number, :count], alone.sam[0])
    assert not torch.equal(together.clip[0, 0], collate_features(studies).clip[0, 0])


def test_of_a_conversation_the_last_answer_alone_is_learned():
    tokenizer = tiny_language(tiny_config()).tokenizer
    told = ["有无结节?", "有", "多大?"]
    text = collate_texts(tokenizer, [(0, told, "8毫米"), (0, "多大?", "8毫米")], max_tokens=500)
    messages = [
        {"role": role, "content": content}
        for role, content in zip(("user", "assistant", "user"), told, strict=True)
    ]
    prompt, _ = encode_chat(tokenizer, messages)
    answer = encode_answer(tokenizer, "8毫米")
    row = [*prompt, *answer]
    assert text.ids[0, : len(row)].tolist() == row
    assert text.num_answer_tokens().tolist() == [len(answer)] * 2
    assert text.labels[0][text.labels[0] != IGNORED].tolist() == answer
