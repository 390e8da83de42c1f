"""What a configuration costs, before any weight exists: FLOPs and bytes of each kind of pass.

The parts (`cost.parts`) are run on tensors without values, and their own code is what runs: a
training step is `LlavaUltra.forward` with the objectives of the configuration, a prompt is
`LlavaUltra.read`. Nothing comes from formulas of our own: torch's `FlopCounterMode` counts
multiplications and additions operator by operator, `LiveBytes` what is alive at once, and the
key-value cache is asked for its size.

Two conventions. FLOPs are those of matrix products and convolutions, two per multiplication and
addition; attention is counted without the half that a causal mask leaves out, and its backward pass
recomputes the scores (5 products for 2). Memory takes the attention of CLIP and the decoder as a
fused kernel without a matrix of scores; SAM's windows keep them, as does "medium" on a CPU. The
questions of a study are taken to pick the same images, and to share their reading.

Axes: B studies, K images, N questions, P tokens per image, M images kept, L text tokens, S = M*P+L.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from llava_ultra.batch import TextBatch, VisualBatch
from llava_ultra.cost.counting import FusedAttention, LiveBytes
from llava_ultra.cost.parts import META, Parts
from llava_ultra.language.chat import IGNORED
from llava_ultra.recognition.pairs import Pairs, TextTokens
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower


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
    """Tokens of a question with its answer (L). All but the first are counted as the answer's, of
    which logits are computed."""


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
    """FLOPs of fusion, sampler and objectives."""
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


def trace_encoder(tower: ClipTower | SamTower | MixTower, images: int) -> EncoderCost:
    """Run a tower over the images of one study."""
    size = tower.image_size
    with (
        torch.no_grad(),
        FusedAttention(),
        FlopCounterMode(display=False) as flops,
        LiveBytes(tower) as memory,
        META,
    ):
        features = tower(torch.empty(images, 3, size, size))
    return EncoderCost(
        features=tuple(features.shape),
        flops=flops.get_total_flops(),
        peak_bytes=memory.peak,
    )


def trace_training(parts: Parts, load: Load) -> TrainingCost:
    """Run one step's share of a worker forward and backward.

    All texts are equally long: no padding is known here.
    """
    model = parts.model.train()
    with (
        FusedAttention(),
        FlopCounterMode(display=False) as flops,
        LiveBytes(model) as memory,
    ):
        decoder = _DecoderFlops(model.language_model, flops)
        output = model(_visual(parts, load), _text(load), None, _pairs(parts, load))
        forward = flops.get_total_flops()
        # the gradients of weights are counted with the optimiser's state
        hooks = [
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        output.loss.backward()
        backward = flops.get_total_flops() - forward
    for hook in (*hooks, *decoder.hooks):
        hook.remove()
    return TrainingCost(
        connector_forward=forward - decoder.forward,
        connector_backward=backward - decoder.backward,
        language_forward=decoder.forward,
        language_backward=decoder.backward,
        peak_bytes=memory.peak,
    )


def trace_prefill(parts: Parts, load: Load) -> PrefillCost:
    """Let the decoder read one question with the images that the sampler keeps."""
    model = parts.model.eval()
    one = Load(studies=1, images=load.images, questions=1, text_tokens=load.text_tokens)
    cache = DynamicCache(config=model.language_model.config)  # type: ignore[arg-type]
    visual, text = _visual(parts, one), _text(one)
    prompt = replace(text, labels=torch.full_like(text.labels, IGNORED))
    scores = torch.zeros(visual.image_mask.shape, device=META)
    with torch.no_grad(), FusedAttention():
        tokens = model.fuse(visual.clip, visual.sam, visual.more)
        with LiveBytes(model) as memory:
            reading = model.read(tokens, visual.image_mask, prompt, scores)
            model.language_model(
                inputs_embeds=reading.embeds, past_key_values=cache, use_cache=True
            )
    layers: list[Any] = cache.layers
    return PrefillCost(
        peak_bytes=memory.peak,
        cache_bytes=sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
        tokens=reading.embeds.shape[1],
    )


def _visual(parts: Parts, load: Load) -> VisualBatch:
    """Features without values, and a mask with them, which decides shapes."""
    more = {
        name: torch.empty(
            load.studies, load.images, tower.num_tokens, tower.num_channels, device=META
        )
        for name, tower in parts.towers.items()
    }
    mask = torch.ones(load.studies, load.images, dtype=torch.bool)
    return VisualBatch(clip=more.pop("clip"), sam=more.pop("sam"), image_mask=mask, more=more)


def _text(load: Load) -> TextBatch:
    ids = torch.zeros(load.studies * load.questions, load.text_tokens, dtype=torch.int64)
    labels = ids.clone()
    labels[:, :2] = IGNORED  # what stands before the images, and what the chat form puts behind
    return TextBatch(
        ids=ids,
        labels=labels,
        mask=torch.ones_like(ids, dtype=torch.bool),
        study_index=torch.arange(load.studies).repeat_interleave(load.questions),
    )


def _pairs(parts: Parts, load: Load) -> Pairs | None:
    """Reports as long as a question with its answer; a bank's few texts are not counted."""
    if parts.model.recognition is None:
        return None
    ids = torch.zeros(load.studies, load.text_tokens, dtype=torch.int64)
    return Pairs(
        prompt=(0,) * load.text_tokens,
        images_at=1,
        reports=TextTokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)),
        keys=torch.arange(load.studies),
        labels=None,
        bank=None,
    )


class _DecoderFlops:
    """The decoder's share of the FLOPs: its layers and its output layer, both ways.

    Backward it comes before all that the images' tokens were made of. It ends with the last
    gradient that these get, as each question's own credit goes through the layers before. Where
    recognition is trained for, the two shares of the backward pass are not told apart exactly.
    """

    def __init__(self, language_model: nn.Module, flops: FlopCounterMode) -> None:
        self.forward = 0
        self.backward = 0
        self._flops = flops
        self._began: int | None = None
        layers: nn.Module = language_model.get_decoder()  # type: ignore[operator]
        head: nn.Module = language_model.get_output_embeddings()  # type: ignore[operator]
        self.hooks = [
            layers.register_forward_pre_hook(self._enter_layers, with_kwargs=True),
            # recognition ends the pass at its layer, by an exception
            layers.register_forward_hook(self._leave, always_call=True),
            head.register_forward_pre_hook(self._enter),
            head.register_forward_hook(self._leave_head),
        ]

    def _enter_layers(self, layers: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ANN401 - torch's
        self._enter(layers, args)
        if kwargs["inputs_embeds"].requires_grad:  # a row of words alone has no gradient
            kwargs["inputs_embeds"].register_hook(self._reach)

    def _enter(self, part: nn.Module, args: Any) -> None:  # noqa: ANN401 - torch's
        if self._began is None:  # not what chunks of logits compute anew
            self.forward -= self._flops.get_total_flops()

    def _leave(self, part: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401 - torch's
        if self._began is None:
            self.forward += self._flops.get_total_flops()

    def _leave_head(self, head: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
        self._leave(head, args, logits)
        if logits.requires_grad:
            logits.register_hook(self._begin)  # type: ignore[no-untyped-call]

    def _begin(self, gradient: Tensor) -> None:
        if self._began is None:
            self._began = self._flops.get_total_flops()

    def _reach(self, gradient: Tensor) -> None:
        if self._began is None:  # of recognition, which has no logits: counted with the connector
            return
        self.backward = self._flops.get_total_flops() - self._began


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
