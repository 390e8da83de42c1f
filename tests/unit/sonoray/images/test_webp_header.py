import io

import numpy as np
import pytest
from PIL import Image

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.images.webp_header import check_webp, is_webp, read_webp_header

ACCEPTED = ImageLimits(formats=("PNG", "WEBP"))


def saved(width, height, *, channels=3, form="WEBP", **options):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(16, 40), (257, 33), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"quality": 60}, {"channels": 4, "quality": 60}, {"channels": 4}],
)
def test_the_size_is_what_pillow_finds(size, options):
    data = saved(*size, **options)
    header = read_webp_header(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (header.width, header.height) == image.size == size
    assert not header.is_animated


def test_an_animation_says_so_and_is_refused():
    frames = [Image.fromarray(np.full((20, 30), level, np.uint8)) for level in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    header = read_webp_header(buffer.getvalue())
    assert (header.width, header.height, header.is_animated) == (30, 20, True)
    with pytest.raises(RejectedImageError, match=r"^multi_frame: an animation"):
        check_webp(buffer.getvalue(), ACCEPTED)


def test_a_canvas_above_the_limit_is_refused_by_its_header():
    """The flags and the canvas of `VP8X` are all that is changed; no plugin gets to see it."""
    data = bytearray(saved(40, 40, channels=4, quality=60))
    assert data[12:16] == b"VP8X"
    data[24:30] = (9_999).to_bytes(3, "little") * 2
    with pytest.raises(RejectedImageError, match=r"^too_many_pixels: 10000 x 10000"):
        check_webp(bytes(data), ACCEPTED)


@pytest.mark.parametrize("length", [12, 29])
def test_a_file_cut_in_its_header_is_unreadable(length):
    data = saved(20, 20)[:length]
    assert is_webp(data)
    with pytest.raises(RejectedImageError, match=r"^unreadable: .* no whole WebP header"):
        check_webp(data, ACCEPTED)


def test_a_container_of_another_chunk_is_unreadable():
    data = bytearray(saved(20, 20))
    data[12:16] = b"JUNK"
    with pytest.raises(RejectedImageError, match="no image chunk"):
        check_webp(bytes(data), ACCEPTED)


def test_other_files_pass():
    data = saved(20, 20, form="PNG")
    assert not is_webp(data)
    check_webp(data, ACCEPTED)
    check_webp(saved(20, 20), ACCEPTED)
