"""A small module in a folder: its tensors in a file, the shape it is built for in another."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_ultra.towers.tower_config import ModelPart

Shape = TypeVar("Shape", bound=ModelPart)
Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFile(Generic[Shape]):
    """Where a kind of module keeps itself, and what a folder without one lacks."""

    weights: str
    """Name of the file of tensors."""
    shape: str
    """Name of the JSON file."""
    kind: type[Shape]
    what: str
    """The module in words, as "student"."""
    command: str
    """What makes one."""

    def save(
        self, folder: Path, state: Mapping[str, Tensor], shape: Shape, told: Mapping[str, Any]
    ) -> None:
        """Write tensors and shape into a folder; `told` (JSON values) stands beside the shape."""
        tensors = {name: each.contiguous() for name, each in state.items()}
        save_file(tensors, folder / self.weights)
        described = {"shape": shape.model_dump(mode="json"), **told}
        text = json.dumps(described, indent=1, ensure_ascii=False)
        (folder / self.shape).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: Path, build: Callable[[Shape], Part]) -> Part:
        """Build the module of a folder, for use rather than training.

        Raises:
            ValueError: a file is missing or does not fit the other one.
        """
        try:
            described = json.loads((folder / self.shape).read_text(encoding="utf-8"))
            part = build(self.kind.model_validate(described["shape"]))
            part.load_state_dict(load_file(folder / self.weights))
        except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{str(folder)!r} holds no {self.what} ({type(error).__name__}); run {self.command}"
            ) from error
        return part.eval()
