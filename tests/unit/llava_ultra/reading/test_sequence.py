import torch

from llava_ultra.batch import StudyFeatures, collate_features, collate_texts
from llava_ultra.config import KeepAllSampling
from llava_ultra.language.chat import IGNORED
from llava_ultra.reading.sequence import (
    answer_places,
    follows_images,
    pack_reading,
    pad_reading,
)
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

ROWS = [
    (0, "病灶是良性还是恶性?", "恶性"),
    (1, "检查的是哪个器官?", "甲状腺"),
    (0, "请描述", "左侧"),
]


def read(rows=ROWS):
    config = tiny_config(KeepAllSampling())
    language = tiny_language(config)
    model = tiny_model(config, language)
    visual = collate_features(
        [
            StudyFeatures(clip=torch.randn(n, 4, 32).numpy(), sam=torch.randn(n, 4, 32).numpy())
            for n in (3, 2)
        ]
    )
    text = collate_texts(language.tokenizer, rows, max_tokens=100)
    return model.read(model.fuse(visual.clip, visual.sam), visual.image_mask, text), text


def test_shared_images_stand_once_and_no_place_is_padding():
    """The second study has one question, which reads its images by itself."""
    reading, text = read()
    sequence = pack_reading(reading, text)
    words = int(text.mask.sum()) - len(ROWS)  # all but the first token of each
    assert sequence.prefixes.embeds.shape == (1, 1 + 3 * 4, 32)
    assert sequence.embeds.shape == (1, words + 1 + 2 * 4, 32)
    first = sequence.prefixes.embeds[0]
    torch.testing.assert_close(first, reading.embeds[0, : 1 + 3 * 4])
    alone = reading.embeds[1, reading.mask[1]]
    torch.testing.assert_close(sequence.embeds[0, -len(alone) :], alone)


def test_questions_alone_have_no_prefixes():
    reading, text = read([ROWS[0], ROWS[1]])
    sequence = pack_reading(reading, text)
    assert sequence.prefixes.packing.prefixes is None
    assert sequence.prefixes.embeds.shape == (1, 0, 32)
    assert sequence.embeds.shape == (1, int(text.mask.sum()) + (3 + 2) * 4, 32)


def test_answers_are_predicted_by_the_token_before_them():
    reading, text = read()
    assert not follows_images(text)
    rows, places = answer_places(text)
    assert len(rows) == int((text.labels != IGNORED).sum())
    embeds = reading.embeds
    for sequence in (pack_reading(reading, text), pad_reading(reading, text)):
        flat = sequence.embeds.flatten(0, 1)
        for row, place, source in zip(rows, places, sequence.sources, strict=True):
            before = embeds[row, place - 1 + reading.images.shape[1]]
            torch.testing.assert_close(flat[source], before)


def test_the_first_word_behind_the_images_can_be_an_answer():
    reading, text = read()
    labels = text.labels.clone()
    labels[:, 1] = text.ids[:, 1]
    text = type(text)(
        ids=text.ids, labels=labels, mask=text.mask, study_index=text.study_index, images_at=1
    )
    assert follows_images(text)
    sequence = pad_reading(reading, text)
    flat = sequence.embeds.flatten(0, 1)
    last = reading.embeds[0, reading.images.shape[1]]  # of the images
    at = (sequence.rows == 0) & (sequence.places == 1)
    torch.testing.assert_close(flat[sequence.sources[at]][0], last)
