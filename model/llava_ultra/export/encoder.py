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
from llava_ultra.connector.fusion import FusionSizes, build_fusion, fuse_towers, fusion_sizes
from llava_ultra.connector.pick import Sampler
from llava_ultra.digests.state_digest import check_digest
from llava_ultra.export.manifest import precision_of, read_artifact_manifest
from llava_ultra.export.student_part import load_student
from llava_ultra.export.weights import read_weights
from llava_ultra.model import CONNECTOR_PARTS
from llava_ultra.parameters.precision_names import AnswerPrecision, answer_precision
from llava_ultra.parameters.products import (
    DTYPES,
    check_precision,
    fix_products,
    round_products,
)
from llava_ultra.student.network import Student, pool_tokens
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.lowered import lower_tower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images

EncoderTower = ClipTower | SamTower | MixTower
"""A tower of an exported model."""

MAX_IMAGES = 32
"""Most images of one study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualStudy:
    """What the towers and the fusion made of one study; plain CPU tensors."""

    tokens: Tensor
    """(K, P, D) float32 fused tokens."""
    feature_scores: Tensor
    """(K,) float32, before softmax."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedImages:
    """What the towers and the fusion made of K images, each by itself; on the CPU."""

    tokens: Tensor
    """(K, P, D) float32."""
    pooled: Tensor
    """(K, F) float32: the images as a student sees them; F = 0 where the model has none."""


class StudyEncoder:
    """The part of an exported model that looks at images."""

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        towers: Mapping[str, EncoderTower],
        fusion: nn.Module,
        sizes: FusionSizes,
        sampler: Sampler,
        loaded: Mapping[str, str],
        student: Student | None = None,
    ) -> None:
        self.manifest = manifest
        self.towers = towers
        """All of them, by name."""
        self.loaded = loaded
        """The towers' fingerprints as loaded; of one that is lowered, not the manifest's."""
        self.student = student
        """Reads the same features; None where the model was exported without one."""
        self._fusion = fusion
        self._sizes = sizes
        self._sampler = sampler

    def encode(self, images: Sequence[np.ndarray]) -> VisualStudy:
        """Encode, fuse and score one study's images (uint8, (H, W) or (H, W, 3)).

        Raises:
            ValueError: there is no image, there are too many, or one is too small.
        """
        self.check_count(images)
        return self.score(images, self.fuse(images).tokens)

    @staticmethod
    def check_count(images: Sequence[np.ndarray]) -> None:
        """Refuse what is no study.

        Raises:
            ValueError: there is no image, or there are too many.
        """
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ValueError(f"{len(images)} images given; a study has 1 to {MAX_IMAGES}")

    @torch.no_grad()
    def fuse(self, images: Sequence[np.ndarray]) -> FusedImages:
        """Encode and fuse K images, each by itself.

        Raises:
            ValueError: one is too small.
        """
        device = self._device
        found = {name: encode_images(tower, images, device) for name, tower in self.towers.items()}
        more = dict(found)
        tokens = fuse_towers(self._fusion, self._sizes, more.pop("clip"), more.pop("sam"), more)
        pooled = np.zeros((len(images), 0), np.float32)
        if self.student is not None:
            parts = [pool_tokens(each.float().cpu().numpy()) for each in found.values()]
            pooled = np.concatenate(parts, axis=1)
        return FusedImages(tokens=tokens.cpu(), pooled=torch.from_numpy(pooled))

    @torch.no_grad()
    def opine(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """What the student says of a study of K images, as it sees them (K, F).

        Returns:
            (T, O) float32 logits of each topic's options, and (T, K) the share of each image in
            what a topic looks at.
        """
        assert self.student is not None
        mask = torch.ones(1, len(pooled), dtype=torch.bool)
        opinion = self.student(pooled[None], mask)
        return opinion.logits[0], opinion.image_logits[0].softmax(dim=-1)

    @torch.no_grad()
    def score(self, images: Sequence[np.ndarray], tokens: Tensor) -> VisualStudy:
        """Put the fused tokens (K, P, D) of a study's images together with their scores."""
        scores = self._sampler.feature_scores(tokens.to(self._device), [_study_key(images)])
        return VisualStudy(tokens=tokens, feature_scores=scores.cpu())

    @property
    def _device(self) -> torch.device:
        return self.towers["clip"].standardise.mean.device


def _study_key(images: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.shape}|".encode() + image.tobytes())
    return digest.hexdigest()


def load_towers(
    folder: Path, device: str, precision: AnswerPrecision
) -> tuple[dict[str, EncoderTower], Mapping[str, str]]:
    """Load an exported model's towers and check their digests.

    Args:
        folder: the exported model.
        device: where they will run.
        precision: what they multiply in; by default what they did in training.

    Returns:
        The towers, on the CPU, and their fingerprints as they are now, by name.

    Raises:
        ValueError: as `load_encoder` does.
    """
    manifest = read_artifact_manifest(folder)
    digests = manifest["digests"]
    found = answer_precision(precision, precision_of(manifest, "towers"))
    check_precision(found, torch.device(device).type, "serve.precision")
    config = ModelConfig.model_validate(manifest["config"])
    towers: dict[str, EncoderTower] = {
        "clip": ClipTower.load(folder / "clip"),
        "sam": SamTower.load(folder / "sam"),
        **{tower.name: MixTower.load(folder / tower.name) for tower in config.towers},
    }
    for name, tower in towers.items():
        expected = digests.get(name, "")
        check_digest(str(folder / name), found=tower.fingerprint, expected=expected)
    if found == "float32":
        return towers, {name: digests[name] for name in towers}
    for tower in towers.values():
        lower_tower(tower, DTYPES[found])
    return towers, {name: tower.fingerprint for name, tower in towers.items()}


def load_encoder(
    folder: Path, device: str = "cpu", precision: AnswerPrecision = "trained"
) -> StudyEncoder:
    """Load an exported model without its decoder, of which the width alone is read.

    Args:
        folder: the exported model.
        device: `cpu` or `cuda`.
        precision: what it computes in; by default what it did in training.

    Raises:
        ValueError: the folder is incomplete, of another format, or a part does not match; or the
            device lacks the precision.
    """
    towers, loaded = load_towers(folder, device, precision)
    for tower in towers.values():
        tower.to(device)
    return load_encoder_on(folder, towers, loaded, device, precision)


def load_encoder_on(
    folder: Path,
    towers: Mapping[str, EncoderTower],
    loaded: Mapping[str, str],
    device: str,
    precision: AnswerPrecision,
) -> StudyEncoder:
    """Load what a model has beside its towers, and put it on towers that are there.

    Args:
        folder: the exported model.
        towers: by name, of the digests that its manifest names.
        loaded: their fingerprints as they are now, by name.
        device: where they are.
        precision: as `load_encoder` takes it.

    Raises:
        ValueError: as `load_encoder` does.
    """
    manifest = read_artifact_manifest(folder)
    config = ModelConfig.model_validate(manifest["config"])
    width = AutoConfig.from_pretrained(folder / "language").hidden_size
    sizes = fusion_sizes(config, width)
    parts = nn.ModuleDict(
        {
            "fusion": build_fusion(config.fusion, sizes),
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
    fused_in = answer_precision(precision, precision_of(manifest, "model"))
    check_precision(fused_in, torch.device(device).type, "serve.precision")
    if fused_in != "float32":
        round_products(parts["fusion"], DTYPES[fused_in])
        fix_products(parts)
    parts.eval()
    parts.to(device)
    fusion, sampler = parts["fusion"], parts["sampler"]
    assert isinstance(sampler, Sampler)
    return StudyEncoder(
        manifest=manifest,
        towers=towers,
        fusion=fusion,
        sizes=sizes,
        sampler=sampler,
        loaded=loaded,
        student=load_student(folder, manifest),
    )
