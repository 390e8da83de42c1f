"""What a model reads of studies for recognition, kept: the Ray Data actor, and the file of vectors.

A study's vectors do not depend on the classes that it is held against. So they are a stage of their
own, a pass of the decoder for each study: another bank, other words for a class or another pooling
then take products of vectors (`sonoray_jobs.evaluation.recognition.class_scoring`).

Axes: N studies, D width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.answer import pack_studies
from sonoray_jobs.evaluation.answer_pool import answer_rows
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig

Load = Callable[[], tuple[LlavaUltra, Language]]
"""Returns a trained model and its language side."""

_FILE = "states.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStates:
    """Vectors of length 1 of some studies."""

    study_ids: tuple[str, ...]
    globals_: npt.NDArray[np.float32]
    """(N, D)."""
    locals_: npt.NDArray[np.float32]
    """(N, D)."""

    def write(self, folder: Path) -> None:
        """Write them into a stage's folder; they tell of patients and stay in the workspace."""
        np.savez(
            folder / _FILE,
            study_ids=np.array(self.study_ids),
            globals=self.globals_,
            locals=self.locals_,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read them."""
        with np.load(folder / _FILE) as found:
            return cls(
                study_ids=tuple(map(str, found["study_ids"])),
                globals_=found["globals"],
                locals_=found["locals"],
            )


class StateActor:
    """One model in one process: studies in, their vectors out."""

    def __init__(
        self, load: Load, settings: "EvaluateConfig", features: FeatureSource, device: str
    ) -> None:
        """Load the model.

        Args:
            load: returns it.
            settings: not looked at: no question is asked.
            features: where the images' features come from.
            device: where the model runs.
        """
        del settings
        self._model, language = load()
        self._model.fix()
        self._model.to(device)
        self._tokenizer = language.tokenizer
        self._device = device
        self._features = FeatureReader(features)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Read a batch of study rows."""
        import torch

        from llava_ultra.batch import collate_features
        from llava_ultra.decoding.class_scores import read_studies

        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        visual = collate_features(self._features.read_studies([study.images for study in studies]))
        visual = visual.to(self._device)
        with torch.no_grad():
            side = read_studies(
                self._model,
                self._tokenizer,
                self._model.fuse_studies(visual),
                visual.image_mask,
                [study.study_id for study in studies],
            )
        return {
            "study_id": [study.study_id for study in studies],
            "globals": [row.tobytes() for row in side.globals_.float().cpu().numpy()],
            "locals": [row.tobytes() for row in side.locals_.float().cpu().numpy()],
        }


def read_states(
    studies: Sequence[Study],
    *,
    load: Load,
    trained_in: Precision,
    settings: "EvaluateConfig",
    features: FeatureSource,
    address: str | None,
) -> StudyStates:
    """Read some studies.

    Args:
        studies: with images; texts are not looked at.
        load: returns the model; called once in each actor.
        trained_in: the precision that the model was trained in.
        settings: the room of the actors.
        features: where the images' features come from.
        address: the cluster, as for every job.

    Raises:
        ConfigError: a node lacks the precision.
        DataError: a study did not come back.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    rows = answer_rows(
        pack_studies(list(studies)),
        num_answers=len(studies),
        actor=StateActor,
        given={"load": load},
        trained_in=trained_in,
        settings=settings,
        features=features,
        address=address,
        what="read studies",
    )
    found = {row["study_id"]: (row["globals"], row["locals"]) for row in rows}
    ids = tuple(study.study_id for study in studies)
    vectors = [
        np.stack([np.frombuffer(found[study_id][side], np.float32) for study_id in ids])
        for side in (0, 1)
    ]
    return StudyStates(study_ids=ids, globals_=vectors[0], locals_=vectors[1])
