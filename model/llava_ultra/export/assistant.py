"""An exported model that answers questions about studies, and its talking half alone.

`encode` runs the towers, the fusion and the feature score on one study's images, `prepare` picks
the images for the decoder and builds its input, `stream` generates. A service runs the first in
its vision replica (`llava_ultra.export.encoder`) and the second in its engine, each with its half
of the weights; plain tensors pass between them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava_ultra.batch import TextBatch
from llava_ultra.config import ModelConfig
from llava_ultra.decoding.rules import build_decoding
from llava_ultra.decoding.text import stream
from llava_ultra.digests.state_digest import check_digest
from llava_ultra.export.encoder import (
    MAX_IMAGES,
    EncoderTower,
    StudyEncoder,
    VisualStudy,
    load_towers,
)
from llava_ultra.export.manifest import NOTICE, precision_of, read_artifact_manifest
from llava_ultra.export.student_part import load_student
from llava_ultra.export.weights import (
    load_adapter,
    load_connector,
    load_recognition,
    read_weights,
)
from llava_ultra.language.chat import IGNORED, encode_chat
from llava_ultra.language.decoder import Language, load_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.packed import pack_linear
from llava_ultra.parameters.precision_names import AnswerPrecision, answer_precision
from llava_ultra.parameters.products import check_precision
from llava_ultra.student.network import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A conversation about a study, ready for the decoder."""

    inputs_embeds: Tensor
    """(1, S, D)."""
    ids: list[int]
    """Of its text."""
    images_at: int
    """How many of them stand in front of the images."""
    scores: list[float]
    """Share of each image in the sampling, K values that sum to 1."""
    selected: list[int]
    """Positions of the images that the decoder sees, best first."""

    @property
    def num_prompt_tokens(self) -> int:
        """Image and text tokens together."""
        return int(self.inputs_embeds.shape[1])


class Answerer:
    """The talking half of an exported model: it needs no tower."""

    def __init__(
        self, *, manifest: Mapping[str, Any], language: Language, model: LlavaUltra
    ) -> None:
        self.manifest = manifest
        self.tokenizer = language.tokenizer
        self.model = model

    @property
    def name(self) -> str:
        """The model's registered name."""
        return str(self.manifest["name"])

    @property
    def notice(self) -> str:
        """What every answer must carry."""
        return NOTICE

    @property
    def site_cue(self) -> bool:
        """Whether it was trained with the examination site in front of every question."""
        return bool(self.manifest["site_cue"])

    @property
    def training(self) -> str:
        """Name of the training that made it; empty where its manifest does not say."""
        return str(self.manifest["provenance"].get("training", ""))

    @property
    def max_images(self) -> int:
        """Most images of one study."""
        return MAX_IMAGES

    @property
    def context_length(self) -> int:
        """Most tokens of images, question and answer together."""
        return self.model.config.language.context_length

    @property
    def width(self) -> int:
        """Of a token."""
        return self.model.feature_sizes.width

    @torch.no_grad()
    def prepare(self, visual: VisualStudy, messages: Sequence[dict[str, str]]) -> Prompt:
        """Pick images and build the decoder's input; of a study without images it is text alone.

        Raises:
            ConversationError: roles are unknown, or in an order that the chat form does not take.
            ValueError: the conversation is too long, or has characters without a token.
        """
        device = self.model.embedding_scale.device
        encoded, images_at = encode_chat(self.tokenizer, messages)
        ids = torch.tensor([encoded], device=device)
        if not len(visual.tokens):
            return self._without_images(ids, images_at)
        text = TextBatch(
            ids=ids,
            labels=torch.full_like(ids, IGNORED),
            mask=torch.ones_like(ids, dtype=torch.bool),
            study_index=torch.zeros(1, dtype=torch.int64, device=device),
            images_at=images_at,
        )
        tokens = visual.tokens[None].to(device)
        image_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        reading = self.model.read(tokens, image_mask, text, visual.feature_scores[None].to(device))
        selection = reading.selection
        return Prompt(
            inputs_embeds=reading.embeds,
            ids=encoded,
            images_at=images_at,
            scores=[float(share) for share in selection.probabilities[0]],
            selected=[int(index) for index in selection.indices[0] if index >= 0],
        )

    def _without_images(self, ids: Tensor, images_at: int) -> Prompt:
        if ids.shape[1] >= self.context_length:
            raise ValueError(
                f"the text ({ids.shape[1]} tokens) does not fit the context of "
                f"{self.context_length} tokens; shorten it"
            )
        return Prompt(
            inputs_embeds=self.model.embed(ids),
            ids=ids[0].tolist(),
            images_at=images_at,
            scores=[],
            selected=[],
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; never half a character."""
        room = self.context_length - prompt.num_prompt_tokens
        decoding = build_decoding(
            max_tokens=min(max_tokens, room), temperature=temperature, seed=seed
        )
        return stream(
            self.model,
            self.tokenizer,
            prompt.inputs_embeds,
            decoding,
            stop=stop,
            should_stop=should_stop,
        )


class Assistant(Answerer):
    """Both halves: an exported model that answers questions about studies."""

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        towers: Mapping[str, EncoderTower],
        language: Language,
        model: LlavaUltra,
        loaded: Mapping[str, str],
        student: Student | None = None,
    ) -> None:
        super().__init__(manifest=manifest, language=language, model=model)
        self.encoder = StudyEncoder(
            manifest=manifest,
            towers=towers,
            fusion=model.fusion,
            sizes=model.feature_sizes,
            sampler=model.sampler,
            loaded=loaded,
            student=student,
        )

    def encode(self, images: Sequence[np.ndarray]) -> VisualStudy:
        """See `StudyEncoder.encode`."""
        return self.encoder.encode(images)


def load_assistant(
    folder: Path, device: str = "cpu", precision: AnswerPrecision = "trained"
) -> Assistant:
    """Load an exported model and check every digest.

    Args:
        folder: the exported model.
        device: `cpu` or `cuda`.
        precision: what it computes in; by default the form in which it was trained.

    Raises:
        ValueError: the folder is incomplete, of another format, or a part does not match.
    """
    manifest = read_artifact_manifest(folder)
    towers, loaded = load_towers(folder, device, precision)
    model, language = load_exported(folder, precision)
    check_precision(model.precision, torch.device(device).type, "serve.precision")
    model.fix()
    for part in (*towers.values(), model):
        part.to(device)
    return Assistant(
        manifest=manifest,
        towers=towers,
        language=language,
        model=model,
        loaded=loaded,
        student=load_student(folder, manifest),
    )


def load_answerer(
    folder: Path, device: str = "cpu", precision: AnswerPrecision = "trained"
) -> Answerer:
    """Load an exported model without its towers, the adapter merged into the decoder.

    Merging halves the products of a decoding step. It is done in float32, so its rounding is that
    of another order of summation. Into a decoder that is kept in bfloat16 nothing is merged: the
    sum would be rounded as it never was in training. On a CPU its weights are then packed.

    Raises:
        ValueError: as `load_assistant` does.
    """
    model, language = load_exported(folder, precision)
    check_precision(model.precision, torch.device(device).type, "serve.precision")
    model.fix()
    if model.precision == "float32":
        adapted: Any = model.language_model
        model.language_model = adapted.merge_and_unload()
    model.to(device)
    pack_linear(model.language_model)
    return Answerer(manifest=read_artifact_manifest(folder), language=language, model=model)


def load_exported(
    folder: Path, precision: AnswerPrecision = "trained"
) -> tuple[LlavaUltra, Language]:
    """Load an exported model without its towers, for features that were computed before.

    Args:
        folder: the exported model.
        precision: what fusion and decoder multiply in; by default what it was trained in.

    Returns:
        The model, in evaluation mode, and the language side, whose decoder is inside the model.

    Raises:
        ValueError: the folder is incomplete, of another format, or a part does not match.
    """
    manifest = read_artifact_manifest(folder)
    digests = manifest["digests"]
    config = ModelConfig.model_validate(manifest["config"])
    language = load_language(folder / "language")
    check_digest(str(folder / "language"), found=language.digest, expected=digests["language"])
    model = LlavaUltra(
        config,
        add_lora(language.model, config.lora),
        precision=answer_precision(precision, precision_of(manifest, "model")),
    )
    load_connector(model, read_weights(folder / "connector.safetensors", digests["connector"]))
    load_adapter(model, read_weights(folder / "adapter.safetensors", digests["adapter"]))
    if model.recognition is not None:
        path = folder / "recognition.safetensors"
        load_recognition(model, read_weights(path, digests.get("recognition", "")))
    model.eval()
    return model, language
