import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava_ultra.digests.state_digest import state_digest
from llava_ultra.language.chat import encode_answer, encode_chat, encode_text
from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.parameters.schedule import cosine_rate
from llava_ultra.perturbations.gallery import GALLERY
from llava_ultra.pretrain.causal import _hints, clauses, pretrain_language
from llava_ultra.pretrain.contrastive import encode_captions, pretrain_clip
from llava_ultra.pretrain.loop import optimise, shuffled_batches
from llava_ultra.pretrain.masks import mask_loss, pretrain_sam, thin_blanks
from llava_ultra.pretrain.pretrain_config import (
    ClipPretrainConfig,
    LanguagePretrainConfig,
    SamPretrainConfig,
)
from llava_ultra.pretrain.words import bag_of_words
from llava_ultra.recognition.losses import info_nce
from llava_ultra.testing import TEXTS, tiny_config

CONFIG = tiny_config()


def pictures(count=24):
    """Bright squares left or right, with their masks and captions."""
    rng = np.random.default_rng(0)
    images, masks, captions = [], [], []
    for number in range(count):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        size = 12 if number % 2 else 28
        top, left = rng.integers(4, 32, 2)
        mask[top : top + size, left : left + size] = 255
        image[mask > 0] += 180
        images.append(image)
        masks.append(mask)
        captions.append("大结节" if size == 28 else "小结节")
    return images, masks, captions


def test_sam_learns_the_masks_and_repeats_with_its_seed():
    images, masks, _ = pictures()
    config = SamPretrainConfig(steps=60, batch_size=8, learning_rate=3e-3)
    tower, losses = pretrain_sam(images, masks, CONFIG.sam, config, target_grid=2)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    again, _ = pretrain_sam(images, masks, CONFIG.sam, config, target_grid=2)
    assert again.fingerprint == tower.fingerprint
    other, _ = pretrain_sam(
        images, masks, CONFIG.sam, config.model_copy(update={"seed": 1}), target_grid=2
    )
    assert other.fingerprint != tower.fingerprint


def test_sam_names_the_words_of_captions_where_asked_to():
    images, masks, captions = pictures()
    words = bag_of_words(train_tokenizer([*TEXTS, *captions], 400), captions)
    assert words.shape == (len(captions), 2)  # 大 and 小; every caption has 结 and 节
    assert torch.equal(words.sum(dim=1), torch.ones(len(captions)))
    config = SamPretrainConfig(steps=80, batch_size=8, learning_rate=3e-3, word_weight=1)
    _, losses = pretrain_sam(images, masks, CONFIG.sam, config, target_grid=2, words=words)
    alone = config.model_copy(update={"word_weight": 0})
    _, masks_only = pretrain_sam(images, masks, CONFIG.sam, alone, target_grid=2, words=words)
    naming = np.array(losses) - np.array(masks_only)
    assert naming[:3].mean() > 0.5  # ln 2 for a coin
    assert naming[-5:].mean() < 0.5 * naming[:3].mean()
    with pytest.raises(ValueError, match="no word tells the 2 captions apart"):
        bag_of_words(train_tokenizer(TEXTS, 400), ["肝脏", "肝脏"])


def test_sam_can_leave_out_images_without_a_lesion():
    shows = [True, False] * 8
    assert thin_blanks(shows, 1) == list(range(16))
    assert thin_blanks(shows, 0) == list(range(0, 16, 2))
    assert thin_blanks(shows, 0.25) == [0, 2, 4, 6, 7, 8, 10, 12, 14, 15]


def test_sam_refuses_levels_and_words_that_are_not_there():
    images, masks, _ = pictures(8)

    def run(**settings):
        config = SamPretrainConfig(steps=1, batch_size=4, **settings)
        return pretrain_sam(images, masks, CONFIG.sam, config, target_grid=2)

    with pytest.raises(ValueError, match="no mask holds the value 128 of mask_levels"):
        run(mask_levels=[128])
    with pytest.raises(ValueError, match="word_weight is 2 but no words are given"):
        run(word_weight=2)
    masks = [np.where(mask > 0, 128, 0).astype(np.uint8) for mask in masks]
    run(mask_levels=[128])


def test_clip_learns_to_tell_captions_apart():
    images, _, captions = pictures()
    tokenizer = train_tokenizer([*TEXTS, *captions], 400)
    config = ClipPretrainConfig(steps=80, batch_size=12, learning_rate=2e-3)
    steps = []
    tower, losses = pretrain_clip(
        images, captions, tokenizer, CONFIG.clip, config, lambda *post: steps.append(post)
    )
    assert [step for step, _, _ in steps] == list(range(1, 81))
    ids = encode_captions(tokenizer, ["大结节", "小结节"], CONFIG.clip.context_length)
    from llava_ultra.towers.pixels import to_pixels

    with torch.no_grad():
        features = tower.clip.encode_image(to_pixels(images, 32), normalize=True)
        texts = tower.clip.encode_text(ids, normalize=True)
    guesses = (features @ texts.T).argmax(1)
    truth = torch.tensor([0 if caption == "大结节" else 1 for caption in captions])
    assert (guesses == truth).float().mean() > 0.85
    assert losses[-1] < losses[0]


def test_language_learns_its_texts():
    said = [("器官?", "甲状腺"), ("病灶?", "良性"), ("请描述", "左侧甲状腺见结节")]
    config = LanguagePretrainConfig(steps=60, batch_size=6, learning_rate=1e-2, hint_tokens=8)
    language, losses = pretrain_language([said] * 4, _tokenizer([said]), CONFIG.language, config)
    assert losses[-1] < 0.5 * losses[0]
    assert not language.model.training


def test_language_learns_to_read_what_stands_where_images_will():
    """The answer to one question can only be known from the hint: what the other one says."""
    said = [
        [("性质?", nature), ("请描述", f"{organ}，{nature}")]
        for organ in ("甲状腺", "乳腺")
        for nature in ("良性", "恶性")
    ]
    tokenizer = _tokenizer(said)
    shape = CONFIG.language.model_copy(update={"hidden_size": 64, "intermediate_size": 128})
    config = LanguagePretrainConfig(steps=300, batch_size=16, learning_rate=3e-3, hint_tokens=8)
    language, _ = pretrain_language(said * 2, tokenizer, shape, config)
    blind, _ = pretrain_language(
        said * 2, tokenizer, shape, config.model_copy(update={"hint_tokens": 0})
    )
    assert _share_read(language) == 1.0
    assert _share_read(blind) <= 0.5  # never taught to look there


def _tokenizer(conversations):
    texts = (text for said in conversations for pair in said for text in pair)
    return train_tokenizer(texts, CONFIG.language.vocab_size)


def _share_read(language):
    """Share of two natures that are answered as the hint before the question says."""
    tokenizer, embed = language.tokenizer, language.model.get_input_embeddings()
    right = []
    for nature in ("良性", "恶性"):
        (start, *question), _ = encode_chat(tokenizer, [{"role": "user", "content": "性质?"}])
        ids = torch.tensor([[start, *encode_text(tokenizer, nature), *question]])
        with torch.no_grad():
            logits = language.model(inputs_embeds=embed(ids)).logits[0, -1]
        right.append(int(logits.argmax()) == encode_answer(tokenizer, nature)[0])
    return sum(right) / 2


def test_an_answer_falls_into_its_clauses():
    assert clauses("左侧见结节，大小约9毫米。提示：良性。") == [
        "左侧见结节",
        "大小约9毫米",
        "提示",
        "良性",
    ]


def test_the_loss_finds_each_images_caption_and_each_captions_image():
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]]).log_softmax(1)
    rows = -logits.log_softmax(1).diagonal().mean()
    columns = -logits.log_softmax(0).diagonal().mean()
    assert rows != columns
    assert float(info_nce(logits)) == pytest.approx(float(rows + columns) / 2)


def test_a_target_spread_over_equal_captions_would_change_nothing():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 5, generator=generator, requires_grad=True)
    captions = torch.randn(3, 5, generator=generator, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    same = (groups[:, None] == groups).float()
    target = same / same.sum(dim=1, keepdim=True)

    def spread(logits):
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    found = []
    for loss in (info_nce, spread):
        value = loss(images @ captions[groups].T)
        found.append([value, *torch.autograd.grad(value, [images, captions])])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_mask_loss_is_small_for_the_truth_and_defined_without_a_lesion():
    target = torch.zeros(2, 2, 8, 8)
    target[0, :, 2:5, 2:5] = 1
    assert mask_loss((target - 0.5) * 40, target) < 0.01
    assert torch.isfinite(mask_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)))


def test_batches_go_through_everything_before_they_repeat():
    batches = shuffled_batches(10, 4, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(batches) for _ in range(5)]).tolist()
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_the_rate_rises_and_falls():
    rates = [cosine_rate(step, 100, 0.1, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("part", ["clip", "sam"])
def test_too_few_images_and_unequal_counts_are_refused(part):
    images, masks, captions = pictures(4)

    def run(**changes):
        if part == "sam":
            given = {"masks": masks, **changes}
            pretrain_sam(images, given["masks"], CONFIG.sam, SamPretrainConfig(), target_grid=2)
        else:
            tokenizer = train_tokenizer(TEXTS, 400)
            given = {"masks": captions, **changes}
            pretrain_clip(images, given["masks"], tokenizer, CONFIG.clip, ClipPretrainConfig())

    with pytest.raises(ValueError, match="fewer than"):
        run()
    with pytest.raises(ValueError, match="give one each"):
        run(masks=masks[:2])


def test_a_mask_of_another_size_is_refused():
    images, masks, _ = pictures(2)
    with pytest.raises(ValueError, match=r"image 1 is \(64, 64\) but its mask \(32, 64\)"):
        pretrain_sam(
            images, [masks[0], masks[1][:32]], CONFIG.sam, SamPretrainConfig(), target_grid=2
        )


@pytest.mark.parametrize("own_rate", [0.0, 1.0])
def test_hints_hold_the_asked_answer_as_often_as_configured(own_rate):
    said = [("哪个器官?", "甲状腺"), ("边缘?", "光滑"), ("回声?", "低回声")]
    tokenizer = train_tokenizer([text for turn in said for text in turn], 80)
    config = LanguagePretrainConfig(hint_rate=1.0, hint_own_rate=own_rate)
    rows = [(said, turn) for turn in range(3)] * 4
    ids, mask = _hints(tokenizer, rows, 64, config, random.Random(0))
    for row, (_, turn) in enumerate(rows):
        told = tokenizer.decode(ids[row, mask[row]]).replace(" ", "")
        for other, (_, answer) in enumerate(said):
            assert (answer in told) == (other != turn or own_rate == 1), told


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_pretraining_multiplies_in_the_configured_precision(precision):
    seen = []
    layer = torch.nn.Linear(2, 1)

    def loss():
        seen.append(torch.get_float32_matmul_precision())
        return layer(torch.ones(1, 2)).square().sum()

    optimise(layer, ClipPretrainConfig(steps=2, matmul_precision=precision), loss, None)
    assert seen == [precision] * 2


def test_a_mask_level_changes_what_sam_learns():
    images, masks, _ = pictures()
    for mask in masks:
        mask[mask.nonzero()[0][0], mask.nonzero()[1][0]] = 128
    config = SamPretrainConfig(steps=2, batch_size=8, learning_rate=3e-3)
    prints = [
        pretrain_sam(
            images,
            masks,
            CONFIG.sam,
            config.model_copy(update={"mask_levels": levels}),
            target_grid=2,
        )[0].fingerprint
        for levels in ((), (128,))
    ]
    assert prints[0] != prints[1]


def test_both_towers_learn_from_standardised_and_perturbed_images():
    images, masks, captions = pictures()
    tokenizer = train_tokenizer([*TEXTS, *captions], 400)

    def train(**changes):
        views = {"perturbations": changes.pop("perturbations", ())}
        sam_config, clip_config = (
            part.model_copy(update=changes) for part in (CONFIG.sam, CONFIG.clip)
        )
        settings = {"steps": 2, "batch_size": 8, **views}
        sam, _ = pretrain_sam(
            images, masks, sam_config, SamPretrainConfig(**settings), target_grid=2
        )
        clip, _ = pretrain_clip(
            images, captions, tokenizer, clip_config, ClipPretrainConfig(**settings)
        )
        return state_digest(sam.state_dict()), state_digest(clip.state_dict())

    plain, gained, bent = train(), train(perturbations=GALLERY), train(intensity="quantile")
    assert train(perturbations=GALLERY) == gained
    for place in range(2):
        assert len({each[place] for each in (plain, gained, bent)}) == 3
