import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from sonoray.errors import DataError
from sonoray.images.decode import encode_png, image_id
from sonoray.stages import Stage, run_stage
from sonoray.study.contract import Study, StudyImage, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray.study.near_duplicates import perceptual_hash
from sonoray.workspace import Workspace
from sonoray_jobs.data.leakage import check_unseen


def picture(seed):
    """A speckled picture, (180, 150)."""
    noise = np.random.default_rng(seed).integers(0, 256, (180, 150), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(8)), dtype=float)
    stretched = (blurred - blurred.min()) / np.ptp(blurred) * 200 + noise / 255 * 40
    return stretched.astype(np.uint8)


def as_jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def put(workspace, name, studies, distance=24):
    """A dataset of studies (patient, split, pixels), as ingest leaves it."""

    def make(folder):
        table = ImageTableWriter(folder)
        rows = []
        for number, (patient, split, pixels) in enumerate(studies):
            height, width = pixels.shape
            image = table.add(
                PreparedImage(
                    image=StudyImage(image_id=image_id(pixels), uri="", width=width, height=height),
                    png=encode_png(pixels),
                    mask_png=None,
                    perceptual_hash=perceptual_hash(pixels),
                )
            )
            study_id = f"{name}-{number}"
            rows.append(
                Study(
                    study_id=study_id, patient_key=patient, split=split, dataset=name,
                    images=(image,), turns=(), labels={}, provenance="",
                )
            )  # fmt: skip
        table.close()
        write_studies(folder, rows)
        return {}

    config = {"ingest": {"near_duplicate_distance": distance}, "number": len(studies)}
    output = run_stage(Stage(name=f"ingest-{name}", config=config), workspace.stages, make)
    workspace.point_dataset(name, output)


@pytest.fixture
def workspace(tmp_path):
    """One whose dataset `learned` has 20 training patients and one of each other split."""
    found = Workspace.open(tmp_path)
    studies = [(f"p{seed}", "train", picture(seed)) for seed in range(20)]
    studies += [("v", "validation", picture(100)), ("t", "test", picture(101))]
    put(found, "learned", studies)
    return found


def refused(workspace):
    with pytest.raises(DataError, match="from which the towers learned") as caught:
        check_unseen(workspace, learned="learned", judged="judged")
    return str(caught.value)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("copy", [np.copy, as_jpeg])
def test_a_judged_copy_of_a_training_picture_is_refused(workspace, split, copy):
    studies = [("q0", split, picture(50)), ("q1", split, copy(picture(19)))]
    put(workspace, "judged", studies)
    assert "1 validation or test studies of 'judged' (first 'judged-1')" in refused(workspace)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_judged_training_patient_is_refused_whatever_his_pictures(workspace, split):
    put(workspace, "judged", [("q0", "train", picture(50)), ("p7", split, picture(51))])
    assert "(first 'judged-1')" in refused(workspace)


def test_who_is_trained_in_both_or_judged_in_both_passes(workspace):
    studies = [
        ("p3", "train", picture(3)),
        ("q0", "train", as_jpeg(picture(4))),
        ("v", "validation", picture(100)),
        ("t", "test", as_jpeg(picture(101))),
        ("q1", "test", picture(52)),
    ]
    put(workspace, "judged", studies)
    check_unseen(workspace, learned="learned", judged="judged")
    put(workspace, "judged", [*studies, ("q2", "test", as_jpeg(picture(4)))])
    assert "1 validation or test studies" in refused(workspace)


def test_a_copy_of_a_copy_is_refused(workspace):
    """Two judged pictures: one near to a training picture, the other to the first alone."""
    near = picture(5).copy()
    near[40:80] = np.roll(near[40:80], 12, axis=1)
    far = near.copy()
    far[90:130] = np.roll(far[90:130], 12, axis=1)

    def distance(one, other):
        a, b = (np.frombuffer(perceptual_hash(each), np.uint8) for each in (one, other))
        return int(np.bitwise_count(a ^ b).sum())

    step = max(distance(picture(5), near), distance(near, far))
    assert distance(picture(5), far) > step
    put(workspace, "judged", [("q0", "test", near), ("q1", "test", far)], distance=step)
    assert "2 validation or test studies" in refused(workspace)


@pytest.mark.parametrize(("learned", "judged"), [(24, 0), (0, 24)])
def test_the_larger_of_the_two_distances_counts(tmp_path, learned, judged):
    workspace = Workspace.open(tmp_path)
    put(workspace, "learned", [("p", "train", picture(19))], distance=learned)
    put(workspace, "judged", [("q", "test", as_jpeg(picture(19)))], distance=judged)
    assert refused(workspace)


def test_blank_frames_say_nothing_of_the_patient(tmp_path):
    workspace = Workspace.open(tmp_path)
    black = np.zeros((30, 40), np.uint8)
    put(workspace, "learned", [("p", "train", black)])
    put(workspace, "judged", [("q", "test", black), ("r", "validation", black)])
    check_unseen(workspace, learned="learned", judged="judged")
    put(workspace, "judged", [("p", "test", black)])  # the patient himself still says it
    assert "1 validation or test studies" in refused(workspace)


def test_a_table_without_hashes_must_be_made_again(workspace):
    put(workspace, "judged", [("q", "test", picture(60))])
    path = next(Path(workspace.dataset("judged").path, "images").iterdir())
    pq.write_table(pq.read_table(path).drop_columns("perceptual_hash"), path)
    with pytest.raises(DataError, match="no column perceptual_hash; ingest the data set again"):
        check_unseen(workspace, learned="learned", judged="judged")
