"""Low-rank adapters of several models over one decoder, chosen row by row within a batch.

PEFT can mix adapters in a batch too, but an exception inside such a call leaves its hooks behind,
and the next call answers with the failed call's adapters. Here nothing is hooked: the decoder's
adapted layers are replaced once, and look up, at each forward pass, which adapter each row has. One
thread owns the decoder, so that what it says in front of a pass (`choose`) is what the pass sees.

Adapters of unlike ranks lie side by side, padded with zeros, which add nothing. Rows of one adapter
alone take two plain products; a mix takes two batched ones. DoRA scales the decoder's own weights
per adapter, so rows cannot share the product that everything here adds to: it is refused.

Axes: N rows, L tokens, R rank, I inputs, O outputs of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.config import LoraSettings

NONE = ""
"""Name of no adapter."""

_KEY_START, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How PEFT names an adapter's weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """The two factors of an adapter on one layer."""

    down: Tensor
    """(R, I)."""
    up: Tensor
    """(O, R)."""
    scale: float

    def delta(self, x: Tensor) -> Tensor:
        """What the adapter adds: (N, L, I) to (N, L, O)."""
        return F.linear(F.linear(x, self.down), self.up) * self.scale


class _Choice:
    """Which adapter each row of the next pass has; shared by all layers."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.of_all: str | None = None
        """What every row has, however many there are; None where each has its own."""


class _AdaptedLayer(nn.Module):
    """A decoder's own layer, and the adapters on it by name."""

    def __init__(self, base: nn.Module, choice: _Choice) -> None:
        super().__init__()
        self.base = base
        self._choice = choice
        self._pairs: dict[str, _Pair] = {}
        self._stacked: tuple[dict[str, int], Tensor, Tensor, Tensor] | None = None

    def put(self, name: str, pair: _Pair | None) -> None:
        """Set or take away one adapter."""
        self._pairs.pop(name, None)
        if pair is not None:
            self._pairs[name] = pair
        self._stacked = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, I) to (N, L, O)."""
        result: Tensor = self.base(x)
        of_all = self._choice.of_all
        if of_all is not None:
            only = self._pairs.get(of_all)
            return result if only is None else result + only.delta(x)
        names = self._choice.names
        assert len(names) == len(x), f"{len(names)} adapters are chosen for {len(x)} rows"
        present = {name for name in names if name in self._pairs}
        if not present:
            return result
        if len(set(names)) == 1:
            return result + self._pairs[names[0]].delta(x)
        places, down, up, scale = self._stack()
        rows = torch.tensor([places.get(name, 0) for name in names], device=x.device)
        inner = torch.bmm(x, down[rows])
        return result + torch.bmm(inner, up[rows]) * scale[rows, None, None]

    def _stack(self) -> tuple[dict[str, int], Tensor, Tensor, Tensor]:
        """All adapters' factors (A, I, R), (A, R, O) and scales (A,); the first is none."""
        if self._stacked is None:
            pairs = list(self._pairs.values())
            rank = max(len(pair.down) for pair in pairs)
            first = pairs[0]
            down = first.down.new_zeros(1 + len(pairs), first.down.shape[1], rank)
            up = first.up.new_zeros(1 + len(pairs), rank, len(first.up))
            scale = first.up.new_zeros(1 + len(pairs))
            for place, pair in enumerate(pairs, start=1):
                down[place, :, : len(pair.down)] = pair.down.T
                up[place, : len(pair.down)] = pair.up.T
                scale[place] = pair.scale
            places = {name: place for place, name in enumerate(self._pairs, start=1)}
            self._stacked = places, down, up, scale
        return self._stacked


class AdapterBank:
    """The adapters of one decoder; for the thread that owns it."""

    def __init__(self, decoder: nn.Module) -> None:
        """Args: `decoder` without any adapter; its layers are replaced as adapters need them."""
        self._decoder = decoder
        self._choice = _Choice()
        self._layers: dict[str, _AdaptedLayer] = {}
        self._names: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """What can be chosen, beside `NONE`."""
        return frozenset(self._names)

    def add(self, name: str, state: Mapping[str, Tensor], settings: LoraSettings) -> None:
        """Make an adapter ready; nothing is changed where it is refused.

        Args:
            name: what rows choose it by; one of the same name is replaced.
            state: its weights as PEFT names them (`llava_ultra.export.weights.adapter_state`).
            settings: what it was trained with.

        Raises:
            ValueError: it is DoRA, or its weights do not fit this decoder.
        """
        assert name != NONE
        check_variant(settings)
        pairs = self._read(state, settings)
        self.remove(name)
        for path, pair in pairs.items():
            self._layer(path).put(name, pair)
        self._names.add(name)

    def remove(self, name: str) -> None:
        """Take an adapter away; nothing where there is none of that name."""
        self._names.discard(name)
        for layer in self._layers.values():
            layer.put(name, None)

    def choose(self, names: Sequence[str]) -> None:
        """Say which adapter each row of the next passes has; `NONE` for the decoder as it is.

        Raises:
            ValueError: one is not there.
        """
        if unknown := set(names) - self._names - {NONE}:
            raise ValueError(f"there is no adapter {min(unknown)!r}; add it first")
        self._choice.names, self._choice.of_all = tuple(names), None

    def choose_all(self, name: str) -> None:
        """Give every row of the next passes one adapter, however many rows they have.

        Raises:
            ValueError: it is not there.
        """
        self.choose((name,))
        self._choice.of_all = name

    def _read(self, state: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, _Pair]:
        """The factors by layer, held to the shapes of this decoder's layers."""
        scale = settings.alpha / settings.rank ** (0.5 if settings.variant == "rslora" else 1.0)
        ends = {key.removesuffix(end) for key in state for end in (_A, _B) if key.endswith(end)}
        if not ends or {f"{key}{end}" for key in ends for end in (_A, _B)} != set(state):
            raise ValueError("the adapter's weights are no pairs of low rank; export it again")
        pairs: dict[str, _Pair] = {}
        for key in sorted(ends):
            path = key.removeprefix(_KEY_START)
            layer = self._layers.get(path)
            base = layer.base if layer else self._own_layer(path)
            weight: Any = base.weight
            down, up = (state[f"{key}{end}"].to(weight) for end in (_A, _B))
            # GPT-2's layers keep their weights the other way round
            if sorted((down.shape[1], up.shape[0])) != sorted(weight.shape):
                raise ValueError(
                    f"the adapter's weights on {path!r} are of {down.shape[1]} by {up.shape[0]}, "
                    f"the decoder's of {tuple(weight.shape)}; it belongs to another decoder"
                )
            pairs[path] = _Pair(down=down, up=up, scale=scale)
        return pairs

    def _own_layer(self, path: str) -> nn.Module:
        try:
            return self._decoder.get_submodule(path)
        except AttributeError:
            raise ValueError(
                f"the adapter has weights on {path!r}, which the decoder lacks; it belongs to "
                "another decoder"
            ) from None

    def _layer(self, path: str) -> _AdaptedLayer:
        """The layer that takes adapters, put in the place of the decoder's own."""
        if path not in self._layers:
            base = self._own_layer(path)
            self._layers[path] = _AdaptedLayer(base, self._choice)
            parent, _, name = path.rpartition(".")
            setattr(self._decoder.get_submodule(parent), name, self._layers[path])
        return self._layers[path]


def check_variant(settings: LoraSettings) -> None:
    """Refuse an adapter that rows of others cannot be decoded beside.

    Raises:
        ValueError: it is DoRA.
    """
    if settings.variant == "dora":
        raise ValueError(
            "a DoRA adapter scales the decoder's own weights, so it cannot share a batch with "
            "others; serve this model alone, or train its adapter as lora or rslora"
        )
