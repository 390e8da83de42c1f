"""States in front of answers: those that the decoder goes by, alone and in a batch."""

import torch

from llava_ultra.decoding.prompt_states import prompt_states, question_states
from llava_ultra.decoding.step import read_prompts
from llava_ultra.recognition.decoder_states import layer_states
from llava_ultra.testing import tiny_batch, tiny_config, tiny_language, tiny_model

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
MODEL = tiny_model(CONFIG, LANGUAGE)
WIDTH = CONFIG.language.hidden_size


def prompts(lengths=(9, 20, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(lengths), max(lengths), WIDTH, generator=generator)
    return embeds, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_a_prompt_has_the_same_states_alone_and_padded():
    embeds, mask = prompts()
    together = prompt_states(MODEL, embeds, mask)
    assert together.shape == (3, 1 + CONFIG.language.num_layers, WIDTH)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        own = embeds[row : row + 1, :length]
        for layer in (1, 2):
            alone = layer_states(MODEL.language_model, own, layer)[0, -1]
            torch.testing.assert_close(together[row, layer], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[row, 0], own[0, -1])


def test_the_last_state_gives_the_logits_of_what_follows():
    embeds, mask = prompts()
    state = prompt_states(MODEL, embeds, mask, (-1,))[:, 0]
    head = MODEL.language_model.get_output_embeddings()
    with torch.no_grad():
        logits = head(state)
    torch.testing.assert_close(logits, read_prompts(MODEL, embeds, mask).logits)


def test_questions_are_read_in_groups_with_the_same_outcome():
    visual, text = tiny_batch(CONFIG, LANGUAGE.tokenizer)
    asked = text.without_answers()
    with torch.no_grad():
        tokens = MODEL.fuse_studies(visual)
    one, many = (
        question_states(MODEL, tokens, visual.image_mask, asked, max_tokens=most)
        for most in (1, 10_000)
    )
    assert one.shape == (3, 3, WIDTH)
    torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[0, -1], one[1, -1])
