"""From rows of vectors to what recognition reads of them: one pass of the decoder to a layer.

States come from the layer that is asked for, by default the one before last, and no layer above it
is computed: the pass ends where that layer's states go into the next one. Rows are padded on the
right, which causal attention never looks at; another attention comes with a mask of its own.

Axes: B rows, T tokens, D width.
"""

from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llava_ultra.recognition.head import RecognitionHead
from llava_ultra.recognition.losses import Side


class _ReachedError(Exception):
    """The layer's states are there."""


def num_layers(language_model: nn.Module) -> int:
    """Layers of a causal decoder of transformers."""
    count: int = language_model.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    return count


def check_layer(language_model: nn.Module, layer: int, told: str = "recognition.layer") -> int:
    """The number from 1 on of a layer, which messages call `told`.

    Raises:
        ValueError: the decoder has no such layer.
    """
    count = num_layers(language_model)
    found = layer if layer > 0 else count + 1 + layer
    if layer == 0 or not 1 <= found <= count:
        raise ValueError(
            f"{told} {layer} is none of this decoder's {count} layers; give 1 to "
            f"{count}, or -1 to -{count} from the last one"
        )
    return found


def layer_states(
    language_model: nn.Module, embeds: Tensor, layer: int, mask: Tensor | None = None
) -> Tensor:
    """States (B, T, D) behind a layer; of the last one, behind the decoder's norm.

    Args:
        language_model: the decoder, with its adapters.
        embeds: (B, T, D).
        layer: as `check_layer` takes it.
        mask: (B, 1, T, T), added to attention scores; None: causal attention.

    Raises:
        ValueError: the decoder has no such layer, or its layers cannot be told.
    """
    number = check_layer(language_model, layer)
    decoder: nn.Module = language_model.get_decoder()  # type: ignore[operator]
    # without one, transformers looks into the values of positions, and those on meta have none
    cache = DynamicCache() if embeds.is_meta else None
    arguments = {"inputs_embeds": embeds, "use_cache": False, "past_key_values": cache}
    if mask is not None:
        arguments["attention_mask"] = mask.to(embeds.dtype)
    if number == num_layers(language_model):
        states: Tensor = decoder(**arguments).last_hidden_state
        return states
    seen: list[Tensor] = []

    own = get_ident()

    def stop(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if get_ident() != own:  # a service decodes with the same layers in another thread
            return
        seen.append(inputs[0] if inputs else named["hidden_states"])
        raise _ReachedError

    handle = _layers(decoder, num_layers(language_model))[number].register_forward_pre_hook(
        stop, with_kwargs=True
    )
    try:
        decoder(**arguments)
    except _ReachedError:
        return seen[0]
    finally:
        handle.remove()
    raise ValueError(
        f"a {type(decoder).__name__} does not run its layers in order; set recognition.layer to -1"
    )


def _layers(decoder: nn.Module, count: int) -> nn.ModuleList:
    for module in decoder.children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(
        f"the layers of a {type(decoder).__name__} cannot be told; set recognition.layer to -1"
    )


def read_side(
    head: RecognitionHead,
    language_model: nn.Module,
    embeds: Tensor,
    mask: Tensor,
    *,
    side: str,
    layer: int,
) -> Side:
    """Read rows, and what stands in their modality tokens.

    Args:
        head: of the model.
        language_model: the decoder, with its adapters.
        embeds: (B, T, D).
        mask: (B, T) bool; padding anywhere.
        side: `image` or `text`.
        layer: whose states are read, as `check_layer` takes it.
    """
    lengths = mask.sum(dim=1)
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)  # padding to the right
    if not bool((order == torch.arange(mask.shape[1], device=order.device)).all()):
        index = order.to(embeds.device)[..., None].expand(-1, -1, embeds.shape[-1])
        embeds = embeds.gather(1, index)
    embeds = embeds[:, : int(lengths.max())]
    states = layer_states(language_model, head.with_tokens(embeds, lengths, side), layer)
    return head.pool(states, lengths, side)
