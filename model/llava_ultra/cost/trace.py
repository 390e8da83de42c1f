"""What a configuration costs, before any weight exists: parameters, FLOPs and bytes.

All parts are built as they are for a run, but on torch's meta device, whose tensors have shapes and
no storage, and are run there. Nothing comes from formulas of our own: torch's `FlopCounterMode`
counts multiplications and additions operator by operator, `LiveBytes` what is alive at once, and
the key-value cache is asked for its size. Chosen against torch's `MemTracker`, which does the same
as `LiveBytes` but stops at frozen parameters (torch 2.15).

Two conventions. FLOPs are those of matrix products and convolutions, two per multiplication and
addition; attention is counted without the half that a causal mask leaves out, and its backward pass
recomputes the scores (5 products for 2). Memory takes the attention of CLIP and the decoder as a
fused kernel without a matrix of scores; SAM's own code keeps them, as does "medium" on a CPU.

Axes: B studies, K images, N questions, P tokens per image, M images kept, L text tokens, S = M*P+L.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from llava_ultra.config import AdaptiveSampling, LanguageConfig, ModelConfig, images_kept
from llava_ultra.connector.sampling import grounding_loss
from llava_ultra.language.decoder import llama_config
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LENGTH_GROUPS, LlavaUltra
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What the parts are run on."""

    studies: int
    """Studies in a worker's share of a training step (B)."""
    images: int
    """Images of each study (K)."""
    questions: int
    """Questions asked of each study in a step."""
    text_tokens: int
    """Tokens of a question with its answer (L)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """All parts of LLaVA-Ultra, without values."""

    clip: ClipTower
    sam: SamTower
    model: LlavaUltra


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSize:
    """Parameters of one part."""

    name: str
    parameters: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Parameters that keep their values."""
        return self.parameters - self.trainable


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCost:
    """A tower over the images of one study, as `embed` and the server run it."""

    features: tuple[int, ...]
    """Shape of what it hands out, (K, P, C)."""
    flops: int
    peak_bytes: int
    """Pixels, activations and features that are alive at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCost:
    """One step's share of one worker: B studies, the towers' features given."""

    connector_forward: int
    """FLOPs of fusion and sampler."""
    connector_backward: int
    language_forward: int
    """FLOPs of the decoder with its adapters."""
    language_backward: int
    """The gradient goes through the frozen weights to the images' tokens; weights that are frozen
    get none themselves."""
    peak_bytes: int
    """Features, activations and their gradients that are alive at once; no weights, and no
    gradients of weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillCost:
    """The decoder reading one question with its images, as the server runs it."""

    peak_bytes: int
    """Activations that are alive at once, the key-value cache among them."""
    cache_bytes: int
    """The key-value cache of this prompt."""
    tokens: int
    """Length of this prompt (S)."""


def build_parts(config: ModelConfig, dtype: torch.dtype) -> Parts:
    """Build every part on the meta device; only towers and decoder are frozen here.

    Args:
        config: the model.
        dtype: of what is frozen: towers and decoder. What learns stays in float32.

    Raises:
        ValueError: the decoder that `language.source` names cannot be read.
    """
    with _META:
        decoder = _build_decoder(config.language).to(dtype)  # type: ignore[arg-type]
        vocab_size: int = decoder.get_input_embeddings().num_embeddings
        clip = ClipTower(config.clip, vocab_size=vocab_size, end_id=2, pad_id=0)
        sam = SamTower(config.sam, target_grid=config.clip.grid)
        model = LlavaUltra(config, add_lora(decoder, config.lora))
    for tower in (clip, sam):
        tower.to(dtype).requires_grad_(False).eval()
    return Parts(clip=clip, sam=sam, model=model)


def _build_decoder(config: LanguageConfig) -> PreTrainedModel:
    if not config.source:
        settings = llama_config(config, vocab_size=config.vocab_size)
    else:
        try:
            settings = AutoConfig.from_pretrained(config.source)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"language model {config.source!r} cannot be read: {reason}") from None
    decoder: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return decoder


def part_sizes(parts: Parts) -> list[PartSize]:
    """Count the parameters of each part, and those that `requires_grad` lets learn.

    CLIP's text side is trained along by `bootstrap` and not run after that.
    """
    visual = dict(parts.clip.clip.visual.named_parameters(prefix="clip.visual"))
    groups = {
        "CLIP tower": list(visual.values()),
        "CLIP text side": [p for n, p in parts.clip.named_parameters() if n not in visual],
        "SAM tower": list(parts.sam.parameters()),
        "fusion": list(parts.model.fusion.parameters()),
        "sampler": list(parts.model.sampler.parameters()),
        "language model": [p for name, p in _decoder_parameters(parts) if ".lora_" not in name],
        "LoRA": [p for name, p in _decoder_parameters(parts) if ".lora_" in name],
    }
    return [
        PartSize(
            name=name,
            parameters=sum(p.numel() for p in group),
            trainable=sum(p.numel() for p in group if p.requires_grad),
        )
        for name, group in groups.items()
    ]


def _decoder_parameters(parts: Parts) -> Iterator[tuple[str, nn.Parameter]]:
    return parts.model.language_model.named_parameters()


def trace_encoder(tower: ClipTower | SamTower, images: int) -> EncoderCost:
    """Run a tower over the images of one study."""
    size = tower.image_size
    dtype = next(tower.parameters()).dtype
    with (
        torch.no_grad(),
        _FusedAttention(),
        FlopCounterMode(display=False) as flops,
        LiveBytes(tower) as memory,
        _META,
    ):
        features = tower(torch.empty(images, 3, size, size, dtype=dtype))
    return EncoderCost(
        features=tuple(features.shape),
        flops=flops.get_total_flops(),
        peak_bytes=memory.peak,
    )


def trace_training(parts: Parts, load: Load) -> TrainingCost:
    """Run one step's share of a worker forward and backward, as `LlavaUltra.forward` does.

    All texts are equally long: no value, and so no padding, is known here.
    """
    model = parts.model.train()
    config = model.config.sampling
    rows = load.studies * load.questions
    with (
        _FusedAttention(),
        FlopCounterMode(display=False) as flops,
        LiveBytes(model) as memory,
        _META,
    ):
        tokens = _fused_tokens(parts, load.studies, load.images)
        image_mask = torch.ones(load.studies, load.images, dtype=torch.bool)
        study_index = torch.zeros(rows, dtype=torch.int64)
        text = model.embed(torch.zeros(rows, load.text_tokens, dtype=torch.int64))
        text_mask = torch.ones(rows, load.text_tokens, dtype=torch.bool)
        selection = model.sampler.select(
            tokens,
            image_mask,
            study_index,
            text.float(),
            text_mask,
            num_slots=images_kept(config, load.images),
        )
        connector = flops.get_total_flops()
        answer_losses = torch.stack(
            [
                _answer_loss(model, embeds, load.text_tokens)
                for embeds in _prompt(model, selection.tokens, text).chunk(LENGTH_GROUPS)
            ]
        )
        language = flops.get_total_flops() - connector
        loss = answer_losses.mean() + selection.distillation_loss
        if isinstance(config, AdaptiveSampling) and config.grounding_weight:
            longest = slice(load.studies)  # each study's longest text
            masks = (image_mask, text_mask[longest])  # it looks inside of them
            real = [torch.ones(mask.shape, dtype=torch.bool, device="cpu") for mask in masks]
            similarity = model.sampler.grounding_similarity(
                tokens, real[0], text[longest].float(), real[1]
            )
            loss = loss + grounding_loss(similarity)
        forward = flops.get_total_flops()
        # between these two the gradient is inside the decoder
        marks: list[int] = []
        for tensor in (answer_losses, selection.tokens):
            tensor.register_hook(lambda _: marks.append(flops.get_total_flops()))  # type: ignore[no-untyped-call]
        # the gradients of weights are counted with the optimiser's state
        hooks = [
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        loss.backward()  # type: ignore[no-untyped-call]
        backward = flops.get_total_flops() - forward
    for hook in hooks:
        hook.remove()
    entered, left = marks
    return TrainingCost(
        connector_forward=forward - language,
        connector_backward=backward - (left - entered),
        language_forward=language,
        language_backward=left - entered,
        peak_bytes=memory.peak,
    )


def trace_prefill(parts: Parts, load: Load) -> PrefillCost:
    """Let the decoder read one question with the images that the sampler keeps."""
    model = parts.model.eval()
    num_images = images_kept(model.config.sampling, load.images)
    cache = DynamicCache(config=model.language_model.config)  # type: ignore[arg-type]
    with (
        torch.no_grad(),
        _FusedAttention(),
        LiveBytes(model) as memory,
        _META,
    ):
        text = model.embed(torch.zeros(1, load.text_tokens, dtype=torch.int64))
        width = text.shape[-1]
        embeds = _prompt(model, torch.empty(1, num_images * parts.clip.num_tokens, width), text)
        model.language_model(
            inputs_embeds=embeds,
            position_ids=_positions(embeds),
            past_key_values=cache,
            use_cache=True,
        )
    layers: list[Any] = cache.layers
    return PrefillCost(
        peak_bytes=memory.peak,
        cache_bytes=sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
        tokens=embeds.shape[1],
    )


def _fused_tokens(parts: Parts, studies: int, images: int) -> Tensor:
    clip, sam = (
        torch.empty(studies, images, tower.num_tokens, tower.num_channels)
        for tower in (parts.clip, parts.sam)
    )
    return parts.model.fuse(clip, sam)


def _prompt(model: LlavaUltra, images: Tensor, text: Tensor) -> Tensor:
    """(N, M*P, D) and (N, L, D) to (N, S, D), in the decoder's dtype."""
    scaled = (images * model.embedding_scale).to(text.dtype)
    return torch.cat([text[:, :1], scaled, text[:, 1:]], dim=1)


def _answer_loss(model: LlavaUltra, embeds: Tensor, text_tokens: int) -> Tensor:
    logits = model.language_model(inputs_embeds=embeds, position_ids=_positions(embeds)).logits
    predicted = logits[:, -text_tokens:-1].flatten(0, 1).float()
    return F.cross_entropy(predicted, torch.zeros(len(predicted), dtype=torch.int64))


def _positions(embeds: Tensor) -> Tensor:
    return torch.zeros(embeds.shape[:2], dtype=torch.int64)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of storage that operators made inside the context, alive at once.

    Views share a storage and are counted once. It works where storages are empty, on meta tensors.
    """

    def __init__(self, given: nn.Module) -> None:
        """Leave out the weights of `given`, which were there before."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        held = [*given.parameters(), *given.buffers()]
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Take attention as one operator, which meta tensors would otherwise split into its products.

    The operator is that of the CPU; its shapes and what it keeps are those of flash attention on a
    GPU: queries, keys, values, output and the logarithms of the sums.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _attend(*args, **kwargs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, dim=-3) for each in (key, value))
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return attended
