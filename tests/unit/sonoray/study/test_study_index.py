import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sonoray.errors import DataError
from sonoray.study import study_index
from sonoray.study.contract import Study, StudyImage, Turn, iter_studies, write_studies
from sonoray.study.study_index import StudyReader, index_studies

NUM_STUDIES = 300
ROWS_PER_FILE = 140
"""Two row groups and a part of a file."""


def make(number: int) -> Study:
    """Every seventh has no image, every eleventh no text, every fifth is not for training."""
    images = 0 if number % 7 == 0 else number % 3 + 1
    return Study(
        study_id=f"{number * 7919 % 1009:04d}-{number}",  # no order of the table
        patient_key="p",
        split="test" if number % 5 == 0 else "train",
        dataset="d",
        images=tuple(
            StudyImage(image_id=f"{number}-{place}", uri="", width=8, height=8)
            for place in range(images)
        ),
        turns=() if number % 11 == 0 else (Turn(question=f"问{number}", answer="答"),),
        labels={"organ": "liver" if number % 2 else "breast", "site": str(number % 4)},
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    studies = [make(number) for number in range(NUM_STUDIES)]
    studies = [study for study in studies if study.images or study.turns]
    write_studies(folder, studies, rows_per_file=ROWS_PER_FILE)
    return folder


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("only", [{}, {"organ": "liver"}, {"organ": "breast", "site": "2"}])
def test_the_index_holds_what_the_table_yields_in_the_order_of_ids(dataset, split, only):
    expected = list(iter_studies(dataset, split=split, only=only))
    index = index_studies(dataset, split=split, only=only)
    assert StudyReader(dataset, index).read(range(len(index))) == sorted(
        expected, key=lambda study: study.study_id
    )
    assert len(index) == len(expected) > 0
    images = [len(study.images) for study in expected]
    assert index.images_per_study == pytest.approx(np.mean(images))
    first = index_studies(dataset, split=split, only=only, most=5)
    assert {study.study_id for study in StudyReader(dataset, first).read(range(5))} == {
        study.study_id for study in expected[:5]
    }


def test_studies_are_read_in_any_order_and_more_than_once(dataset):
    index = index_studies(dataset, split="train", only={})
    reader = StudyReader(dataset, index)
    whole = reader.read(range(len(index)))
    positions = np.random.default_rng(0).integers(len(index), size=400)
    assert reader.read(positions) == [whole[position] for position in positions]


def test_labels_that_nobody_has_find_nobody(dataset):
    index = index_studies(dataset, split="train", only={"organ": "kidney"})
    assert len(index) == index.images_per_study == 0
    assert len(index_studies(dataset, split="train", only={"new": "1"})) == 0
    with pytest.raises(DataError, match="has no studies"):
        index_studies(dataset / "images", split="train", only={})


def test_a_study_is_held_in_four_bytes(tmp_path):
    folder = tmp_path
    many = 3000
    write_studies(folder, [make(5 * number + 1) for number in range(many)], rows_per_file=1000)
    tracemalloc.start()
    try:
        index = index_studies(folder, split="train", only={})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) > many / 2
    assert index.rows.nbytes == 4 * len(index)
    assert held < 4 * len(index) + 20_000


def test_a_reader_opens_and_decodes_no_more_than_it_keeps(dataset, monkeypatch):
    def counted(calls: list[int], function: Callable) -> Callable:
        def call(*args, **kwargs):
            calls.append(1)
            return function(*args, **kwargs)

        return call

    decoded: list[int] = []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", counted(decoded, pq.ParquetFile.read_row_group)
    )
    index = index_studies(dataset, split="train", only={})
    reader = StudyReader(dataset, index)
    for _ in range(3):
        reader.read(range(len(index)))
    assert len(decoded) == 5  # 128 + 12, 128 + 12 and what is left
    monkeypatch.setattr(study_index, "_GROUPS_KEPT", 1)
    reader = StudyReader(dataset, index)
    reader.read(range(len(index)))
    assert len(decoded) > 2 * 5
