"""The segmenter beside segment_anything's own predictor on the same weights."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from llava_ultra.segmentation.segmenter import Prompt, Segmenter, SegmenterShape, to_image
from llava_ultra.testing import tiny_config
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images

GREY = 63.75
"""Mean and deviation of B-mode pixels, of 255."""


@pytest.fixture(scope="module")
def tower():
    """A tiny SAM whose 4 x 4 grid is cached as 2 x 2 tokens."""
    torch.manual_seed(0)
    return SamTower(tiny_config().sam, target_grid=2).eval()


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(1)
    shape = SegmenterShape(
        settings=SegmentationConfig(width=8, heads=1, hidden=8),
        image_size=64,
        sam_grid=4,
        clip_grid=2,
        channels=32,
        state_width=5,
    )
    made = Segmenter(shape).eval()
    with torch.no_grad():  # SAM has no projection: here it changes nothing
        made.project.weight.copy_(torch.eye(8)[..., None, None])
        made.project.bias.zero_()
    return made


@pytest.fixture(scope="module")
def predictor(tower, segmenter):
    sam = Sam(
        image_encoder=tower.encoder,
        prompt_encoder=segmenter.prompt_encoder,
        mask_decoder=segmenter.mask_decoder,
        pixel_mean=[GREY] * 3,
        pixel_std=[GREY] * 3,
    )
    return SamPredictor(sam.eval())


@torch.no_grad()
@pytest.mark.parametrize("given", ["box", "point", "nothing"])
def test_images_together_are_decoded_as_sam_decodes_them_one_by_one(
    tower, segmenter, predictor, given
):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    boxes = np.array([[3, 4, 40, 50], [0, 0, 20, 9], [11, 30, 60, 63]], np.float32)
    points = boxes[:, :2] + 7
    prompt = {
        "box": Prompt(boxes=torch.from_numpy(boxes)),
        "point": Prompt(points=torch.from_numpy(points)),
        "nothing": Prompt(),
    }[given]
    logits, quality = segmenter(encode_images(tower, images, "cpu"), prompt)
    ours = to_image(logits, 64, 64, 64)
    for number, image in enumerate(images):
        predictor.set_image(image)
        asked = {
            "box": {"box": boxes[number]},
            "point": {"point_coords": points[number, None], "point_labels": np.array([1])},
            "nothing": {},
        }[given]
        theirs, score, low = predictor.predict(**asked, multimask_output=False, return_logits=True)
        np.testing.assert_allclose(ours[number].numpy(), theirs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits[number].numpy(), low[0], rtol=1e-4, atol=1e-5)
        assert float(quality[number]) == pytest.approx(float(score[0]), abs=1e-5)


def test_a_mask_is_brought_to_its_image_as_sam_brings_it(predictor):
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    for height, width in ((30, 50), (101, 77), (64, 64)):
        side = 64 / max(height, width)
        shown = (round(height * side), round(width * side))
        theirs = predictor.model.postprocess_masks(logits[:, None], shown, (height, width))[:, 0]
        torch.testing.assert_close(to_image(logits, 64, height, width), theirs)


@torch.no_grad()
def test_words_are_tokens_behind_those_of_a_box(segmenter):
    states, boxes = torch.randn(2, 5), torch.tensor([[1.0, 2, 30, 40]] * 2)
    words = segmenter.tokens_of(Prompt(states=states), 2)
    assert words.shape == (2, 2, 8)
    both = segmenter.tokens_of(Prompt(states=states, boxes=boxes), 2)
    assert both.shape == (2, 4, 8)
    torch.testing.assert_close(both[:, 2:], words)
    assert segmenter.tokens_of(Prompt(), 2).shape == (2, 0, 8)
    features = torch.randn(2, 4, 32)
    one, _ = segmenter(features, Prompt(states=states))
    other, _ = segmenter(features, Prompt(states=states.flip(0)))
    assert not torch.allclose(one, other)


def test_a_segmenter_comes_back_as_it_was(segmenter, tmp_path):
    segmenter.save(tmp_path, run="phantom-1")
    again = Segmenter.load(tmp_path)
    assert again.shape == segmenter.shape
    features, prompt = torch.randn(2, 4, 32), Prompt(states=torch.randn(2, 5))
    with torch.no_grad():
        torch.testing.assert_close(again(features, prompt), segmenter(features, prompt))
    (tmp_path / "segmenter.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no segmenter"):
        Segmenter.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": ["words", "scribbles"]}, "scribbles"),
        ({"prompts": ["words", "words"]}, "repeat one"),
        ({"width": 12}, "multiple of 8"),
        ({"width": 16, "heads": 16}, "twice segment.heads 16"),
        ({"instructions": [{"text": "a"}, {"text": "a", "level": 3}]}, "repeat one"),
        ({"instructions": []}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SegmentationConfig.model_validate(values)
