"""The segmenter: SAM's prompt encoder and mask decoder over cached features, prompted by a state.

    grid = Conv1x1(unshuffle back(features))      (N, C2 channels) to SAM's own grid, (N, W, G, G)
    words = MLP((state - mean) / deviation)       (N, D) to prompt tokens, (N, T, W)
    logits, quality = SAM's mask decoder(grid, prompt tokens)

Prompt encoder and mask decoder are segment_anything's modules. They decode one image for many
prompts; here each of N images has a prompt of its own, in one call: SAM adds the image's embedding
to that of "no mask", and which of both is repeated for every prompt does not change the sum. The
quality is the decoder's guess of its mask's IoU, as in SAM.

Axes: N images with one prompt each, P tokens and C2 channels of cached features, G SAM's grid, M =
4 G mask values along each side, W width, D width of the decoder's states, T prompt tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from llava_ultra.parameters.part_file import PartFile
from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from llava_ultra.towers.tower_config import ModelPart

WEIGHTS, SHAPE = "segmenter.safetensors", "segmenter.json"
_MASK_CHANNELS = 16
_QUALITY_LAYERS = 3
_LEAST_DEVIATION = 1e-4


class SegmenterShape(ModelPart):
    """What a segmenter is built for."""

    settings: SegmentationConfig
    image_size: int
    """Side of SAM's square input (S), pixels."""
    sam_grid: int
    """Patches along its side (G)."""
    clip_grid: int
    """Tokens along a side of the grid that features are cached on; G is a multiple of it."""
    channels: int
    """Of a cached token (C2)."""
    state_width: int
    """Of the decoder's states (D)."""

    @property
    def mask_size(self) -> int:
        """Mask values along each side of the square (M)."""
        return 4 * self.sam_grid


_FILE = PartFile(
    weights=WEIGHTS,
    shape=SHAPE,
    kind=SegmenterShape,
    what="segmenter",
    command="sonoray segment",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What N images are prompted with; of several parts all count, of none no part is meant."""

    states: Tensor | None = None
    """(N, D) float32, the decoder's behind an instruction."""
    boxes: Tensor | None = None
    """(N, 4) float32: x0, y0, x1, y1 in pixels of SAM's input."""
    points: Tensor | None = None
    """(N, 2) float32: x, y in pixels of SAM's input, inside of what is meant."""

    def to(self, device: str) -> "Prompt":
        """It on a device."""
        return Prompt(
            states=None if self.states is None else self.states.to(device),
            boxes=None if self.boxes is None else self.boxes.to(device),
            points=None if self.points is None else self.points.to(device),
        )


class Segmenter(nn.Module):
    """See the module's docstring."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: SegmenterShape) -> None:
        super().__init__()
        self.shape = shape
        settings, width = shape.settings, shape.settings.width
        self.factor = shape.sam_grid // shape.clip_grid
        self.register_buffer("mean", torch.zeros(shape.state_width))
        self.register_buffer("deviation", torch.ones(shape.state_width))
        self.project = nn.Conv2d(shape.channels // self.factor**2, width, 1)
        self.words = nn.Sequential(
            nn.Linear(shape.state_width, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.tokens * width),
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=width,
            image_embedding_size=(shape.sam_grid, shape.sam_grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=_MASK_CHANNELS,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=width,
            transformer=TwoWayTransformer(
                depth=settings.depth,
                embedding_dim=width,
                num_heads=settings.heads,
                mlp_dim=4 * width,
            ),
            num_multimask_outputs=0,
            iou_head_depth=_QUALITY_LAYERS,
            iou_head_hidden_dim=width,
        )

    def fit_states(self, states: Tensor) -> None:
        """Standardise by these states, (N, D)."""
        self.mean.copy_(states.mean(dim=0))
        self.deviation.copy_(states.std(dim=0, unbiased=False).clamp(min=_LEAST_DEVIATION))

    def forward(
        self, features: Tensor, prompt: Prompt, noise: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Decode masks.

        Args:
            features: (N, P, C2) of SAM, as they are cached.
            prompt: of each image.
            noise: standard deviation of what is added to features and standardised states.

        Returns:
            Logits (N, M, M), and the quality (N,) that the decoder expects of its masks.
        """
        features = features.float()
        grid = self.embed(features + noise * torch.randn_like(features) if noise else features)
        no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        logits, quality = self.mask_decoder(
            image_embeddings=no_mask.expand(1, -1, *grid.shape[2:]),
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self.tokens_of(prompt, len(grid), noise),
            dense_prompt_embeddings=grid,
            multimask_output=False,
        )
        return logits[:, 0], quality[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """Cached features (N, P, C2) as image embeddings of SAM's grid, (N, W, G, G)."""
        side = self.shape.clip_grid
        cells = features.transpose(1, 2).reshape(*features.shape[::2], side, side)
        grid: Tensor = self.project(F.pixel_shuffle(cells, self.factor))
        return grid

    def tokens_of(self, prompt: Prompt, num_images: int, noise: float = 0.0) -> Tensor:
        """Prompt tokens (N, T, W): SAM's of boxes and points, then those of words."""
        points = None
        if prompt.points is not None:
            inside = torch.ones(num_images, 1, dtype=torch.int64, device=prompt.points.device)
            points = prompt.points[:, None], inside
        tokens: Tensor
        tokens, _ = self.prompt_encoder(points=points, boxes=prompt.boxes, masks=None)
        if not tokens.shape[1]:
            tokens = tokens.expand(num_images, 0, -1)
        if prompt.states is not None:
            known = (prompt.states - self.mean) / self.deviation
            if noise:
                known = known + noise * torch.randn_like(known)
            said = self.words(known).unflatten(1, (-1, self.shape.settings.width))
            tokens = torch.cat([tokens, said], dim=1)
        return tokens

    def save(self, folder: Path, **told: Any) -> None:  # noqa: ANN401 - plain JSON values
        """Write it into a folder; `told` stands beside its shape."""
        _FILE.save(folder, self.state_dict(), self.shape, told)

    @classmethod
    def load(cls, folder: Path) -> "Segmenter":
        """Read a segmenter.

        Raises:
            ValueError: a file is missing or does not fit the other one.
        """
        return _FILE.load(folder, cls)


def to_image(logits: Tensor, image_size: int, height: int, width: int) -> Tensor:
    """Bring mask logits to an image's own pixels, without the padding of SAM's input.

    Args:
        logits: (N, M, M) of the padded square.
        image_size: side of that square (S), pixels.
        height: of the image.
        width: of the image.

    Returns:
        (N, H, W), above 0 inside; as `Sam.postprocess_masks` makes them.
    """
    scale = image_size / max(height, width)
    shown = [max(1, round(side * scale)) for side in (height, width)]
    whole = F.interpolate(logits[:, None], (image_size, image_size), mode="bilinear")
    whole = whole[..., : shown[0], : shown[1]]
    return F.interpolate(whole, (height, width), mode="bilinear")[:, 0]
