"""The exported model: one folder, one manifest, and the assistant that runs it.

```
manifest.json            format, name, model config, site cue, digests of every part, provenance
connector.safetensors    fusion and sampler
adapter.safetensors      LoRA weights
clip/ sam/               the towers (llava_ultra.towers.clip, llava_ultra.towers.sam)
language/                tokenizer and base decoder (transformers layout)
```

Every part is loaded by its own loader and its digest compared with the manifest: a tower that was
silently re-initialised, an adapter of another run or a changed tokenizer is refused before it
answers anyone. A digest is over what was loaded (weights and the settings that decide what they
compute), not over the files' bytes. Only safetensors and JSON are read, never pickles.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_ultra.batch import TextBatch
from llava_ultra.config import ModelConfig
from llava_ultra.decoding.text import Decoding, stream
from llava_ultra.language.chat import IGNORED, encode_chat
from llava_ultra.language.decoder import Language, load_language, save_language
from llava_ultra.language.lora import add_lora
from llava_ultra.model import CONNECTOR_PARTS, LlavaUltra
from llava_ultra.parameters.digest import check_digest, state_digest
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images

FORMAT = 3
"""Version of the folder's layout."""

NOTICE = "仅供科研使用, 不作为诊断依据。For research use only; not for diagnosis."


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualStudy:
    """What the towers and the fusion made of one study; plain CPU tensors."""

    tokens: Tensor
    """(K, P, D) float32 fused tokens."""
    feature_scores: Tensor
    """(K,) float32, before softmax."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A conversation about a study, ready for the decoder."""

    inputs_embeds: Tensor
    """(1, S, D)."""
    scores: list[float]
    """Share of each image in the sampling, K values that sum to 1."""
    selected: list[int]
    """Positions of the images that the decoder sees, best first."""

    @property
    def num_prompt_tokens(self) -> int:
        """Image and text tokens together."""
        return int(self.inputs_embeds.shape[1])


class Assistant:
    """An exported model that answers questions about studies."""

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        clip: ClipTower,
        sam: SamTower,
        language: Language,
        model: LlavaUltra,
    ) -> None:
        self.manifest = manifest
        self.clip = clip
        self.sam = sam
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
    def max_images(self) -> int:
        """Most images of one study."""
        return 32

    @property
    def context_length(self) -> int:
        """Most tokens of images, question and answer together."""
        return self.model.config.language.context_length

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> VisualStudy:
        """Encode, fuse and score one study's images (uint8, (H, W) or (H, W, 3)).

        Raises:
            ValueError: there is no image, there are too many, or one is too small.
        """
        if not 1 <= len(images) <= self.max_images:
            raise ValueError(f"{len(images)} images given; a study has 1 to {self.max_images}")
        device = self.model.embedding_scale.device
        clip = encode_images(self.clip, images, device)
        tokens = self.model.fuse(clip, encode_images(self.sam, images, device))
        scores = self.model.sampler.feature_scores(tokens, [_study_key(images)])
        return VisualStudy(tokens=tokens.cpu(), feature_scores=scores.cpu())

    @torch.no_grad()
    def prepare(self, visual: VisualStudy, messages: Sequence[dict[str, str]]) -> Prompt:
        """Pick images and build the decoder's input.

        Raises:
            ConversationError: roles are unknown, or in an order that the chat form does not take.
            ValueError: the conversation is too long, or has characters without a token.
        """
        device = self.model.embedding_scale.device
        encoded, images_at = encode_chat(self.tokenizer, messages)
        ids = torch.tensor([encoded], device=device)
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
            scores=[float(share) for share in selection.probabilities[0]],
            selected=[int(index) for index in selection.indices[0] if index >= 0],
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
        decoding = Decoding(max_tokens=min(max_tokens, room), temperature=temperature, seed=seed)
        return stream(
            self.model,
            self.tokenizer,
            prompt.inputs_embeds,
            decoding,
            stop=stop,
            should_stop=should_stop,
        )


def _study_key(images: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.shape}|".encode() + image.tobytes())
    return digest.hexdigest()


def connector_state(model: LlavaUltra) -> dict[str, Tensor]:
    """The fusion's and the sampler's weights, by name."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in CONNECTOR_PARTS
    }


def adapter_state(model: LlavaUltra) -> dict[str, Tensor]:
    """The LoRA weights, by name.

    Raises:
        ValueError: there are none, or they are empty shards of a partitioned model.
    """
    state = get_peft_model_state_dict(model.language_model)
    if not state or any(tensor.numel() == 0 for tensor in state.values()):
        raise ValueError(
            "the adapter has no weights to export; gather a partitioned model (ZeRO-3) first"
        )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def save_artifact(
    folder: Path,
    *,
    name: str,
    model: LlavaUltra,
    language: Language,
    clip: ClipTower,
    sam: SamTower,
    provenance: Mapping[str, Any],
    site_cue: bool = False,
) -> dict[str, Any]:
    """Write the exported model and return its manifest.

    Args:
        folder: empty folder to write into.
        name: the model's registered name.
        model: trained fusion, sampler and adapter.
        language: the base decoder, without adapters, and its tokenizer.
        clip: the CLIP tower that the features came from.
        sam: the SAM tower that the features came from.
        provenance: where it came from: run id, dataset digest, config hash.
        site_cue: whether every question of the training began with the examination site.
    """
    connector, adapter = connector_state(model), adapter_state(model)
    save_file(connector, folder / "connector.safetensors")
    save_file(adapter, folder / "adapter.safetensors")
    clip.save(folder / "clip")
    sam.save(folder / "sam")
    save_language(language, folder / "language")
    manifest = {
        "format": FORMAT,
        "name": name,
        "config": model.config.model_dump(mode="json"),
        "site_cue": site_cue,
        "digests": {
            "connector": state_digest(connector),
            "adapter": state_digest(adapter),
            "clip": clip.fingerprint,
            "sam": sam.fingerprint,
            "language": language.digest,
        },
        "notice": NOTICE,
        "provenance": dict(provenance),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def load_assistant(folder: Path, device: str = "cpu") -> Assistant:
    """Load an exported model and check every digest.

    Raises:
        ValueError: the folder is incomplete, of another format, or a part does not match.
    """
    manifest = read_artifact_manifest(folder)
    digests = manifest["digests"]
    config = ModelConfig.model_validate(manifest["config"])
    clip, sam = ClipTower.load(folder / "clip"), SamTower.load(folder / "sam")
    check_digest(str(folder / "clip"), found=clip.fingerprint, expected=digests["clip"])
    check_digest(str(folder / "sam"), found=sam.fingerprint, expected=digests["sam"])
    language = load_language(folder / "language")
    check_digest(str(folder / "language"), found=language.digest, expected=digests["language"])
    model = LlavaUltra(config, add_lora(language.model, config.lora))
    load_connector(model, _read_weights(folder / "connector.safetensors", digests["connector"]))
    load_adapter(model, _read_weights(folder / "adapter.safetensors", digests["adapter"]))
    model.eval()
    for part in (clip, sam, model):
        part.to(device)
    return Assistant(manifest=manifest, clip=clip, sam=sam, language=language, model=model)


def load_connector(model: LlavaUltra, state: Mapping[str, Tensor]) -> None:
    """Load fusion and sampler weights; a missing or foreign name is an error.

    Raises:
        ValueError: the names do not fit this model's configuration.
    """
    expected = set(connector_state(model))
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:3]
        raise ValueError(f"connector weights do not fit this model's config; differing: {odd}")
    model.load_state_dict(dict(state), strict=False)


def load_adapter(model: LlavaUltra, state: Mapping[str, Tensor]) -> None:
    """Load LoRA weights; a missing or foreign name is an error.

    Raises:
        ValueError: the names do not fit this model's configuration.
    """
    expected = set(get_peft_model_state_dict(model.language_model))
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:3]
        raise ValueError(f"adapter weights do not fit this model's LoRA; differing: {odd}")
    set_peft_model_state_dict(model.language_model, dict(state))


def read_artifact_manifest(folder: Path) -> dict[str, Any]:
    """Read an exported model's manifest.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no exported model (no manifest.json); export one")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"model {str(folder)!r} has format {manifest.get('format')}, this version reads "
            f"{FORMAT}; export it again"
        )
    return manifest


def _read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"exported model lacks {path.name} in {str(path.parent)!r}; export again")
    state: dict[str, Tensor] = load_file(path)
    check_digest(str(path), found=state_digest(state), expected=expected)
    return state
