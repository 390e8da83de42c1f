"""The student: two layers over pooled features, and for each topic a look at the images of its own.

Axes: S studies, K images, F features of an image, T topics, O options (the most of any topic), H
width, D width of the decoder's states.

    h = gelu(A x)                             an image, (S, K, H)
    w = softmax over images of B h            which images a topic looks at, (S, T, K)
    z = gelu(C_t sum_k w h)                   a study as the topic sees it, (S, T, H)
    logits = E_t z;  state = G z

It reads no text: a topic is its question, whatever the wording, and what was said before does not
reach it. `G` maps to the states that it is taught and is not kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llava_ultra.digests.state_digest import state_digest
from llava_ultra.parameters.part_file import PartFile
from llava_ultra.student.student_card import CARD
from llava_ultra.towers.tower_config import ModelPart

WEIGHTS, SHAPE = "student.safetensors", CARD
_STATE = "state."


class StudentShape(ModelPart):
    """What a student is built for."""

    features: int
    """Of an image (F)."""
    hidden: int
    topics: dict[str, tuple[str, ...]]
    """By topic, its options."""
    state_width: int = 0
    """Of the decoder's states (D); 0 for one that has learned."""

    @property
    def most_options(self) -> int:
        """Options of the topic with the most (O)."""
        return max(map(len, self.topics.values()))


_FILE = PartFile(
    weights=WEIGHTS, shape=SHAPE, kind=StudentShape, what="student", command="sonoray distil"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What a student says of S studies."""

    logits: Tensor
    """(S, T, O); of topics with fewer options the last places mean nothing."""
    image_logits: Tensor
    """(S, T, K): which images a topic looks at; -inf at padding."""
    states: Tensor | None
    """(S, T, D); None of one that has learned."""


class Student(nn.Module):
    """See the module's docstring."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: StudentShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        topics, hidden = len(shape.topics), shape.hidden
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("deviation", torch.ones(shape.features))
        self.encode = nn.Linear(shape.features, hidden)
        self.look = nn.Linear(hidden, topics)
        self.own = nn.Parameter(torch.randn(topics, hidden, hidden) / hidden**0.5)
        self.own_bias = nn.Parameter(torch.zeros(topics, hidden))
        self.head = nn.Parameter(torch.randn(topics, shape.most_options, hidden) / hidden**0.5)
        self.head_bias = nn.Parameter(torch.zeros(topics, shape.most_options))
        self.state = nn.Linear(hidden, shape.state_width) if shape.state_width else None
        self.dropout = nn.Dropout(dropout)

    @property
    def digest(self) -> str:
        """Sha256 (hex) of the weights that answers need."""
        return state_digest(
            {name: each for name, each in self.state_dict().items() if name[:6] != _STATE}
        )

    def fit_features(self, images: Tensor) -> None:
        """Standardise by these images, (N, F)."""
        self.mean.copy_(images.mean(dim=0))
        self.deviation.copy_(images.std(dim=0, unbiased=False).clamp(min=1e-4))

    def forward(self, images: Tensor, mask: Tensor, noise: float = 0.0) -> Opinion:
        """Images (S, K, F) float32, of which `mask` (S, K) bool are real, to an opinion."""
        known = (images - self.mean) / self.deviation
        if noise:
            known = known + noise * torch.randn_like(known)
        seen = self.dropout(nn.functional.gelu(self.encode(known)))
        looks = self.look(seen).transpose(1, 2).masked_fill(~mask[:, None], -torch.inf)
        study = torch.einsum("stk,skh->sth", looks.softmax(dim=-1), seen)
        own = torch.einsum("sth,tgh->stg", study, self.own) + self.own_bias
        own = self.dropout(nn.functional.gelu(own))
        return Opinion(
            logits=torch.einsum("sth,toh->sto", own, self.head) + self.head_bias,
            image_logits=looks,
            states=None if self.state is None else self.state(own),
        )

    def save(self, folder: Path, **told: Any) -> None:  # noqa: ANN401 - plain JSON values
        """Write what answers need; `told` stands beside its shape."""
        kept = {name: each for name, each in self.state_dict().items() if name[:6] != _STATE}
        _FILE.save(folder, kept, self.shape.model_copy(update={"state_width": 0}), told)

    @classmethod
    def load(cls, folder: Path) -> "Student":
        """Read a student that has learned.

        Raises:
            ValueError: a file is missing or does not fit the other one.
        """
        return _FILE.load(folder, cls)


def pool_tokens(tokens: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Mean and maximum of each channel over an image's tokens: (K, P, C) to (K, 2 C)."""
    values = tokens.astype(np.float32)
    return np.concatenate([values.mean(axis=1), values.max(axis=1)], axis=1)


def pad_images(studies: "list[npt.NDArray[np.float32]]") -> tuple[Tensor, Tensor]:
    """Images of studies, (K, F) each, as (S, K, F) with zeros behind and a mask (S, K)."""
    most = max(map(len, studies))
    padded = np.zeros((len(studies), most, studies[0].shape[1]), np.float32)
    for row, images in zip(padded, studies, strict=True):
        row[: len(images)] = images
    counts = torch.tensor([len(images) for images in studies])
    return torch.from_numpy(padded), torch.arange(most) < counts[:, None]
