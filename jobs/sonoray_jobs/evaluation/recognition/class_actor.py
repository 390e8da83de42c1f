"""Class scores of studies: the Ray Data actor behind `sonoray recognize`.

An actor loads the model, reads the bank's classes once, and goes through batches of studies: their
features come from the store (or from the towers that are not stored), the decoder reads a study's
images once for all classes. A row is a study with its scores, similarity over temperature.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision, answer_precision
from llava_ultra.recognition.bank import ClassBank
from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.answer import pack_studies
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig, RecognizeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How classes are read."""

    bank: ClassBank
    settings: "RecognizeConfig"


class ClassActor:
    """One model in one process: studies in, scores of classes out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        reading: Reading,
        features: FeatureSource,
        device: str,
    ) -> None:
        """Load the model and read the classes.

        Args:
            load: returns a trained model and its language side.
            reading: the bank, and how it is read.
            features: where the images' features come from.
            device: where the model runs.
        """
        from llava_ultra.decoding.class_scores import read_classes

        self._model, language = load()
        self._model.fix()
        self._model.to(device)
        self._tokenizer = language.tokenizer
        self._device = device
        self._features = FeatureReader(features)
        settings = reading.settings
        self._classes = read_classes(
            self._model,
            self._tokenizer,
            reading.bank,
            against=settings.against,
            pooling=None if settings.pooling == "trained" else settings.pooling,
            readout=None if settings.readout == "trained" else settings.readout,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Score a batch of study rows."""
        import torch

        from llava_ultra.batch import collate_features
        from llava_ultra.decoding.class_scores import score_classes

        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        visual = collate_features(self._features.read_studies([study.images for study in studies]))
        visual = visual.to(self._device)
        with torch.no_grad():
            scores = score_classes(
                self._model,
                self._tokenizer,
                self._classes,
                self._model.fuse_studies(visual),
                visual.image_mask,
                [study.study_id for study in studies],
            )
        return {
            "study_id": [study.study_id for study in studies],
            "scores": [json.dumps(row) for row in scores.double().tolist()],
        }


def score_studies(
    studies: Sequence[Study],
    *,
    load: Callable[[], tuple[LlavaUltra, Language]],
    trained_in: Precision,
    reading: Reading,
    settings: "EvaluateConfig",
    features: FeatureSource,
    address: str | None,
) -> dict[str, list[float]]:
    """Score some studies.

    Args:
        studies: with images; texts are not looked at.
        load: returns the model; called once in each actor.
        trained_in: the precision that the model was trained in.
        reading: the bank, and how it is read.
        settings: the room of the actors.
        features: where the images' features come from.
        address: the cluster, as for every job.

    Returns:
        Scores (C,) by study id.

    Raises:
        ConfigError: a node lacks the precision.
        DataError: a study did not come back.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    import ray

    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus

    num_batches = max(1, len(studies) // settings.batch_size)
    num_actors = min(settings.actors, num_batches)
    with ray_session(address):
        require_cpus(
            num_actors * settings.actor_cpus,
            "recognition",
            num_gpus=num_actors * settings.actor_gpus,
        )
        asked = {"evaluate.precision": str(answer_precision(settings.precision, trained_in))}
        require_precisions(asked, uses_gpus=settings.actor_gpus > 0)
        rows = ray.data.from_items(
            pack_studies(list(studies)), override_num_blocks=num_batches
        ).map_batches(
            ClassActor,
            fn_constructor_kwargs={
                "load": load,
                "reading": reading,
                "features": features,
                "device": "cuda" if settings.actor_gpus else "cpu",
            },
            batch_size=settings.batch_size,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=settings.actor_cpus,
            num_gpus=settings.actor_gpus,
        )
        found = {
            row["study_id"]: json.loads(row["scores"])
            for row in progress(rows.iter_rows(), "recognise", total=len(studies))
        }
    if len(found) != len(studies):
        raise DataError(f"{len(found)} of {len(studies)} studies came back; run the command again")
    return found
