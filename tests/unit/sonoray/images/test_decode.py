import contextlib
import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sonoray.images.decode import (
    ImageLimits,
    RejectedImageError,
    check_pixels,
    decode_file,
    decode_image,
    decode_picture,
    decode_stored,
    encode_png,
    image_id,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)


TIFF_TOO = ImageLimits(formats=("JPEG", "PNG", "BMP", "TIFF"))


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, *, depth=8, colour_type=2, pixels=b"", before=()):
    """A PNG of the given header; `before` are chunks that stand, against the rules, ahead of it."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = (*before, (b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def png_header(width, height):
    """A PNG of 65 bytes that announces a size and holds no pixels."""
    return png(width, height)


def reason(data, **limits):
    with pytest.raises(RejectedImageError) as caught:
        decode_image(data, ImageLimits(**limits))
    assert str(caught.value).startswith(caught.value.reason + ": ")
    assert "\n" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_formats_decode_to_the_same_image(kind, pixels):
    decoded = decode_image(encode(pixels, kind), TIFF_TOO)
    np.testing.assert_array_equal(decoded, pixels)
    assert image_id(decoded) == image_id(pixels)


def test_a_jpeg_decodes_close_to_its_pixels():
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    decoded = decode_image(encode(smooth, "JPEG", quality=95))
    assert decoded.shape == (48, 64)
    assert np.abs(decoded.astype(int) - smooth).max() < 8


def test_equal_channels_become_grey_and_unequal_ones_stay():
    grey_as_rgb = np.stack([GREY] * 3, axis=-1)
    assert image_id(decode_image(encode(grey_as_rgb))) == image_id(GREY)
    one_pixel_off = grey_as_rgb.copy()
    one_pixel_off[5, 5, 2] ^= 1
    assert decode_image(encode(one_pixel_off)).shape == (40, 30, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_every_eight_bit_mode_gives_uint8(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode_image(encode(Image.fromarray(COLOUR).convert(mode), kind), TIFF_TOO)
    assert decoded.dtype == np.uint8
    assert decoded.shape[:2] == (40, 30)
    assert decoded.ndim == (2 if mode in ("1", "L", "LA") else 3)


def erased(mode):
    """A grey picture of 90 whose upper half, where 230 stands, is transparent, as a file."""
    grey = np.full((40, 30), 90, np.uint8)
    grey[:20] = 230
    alpha = np.where(grey == 230, 0, 255).astype(np.uint8)
    if mode in ("L", "RGB", "P"):  # one colour is named transparent
        picture = Image.fromarray(grey).convert(mode)
        name = {"L": 230, "RGB": (230, 230, 230), "P": picture.getpixel((0, 0))}[mode]
        return encode(picture, transparency=name)
    bands = Image.fromarray(grey).convert(mode.removesuffix("A")).split()
    return encode(Image.merge(mode, (*bands, Image.fromarray(alpha))))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "L", "RGB", "P"])
def test_what_an_editor_made_transparent_is_black(mode):
    decoded = decode_picture(erased(mode))
    assert decoded.is_transparent
    assert decoded.pixels.shape == (40, 30)
    assert (decoded.pixels[:20] == 0).all()
    assert (decoded.pixels[20:] == 90).all()


def test_what_is_half_transparent_is_half_as_bright():
    colours = np.dstack([COLOUR, np.full((40, 30), 128, np.uint8)])
    decoded = decode_picture(encode(Image.fromarray(colours)))
    np.testing.assert_allclose(decoded.pixels, COLOUR * (128 / 255), atol=0.51)


def test_an_opaque_alpha_channel_changes_nothing():
    colours = np.dstack([COLOUR, np.full((40, 30), 255, np.uint8)])
    decoded = decode_picture(encode(Image.fromarray(colours)))
    assert not decoded.is_transparent
    assert image_id(decoded.pixels) == image_id(COLOUR)


def test_webp_is_laid_over_black_as_well():
    colours = np.dstack([COLOUR, np.zeros((40, 30), np.uint8)])
    colours[:20, :, 3] = 255
    data = encode(Image.fromarray(colours), "WEBP", lossless=True, exact=True)
    decoded = decode_picture(data, ImageLimits(formats=("WEBP",)))
    np.testing.assert_array_equal(decoded.pixels[:20], COLOUR[:20])
    assert not decoded.pixels[20:].any()


def test_a_picture_of_which_nothing_is_to_be_seen_is_refused_but_as_a_mask():
    data = encode(Image.fromarray(np.dstack([COLOUR, np.zeros((40, 30), np.uint8)])))
    assert reason(data) == "transparent"
    assert not decode_picture(data, may_be_empty=True).pixels.any()


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_deeper_images_are_refused_instead_of_clipped(mode):
    data = encode(Image.new(mode, (40, 40)), "TIFF")
    assert reason(data, formats=("TIFF",)) == "unsupported_mode"


@pytest.mark.parametrize("before", [(), ((b"tEXt", b"a\0b"),)], ids=["plain", "text-first"])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_per_channel_is_refused_instead_of_darkened(colour_type, channels, before):
    values = np.linspace(0, 4095, 32 * 32 * channels).astype(">u2").reshape(32, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    deep = png(32, 32, depth=16, colour_type=colour_type, pixels=rows, before=before)
    assert reason(deep) == "unsupported_mode"
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(np.uint8))
    decoded = decode_image(png(32, 32, colour_type=colour_type, pixels=rows, before=before))
    assert decoded.shape[:2] == (32, 32)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(GREY, "JPEG", quality=100, exif=exif)
    plain = encode(GREY, "JPEG", quality=100)
    np.testing.assert_array_equal(decode_image(data), np.rot90(decode_image(plain), -1))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"PatientName=Somebody", "unknown_format"),
        (encode(GREY, "GIF"), "unknown_format"),
        (encode(np.zeros((1, 1), np.uint8)), "too_small"),
        (encode(np.zeros((15, 400), np.uint8)), "too_small"),
        (encode(GREY, "JPEG")[:400], "unreadable"),
        (encode(COLOUR)[:1000], "unreadable"),
        (png_header(20, 20), "unreadable"),
        (png_header(5001, 5000), "too_many_pixels"),
        (png_header(65000, 65000), "too_many_pixels"),
        (encode(GREY, "TIFF"), "unknown_format"),
        (
            encode(
                Image.fromarray(GREY), "MPO", save_all=True, append_images=[Image.fromarray(GREY)]
            ),
            "unknown_format",
        ),
    ],
    ids=[
        "empty",
        "text",
        "gif",
        "1x1",
        "strip",
        "cut-jpeg",
        "cut-png",
        "no-pixels",
        "over",
        "bomb",
        "tiff",
        "mpo",
    ],
)
def test_what_is_no_intact_image_is_refused_with_its_reason(data, expected):
    assert reason(data) == expected


def test_a_file_of_several_images_is_refused():
    pages = [Image.fromarray(GREY)] * 2
    tiff = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert reason(tiff, formats=("TIFF",)) == "multi_frame"
    animated = encode(pages[0], "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    assert reason(animated) == "multi_frame"


def test_limits_are_the_callers():
    data = encode(GREY)
    assert reason(data, max_bytes=len(data) - 1) == "too_many_bytes"
    assert reason(data, max_pixels=1199) == "too_many_pixels"
    assert reason(data, min_side=31) == "too_small"
    assert reason(data, formats=("JPEG",)) == "unknown_format"
    assert decode_image(data, ImageLimits(max_bytes=len(data), max_pixels=1200, min_side=30)).size


def test_a_rejection_repeats_no_content_of_the_file():
    with pytest.raises(RejectedImageError) as caught:
        decode_image(b"WANG LI 1970-01-01")
    assert "WANG" not in str(caught.value)


def test_a_bomb_costs_no_memory():
    """65,000 x 65,000 RGB would be 12.7 GB; the child may grow by 20 MB at most."""
    code = """
import sys
from sonoray.images.decode import RejectedImageError, decode_image, encode_png
import numpy as np
decode_image(encode_png(np.zeros((64, 64, 3), np.uint8)))
data = sys.stdin.buffer.read()

def peak():  # KiB; not `ru_maxrss`, which starts with that of the process that started this one
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])

before = peak()
try:
    decode_image(data)
except RejectedImageError as error:
    print(error.reason, peak() - before)
"""
    for side in (6_000, 65_000):
        done = subprocess.run(
            [sys.executable, "-c", code], input=png_header(side, side), capture_output=True
        )
        code_word, grown_kib = done.stdout.decode().split()
        assert code_word == "too_many_pixels"
        assert int(grown_kib) < 20_000


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "BMP"]), st.data())
def test_damaged_files_are_refused_or_decoded_and_nothing_else(kind, data):
    encoded = bytearray(encode(COLOUR, kind))
    for position in data.draw(st.lists(st.integers(0, len(encoded) - 1), max_size=8)):
        encoded[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    with contextlib.suppress(RejectedImageError):
        assert decode_image(bytes(encoded[: cut or None])).dtype == np.uint8


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_any_wrong_byte_of_a_header_is_refused_or_decoded_and_nothing_else(kind):
    """Pillow's parsers answer these files with OSError, SyntaxError and ValueError."""
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(COLOUR, kind, **({} if kind == "BMP" else {"exif": exif}))
    refused = 0
    for position in range(200):
        for value in (0, 1, 2, 3, 64, 255):
            damaged = bytearray(encoded)
            damaged[position] = value
            try:
                decode_image(bytes(damaged))
            except RejectedImageError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_png_round_trip_keeps_pixels_and_identity(pixels):
    decoded = decode_image(encode_png(pixels))
    np.testing.assert_array_equal(decoded, pixels)
    assert image_id(decoded) == image_id(pixels)


def test_the_identity_covers_pixels_and_geometry():
    changed = GREY.copy()
    changed[0, 0] ^= 1
    ids = {image_id(GREY), image_id(changed), image_id(GREY.reshape(30, 40)), image_id(COLOUR)}
    assert len(ids) == 4
    strided = np.repeat(GREY, 2, axis=1)[:, ::2]
    assert image_id(strided) == image_id(GREY)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((40, 30), np.uint16), "unsupported_mode"),
        (np.zeros((40, 30, 4), np.uint8), "unsupported_mode"),
        (np.zeros((4, 30), np.uint8), "too_small"),
        (np.zeros((6000, 6000), np.uint8), "too_many_pixels"),
    ],
)
def test_arrays_are_held_to_the_same_contract(array, expected):
    with pytest.raises(RejectedImageError) as caught:
        check_pixels(array)
    assert caught.value.reason == expected


def test_a_good_array_passes_and_is_canonical():
    np.testing.assert_array_equal(check_pixels(np.stack([GREY] * 3, axis=-1)), GREY)
    np.testing.assert_array_equal(check_pixels(COLOUR), COLOUR)


def test_a_file_is_decoded_as_its_bytes_and_not_read_where_it_is_too_large(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(COLOUR))
    np.testing.assert_array_equal(decode_file(path), COLOUR)
    with path.open("ab") as file:
        file.truncate(6_000_000_000)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(RejectedImageError, match=r"^too_many_bytes: 6,000,000,000 bytes"):
            decode_file(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(RejectedImageError, match=r"^unreadable_file: .* \(Is a directory\)"):
        decode_file(tmp_path)


def test_what_was_stored_is_decoded_whatever_the_limits_are():
    stored = RNG.integers(0, 256, (5000, 6500), dtype=np.uint8)
    png = encode_png(stored)
    assert len(png) > ImageLimits().max_bytes
    assert stored.size > ImageLimits().max_pixels
    assert np.array_equal(decode_stored(png), stored)


def test_a_side_that_no_tower_takes_cannot_be_admitted():
    with pytest.raises(ValidationError, match="greater than or equal to 16"):
        ImageLimits(min_side=15)


def test_what_was_stored_is_a_png():
    with pytest.raises(RejectedImageError, match="unknown_format"):
        decode_stored(encode(GREY, "BMP"))
