"""A request's images as pictures: limits by position, and DICOM objects as ingest reads them."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sonoray.images.decode import encode_png
from sonoray.ingest.dicom.dicom_config import DicomConfig, FrameConfig
from sonoray.ingest.sources.dicom_archive import DicomSource
from sonoray_serve.http.testing import random_study
from sonoray_serve.pictures.study_pictures import Picture, StudyPictures, thumbnail
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import DicomReading, Limits


def decode(images: Sequence[bytes], max_images: int = 16, **limits: Any) -> list[Picture]:
    return StudyPictures(Limits(**limits)).decode(images, max_images)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels worth the name."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_study(1)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_study(1)[0]).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png_header(30_000, 30_000), Problem.IMAGE_TOO_MANY_PIXELS),
        (encode_png(np.zeros((1, 1), np.uint8)), Problem.IMAGE_TOO_SMALL),
        (jpeg()[:200], Problem.IMAGE_NOT_ACCEPTED),
        (gif(), Problem.IMAGE_NOT_ACCEPTED),
        (b"<svg/>", Problem.IMAGE_NOT_ACCEPTED),
        (b"", Problem.IMAGE_NOT_ACCEPTED),
    ],
)
def test_bad_images_are_refused_by_position(data: bytes, problem: Problem):
    good = encode_png(random_study(1)[0])
    with pytest.raises(ApiError) as caught:
        decode([good, data])
    assert caught.value.problem is problem
    assert caught.value.param == "images[1]"
    assert caught.value.__cause__ is None


def test_a_webp_still_is_a_picture_and_an_animation_is_none():
    pixels = random_study(1)[0]
    still, moving = io.BytesIO(), io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(still, "WEBP", lossless=True)
    image.save(moving, "WEBP", save_all=True, append_images=[image.rotate(180)])
    (found,) = decode([still.getvalue()])
    np.testing.assert_array_equal(found.pixels, pixels)
    with pytest.raises(ApiError) as caught:
        decode([moving.getvalue()])
    assert caught.value.problem is Problem.IMAGE_NOT_ACCEPTED


def test_pixels_of_a_study_share_one_budget():
    images = [encode_png(image) for image in random_study(3)]  # 4,800 pixels each
    assert len(decode(images, max_study_pixels=14_400)) == 3
    with pytest.raises(ApiError) as caught:
        decode(images, max_study_pixels=14_399)
    assert caught.value.problem is Problem.IMAGE_TOO_MANY_PIXELS
    assert (caught.value.param, caught.value.limit) == ("images[2]", 4_799)


@pytest.fixture(scope="module")
def objects(shared_data: Callable[[str], Path]) -> dict[str, bytes]:
    """Real ultrasound objects, stills and loops, by name."""
    paths = sorted(shared_data("us_dicom").glob("*/*.dcm"))
    return {path.name: path.read_bytes() for path in paths}


READING = DicomReading(dicom=DicomConfig(frames=FrameConfig(max_frames=3)))


def test_an_object_gives_the_pictures_that_ingest_makes_of_it(
    objects: dict[str, bytes], tmp_path: Path
):
    from sonoray.privacy.deidentify import DeidentifyConfig, clean_picture

    pictures = StudyPictures(Limits(), READING)
    seen = set()
    for name, data in objects.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(data)
        source = DicomSource(folder, READING.dicom)
        expected = [
            (image.frame_index, image.data, image.is_cut, study.identifiers)
            for study in source.iter_studies()
            for image in study.images
            if not image.problem and isinstance(image.data, np.ndarray)
        ]
        if not expected:
            continue
        found = pictures.decode([data], 16)
        assert [picture.frame for picture in found] == [index for index, *_ in expected]
        for picture, (_, pixels, is_cut, known) in zip(found, expected, strict=True):
            assert isinstance(pixels, np.ndarray)
            cleaned, _ = clean_picture(pixels, DeidentifyConfig(), known=known, is_cut=is_cut)
            np.testing.assert_array_equal(picture.pixels, cleaned)
        seen.add(len(found))
        if seen >= {1, 3}:
            break
    assert seen >= {1, 3}  # a still, and a loop


def test_parts_are_counted_as_the_request_has_them_and_pictures_against_the_most(
    objects: dict[str, bytes],
):
    pictures = StudyPictures(Limits(), READING)
    still = encode_png(random_study(1)[0])
    loops = []
    for data in objects.values():
        try:
            if len(pictures.decode([data], 16)) == 3:
                loops.append(data)
                break
        except ApiError:
            continue
    found = pictures.decode([still, loops[0], still], 16)
    assert [picture.part for picture in found] == [0, 1, 1, 1, 2]
    with pytest.raises(ApiError) as caught:
        pictures.decode([still, loops[0]], 3)
    assert (caught.value.problem, caught.value.limit) == (Problem.TOO_MANY_IMAGES, 3)


def test_what_is_no_picture_is_refused_by_a_fixed_text_and_a_reason(objects: dict[str, bytes]):
    with pytest.raises(ApiError) as caught:
        decode([bytes(128) + b"DICM" + b"\0" * 40])
    assert caught.value.problem is Problem.DICOM_NOT_ACCEPTED
    assert caught.value.param == "images[0]"
    assert caught.value.detail.isidentifier()
    largest = max(objects.values(), key=len)
    with pytest.raises(ApiError) as caught:
        decode([largest], max_object_bytes=len(largest) - 1)
    assert caught.value.problem is Problem.IMAGE_TOO_LARGE


def test_a_thumbnail_is_a_small_jpeg_of_the_whole_picture():
    kind, _, data = thumbnail(np.full((600, 300), 90, np.uint8)).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", (128, 256))
