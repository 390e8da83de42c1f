import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava_ultra.batch import StudyFeatures, VisualBatch, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling
from llava_ultra.language.chat import IGNORED
from llava_ultra.model import LlavaUltra, trainable_parameters
from llava_ultra.reading.sequence import positions
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

ROWS = [
    (0, "病灶是良性还是恶性?", "恶性"),
    (1, "检查的是哪个器官?", "甲状腺"),
    (0, "请描述", "左侧"),
]


def build(sampling=None):
    config = tiny_config(sampling)
    language = tiny_language(config)
    return tiny_model(config, language), language.tokenizer


def visual(counts=(3, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return collate_features(
        [
            StudyFeatures(
                clip=torch.randn(count, 4, 32, generator=generator).numpy(),
                sam=torch.randn(count, 4, 32, generator=generator).numpy(),
            )
            for count in counts
        ]
    )


def test_real_images_alone_are_fused():
    model, _ = build(FirstSampling())
    images = visual()
    found, wanted = model.fuse_studies(images), model.fuse(images.clip, images.sam)
    assert not bool(images.image_mask.all())
    assert torch.allclose(found[images.image_mask], wanted[images.image_mask], atol=1e-6)
    assert not bool(found[~images.image_mask].any())
    full = images.clip[:, :1], images.sam[:, :1]
    whole = VisualBatch(clip=full[0], sam=full[1], image_mask=images.image_mask[:, :1])
    assert torch.equal(model.fuse_studies(whole), model.fuse(*full))


def test_the_loss_is_the_mean_over_answers_of_their_mean_cross_entropy():
    model, tokenizer = build(FirstSampling())
    text = collate_texts(tokenizer, ROWS, max_tokens=100)
    images = visual()
    output = model(images, text)
    tokens = model.fuse(images.clip, images.sam)
    means = []
    for row, (study, _, _) in enumerate(ROWS):  # one by one, without padding
        length = int(text.mask[row].sum())
        embedded = model.embed(text.ids[row : row + 1, :length])
        picked = tokens[study, 0][None] * model.embedding_scale
        embeds = torch.cat([embedded[:, :1], picked, embedded[:, 1:]], dim=1)
        logits = model.language_model(inputs_embeds=embeds).logits[0]
        losses = []
        for position in range(1, length):
            label = int(text.labels[row, position])
            if label != IGNORED:
                place = position + picked.shape[1] - 1
                losses.append(float(F.cross_entropy(logits[place], torch.tensor(label)).detach()))
        means.append(np.mean(losses))
    assert len({int((labels != IGNORED).sum()) for labels in text.labels}) > 1
    assert float(output.losses["answer_loss"]) == pytest.approx(np.mean(means), rel=1e-4)


@pytest.mark.parametrize("sampling", [AdaptiveSampling(), KeepAllSampling()])
def test_logits_of_the_answers_alone_give_the_losses_and_gradients_of_all(sampling, monkeypatch):
    """The whole computation: logits everywhere, of which all but the answers' are left out."""
    model, tokenizer = build(sampling)
    model.train()
    text, images = collate_texts(tokenizer, ROWS, max_tokens=100), visual()
    shapes = []
    head = model.language_model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _head, _inputs, logits: shapes.append(logits.shape))

    def step():
        model.zero_grad()
        output = model(images, text)
        output.loss.backward()
        learned = trainable_parameters(model).items()
        return output.losses, {name: parameter.grad.clone() for name, parameter in learned}

    losses, gradients = step()
    # one more state is asked twice: whether the decoder changes its logits afterwards
    assert [shape[0] for shape in shapes] == [1, 1, int((text.labels != IGNORED).sum())]
    hook.remove()

    def everywhere(reading, text):
        logits = model.language_model(
            inputs_embeds=reading.embeds,
            attention_mask=reading.mask.long(),
            position_ids=positions(reading.mask),
        ).logits
        predicted = logits[:, reading.selection.mask.shape[1] : -1].log_softmax(dim=-1)
        labels = text.labels[:, 1:]
        chosen = predicted.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
        return chosen.masked_fill(labels == IGNORED, 0.0)

    monkeypatch.setattr("llava_ultra.model.shares_prefixes", lambda _: False)
    monkeypatch.setattr(model, "answer_log_probs", everywhere)
    expected, whole = step()
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, whole, rtol=1e-4, atol=1e-6)


def test_padding_and_company_change_no_row():
    model, tokenizer = build(KeepAllSampling())
    text = collate_texts(tokenizer, ROWS, max_tokens=100)
    images = visual()
    tokens = model.fuse(images.clip, images.sam)
    together = model.answer_log_probs(model.read(tokens, images.image_mask, text), text).sum(1)
    for row, (study, question, answer) in enumerate(ROWS):
        alone = collate_texts(tokenizer, [(0, question, answer)], max_tokens=100)
        count = int(images.image_mask[study].sum())
        single = tokens[study : study + 1, :count]
        mask = torch.ones(1, count, dtype=torch.bool)
        value = model.answer_log_probs(model.read(single, mask, alone), alone).sum(1)
        assert torch.allclose(together[row], value[0], atol=1e-4)


@pytest.mark.parametrize("images_at", [1, 3])
def test_the_images_of_a_study_stand_together_at_their_place(images_at):
    model, tokenizer = build(KeepAllSampling())
    text = dataclasses.replace(collate_texts(tokenizer, ROWS, max_tokens=100), images_at=images_at)
    images = visual()
    tokens = model.fuse(images.clip, images.sam)
    reading = model.read(tokens, images.image_mask, text)
    embedded = model.embed(text.ids)
    for row, (study, _, _) in enumerate(ROWS):
        order = [int(index) for index in reading.selection.indices[row] if index >= 0]
        assert sorted(order) == list(range(int(images.image_mask[study].sum())))
        wanted = torch.cat(
            [
                embedded[row, :images_at],
                *(tokens[study, index] * model.embedding_scale for index in order),
                embedded[row, images_at:][text.mask[row, images_at:]],
            ]
        )
        assert torch.allclose(reading.embeds[row][reading.mask[row]], wanted, atol=1e-6)


def test_a_candidate_answer_never_decides_which_image_is_read():
    model, tokenizer = build(AdaptiveSampling(inference_score="attention"))
    rows = [
        (0, "病灶是良性还是恶性?", option)
        for option in ("良性", "恶性", "左侧甲状腺见一低回声结节")
    ]
    text = collate_texts(tokenizer, rows, max_tokens=100)
    images = visual((5,))
    reading = model.read(model.fuse(images.clip, images.sam), images.image_mask, text)
    assert torch.allclose(reading.selection.probabilities, reading.selection.probabilities[:1])
    model.train()
    trained = model.read(model.fuse(images.clip, images.sam), images.image_mask, text)
    assert not torch.allclose(
        trained.selection.probabilities[0], trained.selection.probabilities[2]
    )


def test_training_moves_connector_and_adapters_and_leaves_the_base_alone():
    model, tokenizer = build()
    text, images = collate_texts(tokenizer, ROWS, max_tokens=100), visual()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2)
    model.train()
    losses = []
    for _ in range(30):
        output = model(images, text)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.losses["answer_loss"]))
    # a random, frozen output layer of norm 0.02 bounds how sure the decoder can get
    assert losses[-1] < 0.93 * losses[0]
    for name, value in model.state_dict().items():
        learns = name.startswith(("fusion.", "sampler.")) or ".lora_" in name
        assert learns != torch.equal(value, before[name]), name


def test_the_answer_depends_on_the_image():
    model, tokenizer = build()
    text = collate_texts(tokenizer, ROWS[:1], max_tokens=100)
    model.train()
    losses = [float(model(visual(seed=seed), text).losses["answer_loss"]) for seed in (1, 2)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_text_that_leaves_no_room_is_refused():
    model, tokenizer = build(KeepAllSampling())
    images = visual((32,))
    text = collate_texts(tokenizer, [(0, "请描述超声所见。" * 18, "良性")], max_tokens=256)
    with pytest.raises(ValueError, match="do not fit the context of 256"):
        model(images, text)


def test_positions_count_real_tokens():
    mask = torch.tensor([[False, True, True, False, True]])
    assert positions(mask).tolist() == [[0, 0, 1, 1, 2]]


def test_the_embedding_scale_is_that_of_the_decoder():
    config = tiny_config()
    language = tiny_language(config)
    model = LlavaUltra(config, language.model)
    weight = language.model.get_input_embeddings().weight
    assert torch.allclose(model.embedding_scale, weight.pow(2).mean().sqrt())
    assert "embedding_scale" not in model.state_dict()


def test_only_what_a_row_itself_reads_counts_against_the_context():
    """Many images beside a long text pad each other far beyond the context."""
    model, tokenizer = build(KeepAllSampling())
    images = visual((32, 1))
    rows = [(0, "请描述", "良性"), (1, "请描述超声所见。" * 18, "良性")]
    text = collate_texts(tokenizer, rows, max_tokens=256)
    padded = 32 * model.config.num_tokens + text.ids.shape[1]
    assert padded > model.config.language.context_length
    with torch.no_grad():
        together = model(images, text).losses["answer_loss"]
        alone = [
            model(visual_of(images, study), collate_texts(tokenizer, [(0, *row)], max_tokens=256))
            for study, (_, *row) in enumerate(rows)
        ]
    assert float(together) == pytest.approx(
        sum(float(output.losses["answer_loss"]) for output in alone) / 2, abs=1e-5
    )


def visual_of(batch, study):
    """One study of a batch, without its padding."""
    count = int(batch.image_mask[study].sum())
    return VisualBatch(
        clip=batch.clip[study : study + 1, :count],
        sam=batch.sam[study : study + 1, :count],
        image_mask=batch.image_mask[study : study + 1, :count],
    )
