"""Several exported models over one decoder: their talking halves side by side.

What they share is compared by digest: language side and towers. What differs is small and each has
its own: fusion and sampler, and the adapter, which rows of one batch choose by the name of their
model (`llava_ultra.batching.adapters`). So a model is added in the time that its adapter takes to
read, and the decoder's weights are in memory once. In exchange no adapter is merged into them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_ultra.batching.adapters import AdapterBank, check_variant
from llava_ultra.config import LoraSettings, ModelConfig
from llava_ultra.digests.state_digest import check_digest
from llava_ultra.export.assistant import Answerer
from llava_ultra.export.manifest import precision_of, read_artifact_manifest
from llava_ultra.export.student_part import load_student
from llava_ultra.export.weights import load_connector, load_recognition, read_weights
from llava_ultra.language.decoder import Language, load_language
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import AnswerPrecision, Precision, answer_precision
from llava_ultra.parameters.products import check_precision
from llava_ultra.student.student_card import STUDENT

SHARED_PARTS = ("language", "clip", "sam")
"""Parts of a model that all models of one service have in common; so have they further towers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosted:
    """A model that is read, and not yet among those that rows can choose."""

    answerer: Answerer
    adapter: Mapping[str, Tensor]
    lora: LoraSettings


class HostedModels:
    """Reads models for one decoder; `bank` is for the thread that decodes."""

    def __init__(self, folder: Path, device: str, precision: AnswerPrecision) -> None:
        """Load the first model; raises as `llava_ultra.export.assistant.load_assistant`."""
        self._folder = folder
        self._device = device
        manifest = read_artifact_manifest(folder)
        self._digests: Mapping[str, str] = manifest["digests"]
        self._precision: Precision = answer_precision(precision, precision_of(manifest, "model"))
        check_precision(self._precision, torch.device(device).type, "serve.precision")
        self.language: Language = load_language(folder / "language")
        found, expected = self.language.digest, self._digests["language"]
        check_digest(str(folder / "language"), found=found, expected=expected)
        self.first = self.read(folder)
        decoder: Any = self.first.answerer.model.language_model
        self.bank = AdapterBank(decoder)

    def read(self, folder: Path) -> Hosted:
        """Read a model that shares the decoder; nothing that is in use changes.

        Raises:
            ValueError: it shares too little, its precision is another one, or a part does not
                match its manifest.
        """
        manifest = read_artifact_manifest(folder)
        check_shared(folder, manifest["digests"], self._digests)
        own = precision_of(read_artifact_manifest(self._folder), "model")
        check_same_precision(folder, precision_of(manifest, "model"), own)
        config = ModelConfig.model_validate(manifest["config"])
        digests = manifest["digests"]
        model = LlavaUltra(config, self.language.model, precision=self._precision)
        load_connector(model, read_weights(folder / "connector.safetensors", digests["connector"]))
        if model.recognition is not None:
            path = folder / "recognition.safetensors"
            load_recognition(model, read_weights(path, digests.get("recognition", "")))
        model.fix()
        model.to(self._device)
        return Hosted(
            answerer=Answerer(manifest=manifest, language=self.language, model=model),
            adapter=read_weights(folder / "adapter.safetensors", digests["adapter"]),
            lora=config.lora,
        )


def check_shared(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse a model that has another decoder or other towers.

    Raises:
        ValueError: it has; names the parts.
    """
    own = ("connector", "adapter", "recognition", STUDENT)
    further = sorted((found.keys() | expected.keys()) - {*SHARED_PARTS, *own})
    shared = (*SHARED_PARTS, *further)
    differing = [part for part in shared if found.get(part) != expected.get(part)]
    if differing:
        raise ValueError(
            f"model {str(folder)!r} has another {' and '.join(differing)} than the first one of "
            "this service; only models of one language model and the same towers are served "
            "together, so serve it apart"
        )


def check_hosted(folder: Path, first: Path) -> None:
    """Check a model before a service that has `first` is told of it.

    Raises:
        ValueError: it shares too little, was trained in another precision, has a DoRA adapter, or
            its own parts do not match its manifest.
    """
    manifest, own = read_artifact_manifest(folder), read_artifact_manifest(first)
    digests = manifest["digests"]
    check_shared(folder, digests, own["digests"])
    check_same_precision(folder, precision_of(manifest, "model"), precision_of(own, "model"))
    check_variant(ModelConfig.model_validate(manifest["config"]).lora)
    load_student(folder, manifest)
    for part in ("connector", "adapter"):
        read_weights(folder / f"{part}.safetensors", digests[part])


def check_same_precision(folder: Path, found: Precision, expected: Precision) -> None:
    """Refuse a model that was trained in another precision.

    Raises:
        ValueError: it was.
    """
    if found != expected:
        raise ValueError(
            f"model {str(folder)!r} was trained in {found}, the first one of this service in "
            f"{expected}; they share a decoder, so serve them apart"
        )
