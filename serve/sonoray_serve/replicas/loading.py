"""Loading the served model, and the checks that it is the right one and intact.

Each replica resolves and loads on its own, because on a cluster it may be the first on its node.
Loading hashes every part against the manifest; the manifest's own digest is the model's identity,
which vision and engine compare on every study, so that a rolling update or a moved alias never
lets one model's encoders feed another one's language model.

A replica loads its half alone: vision the towers and the fusion, the engine the decoder.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llava_ultra.parameters.precision_names import AnswerPrecision
from llava_ultra.student.student_card import STUDENT, StudentCard
from sonoray.errors import CheckpointError
from sonoray.study.prompt import PROTOCOL, ReportProtocol
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import manifest_digest, resolve_model
from sonoray.workspace import Workspace
from sonoray_serve.messages import Calibration, ModelCard

if TYPE_CHECKING:
    from llava_ultra.export.assistant import Answerer, Assistant
    from llava_ultra.export.encoder import StudyEncoder

_Part = TypeVar("_Part")

logger = logging.getLogger(__name__)

REGISTRY_SCHEME = "models:/"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Which model a replica loads, and onto what."""

    model: str
    """A folder, or an MLflow URI such as `models:/llava-ultra-phantom/3`."""
    digest: str
    """Expected sha256 (hex) of the manifest; empty for any."""
    workspace: str
    """Where models given by URI are downloaded to."""
    device: str
    """`cpu` or `cuda`."""
    precision: AnswerPrecision = "trained"
    """What it computes in."""


def describe(answerer: "Answerer", digest: str) -> ModelCard:
    """What the ingress needs to know of a model."""
    return ModelCard(
        notice=answerer.notice,
        digest=digest,
        max_images=answerer.max_images,
        context_length=answerer.context_length,
        site_cue=answerer.site_cue,
        training=answerer.training,
        protocol=ReportProtocol.model_validate(answerer.manifest["provenance"].get(PROTOCOL, {})),
        width=answerer.width,
        calibration=_calibration(answerer.manifest.get("calibration")),
        student=_student(answerer.manifest),
    )


def _student(manifest: Mapping[str, Any]) -> StudentCard | None:
    """What a manifest says of the model's student."""
    told = manifest.get(STUDENT)
    return None if told is None else StudentCard.model_validate(told)


def _calibration(found: Mapping[str, Any] | None) -> Calibration | None:
    """What a manifest says of how probabilities are made."""
    if found is None:
        return None
    return Calibration(
        temperature=float(found["temperature"]),
        abstain_below=float(found["abstain_below"]),
        error_rate=float(found["error_rate"]),
    )


def check_towers(encoder: "StudyEncoder") -> None:
    """Hash the encoders' weights as they lie in memory.

    Raises:
        CheckpointError: they are no longer the exported ones.
    """
    for name, tower in encoder.towers.items():
        expected = encoder.loaded[name]
        if (found := tower.fingerprint) != expected:
            raise CheckpointError(
                f"the {name} tower in memory has digest {found[:16]}, as it was loaded it had "
                f"{expected[:16]}; the replica must be replaced"
            )


def resolve_folder(model: str, workspace: Path) -> Path:
    """The local folder of a model, downloaded first where `model` is an MLflow URI.

    Raises:
        TrackingError: MLflow does not answer or does not know the model.
        CheckpointError: there is no exported model.
    """
    if model.startswith(REGISTRY_SCHEME):
        opened = Workspace.open(workspace, create=False)
        return resolve_model(open_store(opened), model, opened.models)
    folder = Path(model).expanduser().resolve()
    manifest_digest(folder)
    return folder


def load_model(source: ModelSource) -> tuple["Assistant", str]:
    """Resolve, check and load a whole model; gives its manifest's digest too.

    Raises:
        CheckpointError: it is not the expected model, or a part does not match its manifest; the
            message names the file, the expected and the found digest.
    """
    from llava_ultra.export.assistant import load_assistant

    return load_part(source, load_assistant)


def load_language_half(source: ModelSource) -> tuple["Answerer", str]:
    """Load what the engine needs; see `load_model`."""
    from llava_ultra.export.assistant import load_answerer

    return load_part(source, load_answerer)


def load_vision_half(source: ModelSource) -> tuple["StudyEncoder", str]:
    """Load what the vision replica needs; see `load_model`."""
    from llava_ultra.export.encoder import load_encoder

    return load_part(source, load_encoder)


def load_part(
    source: ModelSource, load: Callable[[Path, str, AnswerPrecision], _Part]
) -> tuple[_Part, str]:
    """Resolve, check and load a part of a model; see `load_model`."""
    from safetensors import SafetensorError

    folder = resolve_folder(source.model, Path(source.workspace))
    digest = manifest_digest(folder)
    if source.digest and digest != source.digest:
        raise CheckpointError(
            f"model {source.model!r} has digest {digest[:16]}, expected {source.digest[:16]}; "
            "serve the version that was checked, by number instead of by alias"
        )
    try:
        part = load(folder, source.device, source.precision)
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"model {str(folder)!r} is refused: {error}") from None
    logger.info("model %s loaded on %s", digest[:16], source.device)
    return part, digest
