"""The student that a model is exported with: put into its folder, and read from it.

The folder `student` of an exported model is a copy of what `sonoray distil` wrote. The manifest
holds the digest of the weights and the student's card, so that the model's own digest, which all
deployments compare, covers both.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_ultra.config import ModelConfig
from llava_ultra.digests.state_digest import check_digest
from llava_ultra.student.network import WEIGHTS, Student
from llava_ultra.student.student_card import CARD, STUDENT, StudentCard, read_card


def save_student(
    source: Path, folder: Path, *, training: str, towers: Mapping[str, str], config: ModelConfig
) -> tuple[dict[str, Any], str]:
    """Copy a student into an exported model's folder.

    Args:
        source: what `sonoray distil` wrote.
        folder: of the model.
        training: name of the training that the model is of.
        towers: fingerprints of its towers, by name.
        config: of the model.

    Returns:
        Its card for the manifest, and the digest of its weights.

    Raises:
        ValueError: it learned from another model or reads other features.
    """
    card = read_card(source)
    student = Student.load(source)
    check_student(source, student, card, training=training, towers=towers, config=config)
    (folder / STUDENT).mkdir()
    for name in (WEIGHTS, CARD):
        shutil.copyfile(source / name, folder / STUDENT / name)
    return card.model_dump(mode="json"), student.digest


def check_student(
    folder: Path,
    student: Student,
    card: StudentCard,
    *,
    training: str,
    towers: Mapping[str, str],
    config: ModelConfig,
) -> None:
    """Refuse a student that is not this model's; arguments as of `save_student`.

    Raises:
        ValueError: it learned from another model or reads other features.
    """
    if card.teacher != training:
        raise ValueError(
            f"the student in {str(folder)!r} learned from training {card.teacher!r}, this model is "
            f"of {training!r}; run sonoray distil --run {training}"
        )
    for name, fingerprint in card.towers.items():
        if fingerprint != towers.get(name):
            raise ValueError(
                f"the student in {str(folder)!r} reads features of the {name} tower "
                f"{fingerprint[:16]}, this model has {str(towers.get(name))[:16]}; run sonoray "
                f"distil --run {training}"
            )
    channels = sum(channels for _, channels in config.tower_shapes.values())
    features = 2 * channels  # mean and maximum of each
    if student.shape.features != features:
        raise ValueError(
            f"the student in {str(folder)!r} reads {student.shape.features} features of an image, "
            f"this model's towers give {features}; run sonoray distil --run {training}"
        )


def load_student(folder: Path, manifest: Mapping[str, Any]) -> Student | None:
    """Load an exported model's student; None where it has none.

    Args:
        folder: the exported model.
        manifest: its manifest.

    Raises:
        ValueError: it is damaged, or another one than the manifest names.
    """
    told = manifest.get(STUDENT)
    if told is None:
        return None
    card = StudentCard.model_validate(told)
    student = Student.load(folder / STUDENT)
    expected = manifest["digests"].get(STUDENT, "")
    check_digest(str(folder / STUDENT), found=student.digest, expected=expected)
    if read_card(folder / STUDENT) != card or student.shape.topics != card.topics:
        raise ValueError(
            f"{str(folder / STUDENT / CARD)!r} does not say what the manifest says of the student; "
            "restore it or export the model again"
        )
    check_student(
        folder / STUDENT,
        student,
        card,
        training=str(manifest["provenance"].get("training", "")),
        towers=manifest["digests"],
        config=ModelConfig.model_validate(manifest["config"]),
    )
    return student
