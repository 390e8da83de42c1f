"""Low-rank adapters of several models over one decoder, chosen row by row within a batch.

PEFT can mix adapters in a batch too, but an exception inside such a call leaves its hooks behind,
and the next call answers with the failed call's adapters. Here nothing is hooked: the decoder's
adapted layers are replaced once, and look up, at each forward pass, which adapter each row has. One
thread owns the decoder, so that what it says in front of a pass (`choose`) is what the pass sees.

Rows of one adapter alone take two plain products. A mix takes two as well: the factors of the
adapters at work lie side by side, and a row's mask blanks what the others' factors found in it.
That costs each row the low rank of every adapter at work, which is little beside the decoder's own
layer, and saves a copy of the factors for each row.

DoRA scales the decoder's own weights per adapter, so rows cannot share the product that everything
here adds to: it is refused.

Axes: N rows, L tokens, R rank, S ranks of all adapters at work, I inputs, O outputs of a layer.
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


_Layout = tuple[tuple[int, int, float], ...]
"""Of the adapters that lie side by side on a layer: place among those at work, rank, scale."""


class _Choice:
    """Which adapter each row of the next pass has; shared by all layers."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.at_work: tuple[str, ...] = ()
        """Each of the names once, sorted, since rows come and go in any order."""
        self.of_all: str | None = None
        """What every row has, however many there are; None where each has its own."""
        self._masks: dict[_Layout, Tensor] = {}

    def set(self, names: Sequence[str]) -> None:
        """Each row's adapter."""
        if self.names != tuple(names):
            self.names, self.at_work = tuple(names), tuple(sorted(set(names)))
            self._masks = {}
        self.of_all = None

    def mask(self, layout: _Layout, like: Tensor) -> Tensor:
        """The scale of a row's own adapter in its places, 0 in those of others: (N, 1, S)."""
        if layout not in self._masks:
            scales = like.new_zeros(len(self.at_work), sum(rank for _, rank, _ in layout))
            start = 0
            for place, rank, scale in layout:
                scales[place, start : start + rank] = scale
                start += rank
            rows = [self.at_work.index(name) for name in self.names]
            self._masks[layout] = scales[rows][:, None]
        return self._masks[layout]


class _AdaptedLayer(nn.Module):
    """A decoder's own layer, and the adapters on it by name."""

    def __init__(self, base: nn.Module, choice: _Choice) -> None:
        super().__init__()
        self.base = base
        self._choice = choice
        self._pairs: dict[str, _Pair] = {}
        self._beside: tuple[tuple[str, ...], _Layout, Tensor, Tensor] | None = None

    def put(self, name: str, pair: _Pair | None) -> None:
        """Set or take away one adapter."""
        self._pairs.pop(name, None)
        if pair is not None:
            self._pairs[name] = pair
        self._beside = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, I) to (N, L, O)."""
        result: Tensor = self.base(x)
        choice = self._choice
        of_all = choice.of_all
        if of_all is None:
            names = choice.names
            assert len(names) == len(x), f"{len(names)} adapters are chosen for {len(x)} rows"
            if len(choice.at_work) > 1:
                return self._mixed(x, result)
            of_all = choice.at_work[0]
        only = self._pairs.get(of_all)
        return result if only is None else result + only.delta(x)

    def _mixed(self, x: Tensor, result: Tensor) -> Tensor:
        """Add to the base's result (N, L, O) what each row's own adapter adds."""
        at_work = self._choice.at_work
        if self._beside is None or self._beside[0] != at_work:
            pairs = {place: self._pairs.get(name) for place, name in enumerate(at_work)}
            there = {place: pair for place, pair in pairs.items() if pair is not None}
            if not there:
                return result
            layout = tuple((place, len(pair.down), pair.scale) for place, pair in there.items())
            down = torch.cat([pair.down for pair in there.values()])
            up = torch.cat([pair.up for pair in there.values()], dim=1)
            self._beside = at_work, layout, down, up
        _, layout, down, up = self._beside
        inner = F.linear(x, down)
        return result + F.linear(inner * self._choice.mask(layout, inner), up)


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
            ValueError: it is DoRA, or its weights do not fit this decoder or are not finite.
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
        self._choice.set(names)

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
            # a row beside it takes its factors times 0, which is 0 of finite ones alone
            if not (down.isfinite().all() and up.isfinite().all()):
                raise ValueError(
                    f"the adapter's weights on {path!r} are not finite; train it again"
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
