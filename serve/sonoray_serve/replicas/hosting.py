"""Loading what a replica of several models holds beside its first one."""

from pathlib import Path
from typing import TYPE_CHECKING

from llava_ultra.parameters.precision_names import AnswerPrecision
from sonoray_serve.replicas.loading import ModelSource, load_part

if TYPE_CHECKING:
    from llava_ultra.export.encoder import StudyEncoder
    from llava_ultra.export.hosted import Hosted, HostedModels


def load_hosted(source: ModelSource) -> tuple["HostedModels", str]:
    """Load what an engine of several models needs, its first model; see `load_model`."""
    from llava_ultra.export.hosted import HostedModels

    return load_part(source, HostedModels)


def read_hosted(source: ModelSource, hosted: "HostedModels") -> "Hosted":
    """Read a further model; see `load_model`.

    Raises:
        CheckpointError: as there, or it shares too little with the first one.
        TrackingError: MLflow does not answer or does not know the model.
    """
    return load_part(source, lambda folder, *_: hosted.read(folder))[0]


def read_encoder(source: ModelSource, first: "StudyEncoder") -> "StudyEncoder":
    """Read what a further model has beside the towers of the first; see `read_hosted`."""
    from llava_ultra.export.encoder import load_encoder_on
    from llava_ultra.export.hosted import check_shared
    from llava_ultra.export.manifest import read_artifact_manifest

    def load(folder: Path, device: str, precision: AnswerPrecision) -> "StudyEncoder":
        digests = read_artifact_manifest(folder)["digests"]
        check_shared(folder, digests, first.manifest["digests"])
        return load_encoder_on(folder, first.towers, first.loaded, device, precision)

    return load_part(source, load)[0]
