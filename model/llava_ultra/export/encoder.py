"""The looking half of an exported model: towers, fusion and feature score, without the decoder."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from llava_ultra.config import ModelConfig
from llava_ultra.connector.fusion import build_fusion, with_mean_token
from llava_ultra.connector.pick import Sampler
from llava_ultra.digests.state_digest import check_digest
from llava_ultra.export.manifest import read_artifact_manifest
from llava_ultra.export.weights import read_weights
from llava_ultra.model import CONNECTOR_PARTS, fusion_sizes
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images

MAX_IMAGES = 32
"""Most images of one study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualStudy:
    """What the towers and the fusion made of one study; plain CPU tensors."""

    tokens: Tensor
    """(K, P, D) float32 fused tokens."""
    feature_scores: Tensor
    """(K,) float32, before softmax."""


class StudyEncoder:
    """The part of an exported model that looks at images."""

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        clip: ClipTower,
        sam: SamTower,
        fusion: nn.Module,
        sampler: Sampler,
    ) -> None:
        self.manifest = manifest
        self.clip = clip
        self.sam = sam
        self._fusion = fusion
        self._sampler = sampler

    def encode(self, images: Sequence[np.ndarray]) -> VisualStudy:
        """Encode, fuse and score one study's images (uint8, (H, W) or (H, W, 3)).

        Raises:
            ValueError: there is no image, there are too many, or one is too small.
        """
        self.check_count(images)
        return self.score(images, self.fuse(images))

    @staticmethod
    def check_count(images: Sequence[np.ndarray]) -> None:
        """Refuse what is no study.

        Raises:
            ValueError: there is no image, or there are too many.
        """
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ValueError(f"{len(images)} images given; a study has 1 to {MAX_IMAGES}")

    @torch.no_grad()
    def fuse(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode and fuse K images, each by itself: (K, P, D) float32 on the CPU.

        Raises:
            ValueError: one is too small.
        """
        clip = encode_images(self.clip, images, self._device)
        sam = encode_images(self.sam, images, self._device)
        tokens: Tensor = self._fusion(clip, with_mean_token(clip, sam))
        return tokens.cpu()

    @torch.no_grad()
    def score(self, images: Sequence[np.ndarray], tokens: Tensor) -> VisualStudy:
        """Put the fused tokens (K, P, D) of a study's images together with their scores."""
        scores = self._sampler.feature_scores(tokens.to(self._device), [_study_key(images)])
        return VisualStudy(tokens=tokens, feature_scores=scores.cpu())

    @property
    def _device(self) -> torch.device:
        return self.clip.standardise.mean.device


def _study_key(images: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.shape}|".encode() + image.tobytes())
    return digest.hexdigest()


def load_towers(folder: Path) -> tuple[ClipTower, SamTower]:
    """Load an exported model's towers and check their digests.

    Raises:
        ValueError: as `load_encoder` does.
    """
    digests = read_artifact_manifest(folder)["digests"]
    clip, sam = ClipTower.load(folder / "clip"), SamTower.load(folder / "sam")
    check_digest(str(folder / "clip"), found=clip.fingerprint, expected=digests["clip"])
    check_digest(str(folder / "sam"), found=sam.fingerprint, expected=digests["sam"])
    return clip, sam


def load_encoder(folder: Path, device: str = "cpu") -> StudyEncoder:
    """Load an exported model without its decoder, of which the width alone is read.

    Raises:
        ValueError: the folder is incomplete, of another format, or a part does not match.
    """
    manifest = read_artifact_manifest(folder)
    clip, sam = load_towers(folder)
    config = ModelConfig.model_validate(manifest["config"])
    width = AutoConfig.from_pretrained(folder / "language").hidden_size
    parts = nn.ModuleDict(
        {
            "fusion": build_fusion(config.fusion, fusion_sizes(config, width)),
            "sampler": Sampler(config.sampling, width=width),
        }
    )
    assert tuple(parts) == CONNECTOR_PARTS
    state = read_weights(folder / "connector.safetensors", manifest["digests"]["connector"])
    try:
        parts.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"connector weights do not fit this model's config: {str(error).splitlines()[-1]}"
        ) from None
    parts.eval()
    for module in (clip, sam, parts):
        module.to(device)
    fusion, sampler = parts["fusion"], parts["sampler"]
    assert isinstance(sampler, Sampler)
    return StudyEncoder(manifest=manifest, clip=clip, sam=sam, fusion=fusion, sampler=sampler)
