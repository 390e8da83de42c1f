import pytest

from llava_ultra.towers.tower_config import ClipConfig, SamConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClipConfig(image_size=100), "no multiple of patch_size"),
        (lambda: ClipConfig(feature_layer=7), "none of the 3 layers; use -3 to 2"),
        (lambda: ClipConfig(text_width=100), "text_width 100 is no multiple of head_width"),
        (lambda: SamConfig(width=100), "no multiple of heads"),
    ],
)
def test_shapes_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
