import numpy as np
from PIL import Image, ImageFilter

from sonoray.images.decode import encode_png, image_id
from sonoray.stages import Stage, run_stage
from sonoray.study.contract import Study, StudyImage, write_studies
from sonoray.study.image_table import ImageTableWriter, PreparedImage
from sonoray.study.near_duplicates import perceptual_hash
from sonoray.workspace import Workspace
from sonoray_jobs.data.overlap import find_overlap


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (180, 150), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(8)), dtype=float)
    return ((blurred - blurred.min()) / np.ptp(blurred) * 255).astype(np.uint8)


def put(workspace, name, studies, **rule):
    """A dataset of studies (patient, split, pixels), as ingest leaves it."""

    def make(folder):
        table = ImageTableWriter(folder)
        rows = []
        for number, (patient, split, pixels) in enumerate(studies):
            image = StudyImage(image_id=image_id(pixels), uri="", width=1, height=1)
            stored = table.add(
                PreparedImage(
                    image=image, png=encode_png(pixels), mask_png=None,
                    perceptual_hash=perceptual_hash(pixels),
                )
            )  # fmt: skip
            rows.append(
                Study(
                    study_id=f"{name}{number}", patient_key=patient, split=split, dataset=name,
                    images=(stored,), turns=(), labels={}, provenance="",
                )
            )  # fmt: skip
        table.close()
        write_studies(folder, rows)
        return {}

    config = {"ingest": {"near_duplicate_distance": 24, **rule}}
    return run_stage(Stage(name=f"ingest-{name}", config=config), workspace.stages, make)


def test_pictures_copies_and_patients_of_two_datasets_are_found(tmp_path):
    workspace = Workspace.open(tmp_path)
    brighter = np.clip(picture(1) * 1.1, 0, 255).astype(np.uint8)
    black = np.zeros((50, 50), np.uint8)
    here = put(workspace, "a", [
        ("p0", "test", picture(0)), ("p1", "validation", picture(1)), ("p2", "train", picture(2)),
        ("p3", "test", picture(3)), ("p4", "test", black), ("p5", "test", picture(0)),
    ], near_duplicate_correlation=0.9)  # fmt: skip
    there = put(workspace, "b", [
        ("q0", "train", picture(0)), ("q1", "train", brighter), ("q2", "train", picture(2)),
        ("p3", "train", picture(9)), ("q4", "train", black),
    ])  # fmt: skip
    found = find_overlap(here, there, name="b", max_listed=2)
    rows = found.pop("rows")
    assert found == {
        "dataset": "b",
        "rule": "hashes that differ in at most 24 of 256 bits, or in at most 48 with a "
        "correlation of 0.9",
        "images": 5, "shared": 3, "exact": 2, "patients": 6, "sharing": 4, "same_patients": 1,
        "splits": {"train": 1, "validation": 1, "test": 1}, "learned": 2,
    }  # fmt: skip
    assert len(rows) == 2
    assert rows[0]["exact"]
    assert rows[0]["distance"] == 0
    assert (rows[0]["studies"], rows[0]["other_studies"]) == (["a0", "a5"], ["b0"])
    assert not rows[1]["exact"]
    assert rows[1]["distance"] > 0
    assert (rows[1]["splits"], rows[1]["other_splits"]) == (["validation"], ["train"])


def test_datasets_that_share_nothing_say_so(tmp_path):
    workspace = Workspace.open(tmp_path)
    here = put(workspace, "a", [("p0", "test", picture(0))])
    there = put(workspace, "b", [("q0", "train", picture(1))])
    found = find_overlap(here, there, name="b", max_listed=2)
    assert (found["shared"], found["sharing"], found["rows"]) == (0, 0, [])
    assert found["rule"] == "hashes that differ in at most 24 of 256 bits"  # as both were ingested
