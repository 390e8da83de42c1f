import pytest
import torch

from llava_ultra.batch import Batch, TextBatch, VisualBatch
from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling, RandomSampling
from llava_ultra.language.chat import IGNORED
from llava_ultra.steps.micro_batches import PartLimits, split_share, study_tokens
from llava_ultra.testing import tiny_config


def share(images, questions):
    """Studies of some images, each with questions of some tokens behind the images' place."""
    rows = [(study, 1 + length) for study, own in enumerate(questions) for length in own]
    longest = max(length for _, length in rows)
    mask = torch.arange(longest) < torch.tensor([length for _, length in rows])[:, None]
    counts = torch.tensor(images)
    image_mask = torch.arange(max(images)) < counts[:, None]
    features = torch.zeros(*image_mask.shape, 4, 32)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    return Batch(
        visual=VisualBatch(clip=features, sam=features, image_mask=image_mask),
        text=TextBatch(
            ids=ids,
            labels=torch.full_like(ids, IGNORED),
            mask=mask,
            study_index=torch.tensor([study for study, _ in rows]),
        ),
    )


@pytest.mark.parametrize(
    ("sampling", "readings"),
    [
        (FirstSampling(), [1, 1, 1]),
        (KeepAllSampling(), [1, 1, 1]),
        (RandomSampling(), [1, 2, 3]),
        (AdaptiveSampling(), [1, 2, 3]),
        (AdaptiveSampling(training_rule="weighted"), [3, 3, 3]),
    ],
    ids=str,
)
def test_a_study_takes_its_words_and_as_many_readings_as_its_questions_may_pick(sampling, readings):
    batch = share([1, 2, 3], [[5, 6, 7]] * 3)
    config = tiny_config(sampling)  # four tokens an image
    kept = [1, 2, 3] if isinstance(sampling, KeepAllSampling) else [1, 1, 1]
    assert study_tokens(batch, config) == [
        count * (1 + 4 * images) + 18 for count, images in zip(readings, kept, strict=True)
    ]


def test_a_share_without_limits_is_one_part():
    batch = share([1, 1, 1], [[5], [6], [7]])
    assert split_share(batch, tiny_config(), PartLimits()) == [[0, 1, 2]]


def test_parts_hold_so_many_studies():
    batch = share([1] * 5, [[5]] * 5)
    found = split_share(batch, tiny_config(), PartLimits(studies=2))
    assert found == [[0, 1], [2, 3], [4]]


def test_parts_are_filled_up_to_so_many_tokens():
    batch = share([1] * 5, [[5], [5], [30], [5], [4]])  # 10, 10, 35, 10, 9 tokens
    config = tiny_config(FirstSampling())
    assert split_share(batch, config, PartLimits(tokens=20)) == [[0, 1], [2], [3, 4]]
    assert split_share(batch, config, PartLimits(tokens=19)) == [[0], [1], [2], [3, 4]]
    assert split_share(batch, config, PartLimits(tokens=20, studies=1)) == [[0], [1], [2], [3], [4]]


def test_a_study_without_a_question_goes_with_its_neighbours():
    batch = share([1] * 5, [[], [5], [], [5], []])
    assert split_share(batch, tiny_config(), PartLimits(studies=1)) == [[0, 1], [2, 3, 4]]


def test_a_part_is_the_studies_questions_without_the_others_padding():
    batch = share([3, 1, 2], [[5], [9, 2], [4]])
    part = batch.of_studies([2, 1])
    assert part.visual.image_mask.tolist() == [[True, True], [True, False]]
    assert part.text.mask.sum(dim=1).tolist() == [10, 3, 5]
    assert part.text.study_index.tolist() == [1, 1, 0]
    assert part.text.ids.shape == (3, 10)
