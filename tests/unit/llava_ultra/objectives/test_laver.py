"""LaVer against a restatement in double precision, its teacher, and what it sees."""

import numpy as np
import pytest
import torch

from llava_ultra.config import FirstSampling, ModelConfig
from llava_ultra.model import kept_buffers, trainable_parameters
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.laver import LaverObjective, draw_masks
from llava_ultra.objectives.laver_head import gram_loss, masked_loss
from llava_ultra.testing import tiny_batch, tiny_config, tiny_language, tiny_model


def build(settings=None, *others):
    objectives = (*others, settings or LaverObjective())
    config = ModelConfig.model_validate(
        {
            **tiny_config(FirstSampling(num_selected=2)).model_dump(),
            "objectives": [each.model_dump() for each in objectives],
        }
    )
    language = tiny_language(config)
    model = tiny_model(config, language).train()
    return model, tiny_batch(config, language.tokenizer)


def softmax(values):
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def drawn(seed=0, studies=3, tokens=6, outputs=5):
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(size=(2, studies, tokens, outputs))
    real = np.arange(tokens) < np.array([[6], [4], [5]])
    hidden = real & (generator.random(real.shape) < 0.5)
    hidden[:, 1] = True
    return student, teacher, real, hidden


def test_the_reconstruction_is_this_sum_in_double_precision():
    student, teacher, _, hidden = drawn()
    expected = []
    for study in range(3):
        own = []
        for place in np.flatnonzero(hidden[study]):
            wanted = softmax(teacher[study, place] / 0.04)
            told = np.log(softmax(student[study, place] / 0.1))
            own.append(-float(wanted @ told))
        expected.append(np.mean(own))
    found = masked_loss(
        torch.tensor(student),
        torch.tensor(teacher),
        torch.tensor(hidden),
        student_temperature=0.1,
        teacher_temperature=0.04,
    )
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clipped", [True, False])
def test_the_gram_loss_is_this_sum_in_double_precision(clipped):
    student, teacher, real, _ = drawn()
    expected = []
    for study in range(3):
        places = np.flatnonzero(real[study])
        grams = []
        for side in (student, teacher):
            rows = side[study, places]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            grams.append(rows @ rows.T)
        differ = grams[0] - grams[1]
        expected.append(float((np.maximum(differ, 0) if clipped else differ).__pow__(2).mean()))
    found = gram_loss(
        torch.tensor(student), torch.tensor(teacher), torch.tensor(real), clipped=clipped
    )
    assert found.numpy() == pytest.approx(expected, rel=1e-5)
    far = torch.tensor(student), torch.tensor(teacher)
    noisy = far[0].clone(), far[1].clone()
    for side in noisy:
        side[~torch.tensor(real)] = 100.0  # padding bears on nothing
    assert torch.allclose(gram_loss(*noisy, torch.tensor(real), clipped=clipped), found)


def test_masks_hide_a_share_of_the_real_tokens_and_one_at_least():
    mask = torch.arange(40) < torch.tensor([40, 20, 2, 1])[:, None]
    torch.manual_seed(0)
    hidden = draw_masks(mask, 0.2)
    assert hidden.sum(dim=1).tolist() == [8, 4, 1, 1]
    assert not (hidden & ~mask).any()
    assert not torch.equal(hidden, draw_masks(mask, 0.2))


def test_the_teacher_begins_as_the_student_and_follows_it():
    settings = LaverObjective(momentum=0.75)
    model, _ = build(settings)
    head = model.heads["laver"]
    embeds = torch.randn(2, 5, 32)
    with torch.no_grad():  # tiny_model draws adapters after the head was built
        for name, parameter in model.language_model.named_parameters():
            if ".lora_" in name:
                buffer = f"teacher|language_model|{name}".replace(".", "|")
                dict(head.named_buffers())[buffer].copy_(parameter)
        arguments = model.language_model, embeds, None, -1
        before = head.student(*arguments)
        torch.testing.assert_close(head.teacher(*arguments), before)
        learned = trainable_parameters(model)
        old = {name: each.clone() for name, each in learned.items()}
        for each in learned.values():
            each.add_(0.1 * torch.randn_like(each))
        assert not torch.allclose(head.student(*arguments), before, atol=1e-3)
        torch.testing.assert_close(head.teacher(*arguments), before)
        model.after_step()
        for name, new in learned.items():
            if ".lora_" in name or "projector" in name:
                new.copy_(0.75 * old[name] + 0.25 * new)
        torch.testing.assert_close(head.teacher(*arguments), head.student(*arguments))


def test_the_centre_is_a_running_mean_of_what_the_teacher_says():
    model, inputs = build(LaverObjective(centring=0.5))
    head, told = model.heads["laver"], []
    whole = head.note

    def note(outputs, real):
        told.append(outputs[real])
        whole(outputs, real)

    head.note = note
    for _ in range(2):  # two parts of a step
        model(*inputs)
    assert not head.centre.any()
    model.after_step()
    expected = torch.cat(told).mean(dim=0) / 2
    torch.testing.assert_close(head.centre, expected)
    model.after_step()  # nothing was seen since
    torch.testing.assert_close(head.centre, expected)


def test_gradients_go_to_student_fusion_and_mask_and_none_to_the_teacher():
    model, inputs = build()
    torch.manual_seed(0)
    model(*inputs).loss.backward()
    learned = trainable_parameters(model)
    reached = {name for name, each in learned.items() if each.grad is not None and each.grad.any()}
    assert "heads.laver.mask_vector" in reached
    for part in ("fusion.", "heads.laver.projector", ".lora_B."):
        assert any(part in name for name in reached), part
    assert all(not buffer.requires_grad for buffer in kept_buffers(model).values())


def test_both_parts_count_with_their_weights():
    losses = []
    for reconstruction, alignment in ((1, 0), (0, 1), (2, 0.5)):
        torch.manual_seed(0)
        model, inputs = build(LaverObjective(reconstruction=reconstruction, alignment=alignment))
        torch.manual_seed(0)
        losses.append(float(model(*inputs).losses["laver_loss"]))
    assert min(losses) > 0
    assert losses[2] == pytest.approx(2 * losses[0] + 0.5 * losses[1], rel=1e-5)


def test_it_rests_while_the_adapters_do():
    model, inputs = build(None, AnswerObjective())
    assert "laver_loss" in model(*inputs).losses
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad = False
    assert list(model(*inputs).losses) == ["answer_loss"]


@pytest.mark.parametrize("both_ways", [True, False])
def test_image_tokens_see_those_behind_them_where_asked_to(both_ways):
    settings = LaverObjective(both_ways=both_ways, layer=1)
    model, _ = build(settings)
    head = model.heads["laver"]
    mask = torch.tensor([[True, True, True, False]])
    seen = settings._attention(mask, 1) if both_ways else None
    rows = torch.randn(1, 5, 32)
    later, padding = rows.clone(), rows.clone()
    later[0, 3], padding[0, 4] = torch.randn(32), torch.randn(32)
    with torch.no_grad():
        first, other, same = (
            head.student(model.language_model, each, seen, 1)[0, 1]
            for each in (rows, later, padding)
        )
    assert torch.allclose(first, other, atol=1e-6) is not both_ways
    torch.testing.assert_close(first, same)


def test_a_layer_that_the_decoder_lacks_is_refused():
    with pytest.raises(ValueError, match=r"laver.layer 9 is none of this decoder's 2 layers"):
        build(LaverObjective(layer=9))


def test_averages_and_centre_are_kept_and_what_a_step_remembers_is_not():
    model, _ = build()
    kept = {name.removeprefix("heads.laver.") for name in kept_buffers(model)}
    adapters = [name for name, _ in model.language_model.named_parameters() if ".lora_" in name]
    assert "centre" in kept
    assert len(kept) == 1 + len(adapters) + 6  # three layers of the head
    assert not {"seen_sum", "seen_count"} & kept
