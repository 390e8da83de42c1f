"""Which images have masks, and what an instruction means in each."""

from dataclasses import replace

import numpy as np
import pytest

from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from sonoray.errors import DataError
from sonoray.images.decode import encode_png
from sonoray.phantom import PhantomConfig, iter_phantom
from sonoray.study.contract import Study, StudyImage
from sonoray.study.image_table import ImageTableWriter, PreparedImage, iter_masks
from sonoray_jobs.evaluation.segmentation.masked_images import (
    NOTHING,
    check_instructions,
    check_levels,
    mask_planes,
    masked_images,
    read_grids,
    targets_of,
)

SETTINGS = SegmentationConfig.model_validate(
    {
        "instructions": [
            {"text": "分割病灶。"},
            {"text": "分割钙化。", "level": 128},
            {"text": "分割低回声病灶。", "where": {"echogenicity": "hypoechoic"}},
        ]
    }
)


@pytest.fixture(scope="module")
def studies():
    """Eight phantom patients."""
    config = PhantomConfig(num_patients=8, image_size=64, images=(2, 3))
    return [
        Study(
            study_id=raw.ref,
            patient_key=raw.patient_ref,
            split="train",
            dataset="phantom",
            images=tuple(
                StudyImage(image_id=image.ref, uri="", width=64, height=64, labels=image.labels)
                for image in raw.images
            ),
            turns=tuple(raw.turns),
            labels=raw.labels,
        )
        for raw in iter_phantom(config)
    ]


@pytest.fixture(scope="module")
def dataset(studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    config = PhantomConfig(num_patients=8, image_size=64, images=(2, 3))
    pictures = {image.ref: image for raw in iter_phantom(config) for image in raw.images}
    table = ImageTableWriter(folder)
    for image in (each for study in studies for each in study.images):
        raw = pictures[image.image_id]
        table.add(
            PreparedImage(
                image=image,
                png=encode_png(raw.data),
                mask_png=encode_png(raw.mask),
                perceptual_hash=None,
            )
        )
    table.close()
    return folder


def test_every_image_with_a_mask_is_there_once_with_its_labels(dataset, studies):
    found = masked_images(dataset, [*studies, studies[0]])
    assert len(found) == sum(len(study.images) for study in studies)
    assert found[0].study_id == studies[0].study_id
    assert found[0].labels["organ"] == studies[0].labels["organ"]
    spacing = float(studies[0].images[0].labels["mm_per_pixel"])
    assert found[0].spacing_mm == (spacing, spacing)
    assert masked_images(dataset, studies, 3) == found[:3]


def test_an_instruction_means_a_mask_a_level_of_it_or_nothing(dataset, studies):
    images = masked_images(dataset, studies)
    targets = targets_of(images, SETTINGS)
    assert set(targets[:, 0]) == {0}
    assert set(targets[:, 1]) == {1}
    for image, target in zip(images, targets[:, 2], strict=True):
        is_meant = image.labels.get("echogenicity") == "hypoechoic"
        assert target == (0 if is_meant else NOTHING)
    assert {0, NOTHING} == set(targets[:, 2])
    grids = read_grids(dataset, images, 16, SETTINGS.levels)
    masks = dict(iter_masks(dataset, {each.image.image_id for each in images}))
    assert len(masks) == len(images)
    for image, grid in zip(images, grids, strict=True):
        planes = mask_planes(masks[image.image.image_id], SETTINGS.levels)
        shares = planes.reshape(2, 16, 4, 16, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(grid / 255, shares, atol=0.3)  # bilinear, not a mean
        assert (grid[1] <= grid[0]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"where": {"echogenicity": "black"}}, "echogenicity is .*hypoechoic.*; correct where"),
        ({"where": {"colour": "red"}}, "no image has this label"),
    ],
)
def test_labels_that_no_image_has_are_refused(dataset, studies, values, message):
    settings = SegmentationConfig.model_validate({"instructions": [{"text": "x", **values}]})
    with pytest.raises(DataError, match=message):
        check_instructions(settings, masked_images(dataset, studies))


def test_mask_values_that_no_mask_holds_are_refused(dataset, studies):
    images = masked_images(dataset, studies)
    check_levels(dataset, images, SETTINGS)
    settings = SegmentationConfig.model_validate({"instructions": [{"text": "x", "level": 7}]})
    with pytest.raises(DataError, match=r"no training mask holds the value 7 .* 0, 128, 255"):
        check_levels(dataset, images, settings)


def test_millimetres_need_a_spacing(dataset, studies):
    settings = SETTINGS.model_copy(update={"unit": "mm"})
    images = masked_images(dataset, studies)
    check_instructions(settings, images)
    without = [*images[1:], replace(images[0], labels={**images[0].labels, "mm_per_pixel": ""})]
    with pytest.raises(DataError, match=f"1 of {len(images)} images have no spacing"):
        check_instructions(settings, without)


def test_a_dataset_without_masks_is_refused(tmp_path, dataset, studies):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "images").mkdir()
    for path in (dataset / "images").glob("*.parquet"):
        table = pq.read_table(path)
        blank = pa.nulls(len(table), pa.binary())
        place = table.schema.get_field_index("mask_png")
        pq.write_table(table.set_column(place, "mask_png", blank), tmp_path / "images" / path.name)
    with pytest.raises(DataError, match="has a mask; ingest it with masks"):
        masked_images(tmp_path, studies)
