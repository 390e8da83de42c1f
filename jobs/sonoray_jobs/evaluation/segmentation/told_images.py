"""States of instructions about single images: each image is read as a study of its own.

The state is the decoder's behind the last token of the instruction, in front of which it has read
the image, and what the model wrote of it where `segment.written_for` asks it something first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sonoray.study.contract import Study, Task, Turn
from sonoray_jobs.evaluation.answer_pool import answer_studies, features_of, read_studies
from sonoray_jobs.evaluation.encoding.state_reading import InstructedActor, arrange
from sonoray_jobs.evaluation.segmentation.masked_images import MaskedImage
from sonoray_jobs.training.restore import load_trained

if TYPE_CHECKING:
    from sonoray.workspace import Workspace
    from sonoray_jobs.outputs.find import Made


class ToldActor(InstructedActor):
    """An `InstructedActor` that was told what the model wrote of an image before."""

    def texts(self, instruction: str, study: Study) -> tuple[str, ...]:
        """The study's turns, question and answer, and the instruction."""
        told = [text for turn in study.turns for text in (turn.question, turn.answer)]
        return (*told, *super().texts(instruction, study))


def as_studies(images: Sequence[MaskedImage], written: Mapping[str, Turn]) -> list[Study]:
    """Each image as a study that is named by it, with what the model wrote of it."""
    return [
        Study(
            study_id=each.image.image_id,
            patient_key=each.patient_key,
            split="",
            dataset="",
            # what is known of it would be compared with what is picked
            images=(replace(each.image, labels={}),),
            turns=(written[each.image.image_id],) if each.image.image_id in written else (),
            labels=each.labels,
        )
        for each in images
    ]


def write_first(
    workspace: "Workspace",
    made: "Made",
    images: Sequence[MaskedImage],
    question: str,
    address: str | None,
) -> dict[str, Turn]:
    """Have the model answer a question about each image; by image id."""
    asked = Turn(question=question, answer="", task=Task.OPEN)
    road = made.road
    studies = as_studies(images, {each.image.image_id: asked for each in images})
    rows = answer_studies(
        studies,
        load=partial(load_trained, made.located, road.evaluate.precision),
        trained_in=road.train.precision,
        settings=road.evaluate,
        features=features_of(workspace, made),
        address=address,
    )
    return {row["study_id"]: replace(asked, answer=row["answer"]) for row in rows}


def read_told(
    workspace: "Workspace",
    made: "Made",
    images: Sequence[MaskedImage],
    written: Mapping[str, Turn],
    address: str | None,
) -> npt.NDArray[np.float32]:
    """States (N, I, D) of the instructions of `segment` about N images."""
    settings = made.road.segment
    studies = as_studies(images, written)
    rows = read_studies(
        workspace,
        made,
        studies,
        actor=ToldActor,
        given={
            "instructions": [each.text for each in settings.instructions],
            "names_site": made.road.train.site_cue,
            "layers": (settings.layer,),
        },
        address=address,
        what="read images",
    )
    states, _ = arrange(rows, studies, len(settings.instructions))
    found: npt.NDArray[np.float32] = states[:, :, 0]
    return found
