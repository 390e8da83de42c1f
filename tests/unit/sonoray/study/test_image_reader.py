import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.study.contract import StudyImage
from sonoray.study.image_reader import ImageReader
from sonoray.study.image_table import ImageTableWriter, PreparedImage

COUNT = 520
"""Of more than one file, and of more row groups than a reader keeps."""


def pixels(number: int) -> np.ndarray:
    return np.full((16, 18), number % 256, dtype=np.uint8) + np.arange(18, dtype=np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StudyImage]]:
    folder = tmp_path_factory.mktemp("dataset")
    table = ImageTableWriter(folder)
    images = [
        table.add(
            PreparedImage(
                image=StudyImage(image_id=f"i{number}", uri="", width=18, height=16),
                png=encode_png(pixels(number)),
                mask_png=None,
                perceptual_hash=None,
            )
        )
        for number in range(COUNT)
    ]
    table.close()
    return folder, images


def test_every_image_is_found_in_any_order(dataset):
    folder, images = dataset
    assert len({image.uri for image in images}) == 2
    reader = ImageReader(folder)
    for number in np.random.default_rng(0).permutation(COUNT):
        assert np.array_equal(reader.read(images[number]), pixels(int(number)))


def test_what_the_table_lacks_is_named(dataset):
    folder, images = dataset
    reader = ImageReader(folder)
    with pytest.raises(DataError, match=r"part-00000.parquet' lacks image 'i519'; ingest"):
        reader.read(dataclasses.replace(images[519], uri=images[0].uri))
    with pytest.raises(DataError, match=r"part-9.parquet' is missing; ingest"):
        reader.read(dataclasses.replace(images[0], uri="images/part-9.parquet"))
