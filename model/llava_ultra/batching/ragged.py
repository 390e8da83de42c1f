"""The decoder over rows of different lengths: one row read on, or one token for each row.

It is transformers' own decoder with a cache and a mask of ours (`llava_ultra.batching.slots`). What
a decoder keeps is found out by running it once, not from its name, and whether it gives the same
answers this way is tried when it is loaded: an architecture that derives more from its
mask than who sees whom, or that keeps something else than keys and values, is refused there and not
by wrong answers.

Axes: N rows, L new tokens, T columns, D width, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from llava_ultra.batching.adapters import NONE, AdapterBank
from llava_ultra.batching.slots import COLUMN_STEP, Slots, SlotShape, columns_for
from llava_ultra.model import LlavaUltra

_PROBE_LENGTHS = (5, 3)
"""Tokens of the two rows that are tried when a decoder is loaded."""
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Largest difference of logits between the two ways of reading, relative to their spread. Another
order of summation gives 1e-6, 1e-3 and 1e-2; a wrong mask some 1."""


class RaggedDecoder:
    """A model's decoder and the memory of its rows; for one thread."""

    def __init__(
        self,
        model: LlavaUltra,
        *,
        max_bytes: int,
        max_rows: int,
        adapters: AdapterBank | None = None,
    ) -> None:
        """Try the decoder, then take the memory for the rows.

        Args:
            model: in evaluation mode.
            max_bytes: of keys and values of all rows together.
            max_rows: most rows at once.
            adapters: of the decoder, where rows may have some.

        Raises:
            ValueError: the memory does not hold one full context, the decoder's cache is none of
                keys and values alone, or rows of different lengths get other answers than alone.
        """
        self._model = model
        self._adapters = adapters
        self._choose([NONE])
        self._decoder = model.language_model
        self._dtype = model.language_model.get_input_embeddings().weight.dtype  # type: ignore[operator]
        self._device = model.embedding_scale.device
        self._lowest = torch.finfo(self._dtype).min
        self.context_length = model.config.language.context_length
        shape, self._window, self._mixed = self._probe()
        self.slots = Slots(shape, num_tokens=2 * COLUMN_STEP, max_rows=2, device=self._device)
        self._check()
        context = columns_for([self.context_length])
        num_tokens = min(max_rows * context, max_bytes // shape.bytes_per_token)
        if num_tokens < context:
            raise ValueError(
                f"{max_bytes:,} bytes hold keys and values of {num_tokens:,} tokens, and one "
                f"context is {context:,}; give at least {context * shape.bytes_per_token:,} bytes"
            )
        self.slots = Slots(shape, num_tokens=num_tokens, max_rows=max_rows, device=self._device)

    def read(self, row: int, start: int, embeds: Tensor, *, adapter: str = NONE) -> Tensor:
        """Read L further tokens of one row: (L, D) to logits (V,) float32 of what follows."""
        return self._read(row, start, embeds, adapter, num_logits=1)[-1]

    def read_all(self, row: int, start: int, embeds: Tensor, *, adapter: str = NONE) -> Tensor:
        """As `read`, to the logits (L, V) float32 of what follows each of the tokens."""
        return self._read(row, start, embeds, adapter, num_logits=0)

    def _read(
        self, row: int, start: int, embeds: Tensor, adapter: str, *, num_logits: int
    ) -> Tensor:
        self._choose([adapter])
        end = start + embeds.shape[0]
        positions = torch.arange(start, end, device=self._device)
        masks = self._masks(positions, end, lambda mask: mask[None, None])
        cache = self.slots.reading(row, start)
        embeds = embeds[None].to(self._device)
        return self._forward(embeds, positions[None], masks, cache, num_logits=num_logits)[0]

    def step(
        self,
        ids: Sequence[int],
        lengths: Sequence[int],
        *,
        adapters: Sequence[str] = (),
        vectors: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Feed one token to each of the first N rows, to logits (N, V) float32.

        Args:
            ids: the tokens.
            lengths: tokens that each row has before its new one.
            adapters: the name of each row's; none has one where they are left out.
            vectors: by row, (D,) that is fed in place of its token.
        """
        self._choose(adapters or [NONE] * len(ids))
        columns = min(columns_for([max(lengths) + 1]), self.slots.columns)
        positions = torch.tensor(lengths, device=self._device)
        masks = self._masks(positions, columns, lambda mask: mask[:, None, None])
        with torch.no_grad():
            embeds = self._model.embed(torch.tensor(ids)[:, None])
            for row, vector in (vectors or {}).items():
                embeds[row, 0] = vector
        cache = self.slots.decoding(positions, columns)
        return self._forward(embeds, positions[:, None], masks, cache)[:, -1]

    def _choose(self, adapters: Sequence[str]) -> None:
        """Say which adapter each row of the next pass has."""
        if self._adapters is not None:
            self._adapters.choose(adapters)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embed tokens: (L, D)."""
        return self._model.embed(torch.tensor(ids))

    @torch.no_grad()
    def _forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        masks: Tensor | dict[str, Tensor],
        cache: Cache,
        *,
        num_logits: int = 1,
    ) -> Tensor:
        """Embeddings (N, L, D) at positions (N, L), to logits (N, K, V) float32.

        They are those behind the last `num_logits` = K tokens, or behind all of them where it is 0.
        """
        logits: Tensor = self._decoder(
            inputs_embeds=embeds.to(self._dtype),
            attention_mask=masks,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=num_logits,
        ).logits
        return logits.float()

    @torch.no_grad()
    def _check(self) -> None:
        """Try whether rows of different lengths get the logits that each gets alone.

        Raises:
            ValueError: they do not.
        """
        vocabulary = self._decoder.get_input_embeddings().num_embeddings  # type: ignore[operator]
        generator = torch.Generator().manual_seed(0)
        rows = [
            torch.randint(vocabulary, (length + 1,), generator=generator)
            for length in _PROBE_LENGTHS
        ]
        embedded = [self._model.embed(ids) for ids in rows]
        self._choose([NONE])
        alone = torch.stack(
            [self._decoder(inputs_embeds=row[None]).logits[0, -1] for row in embedded]
        ).float()
        shape, columns = self.slots.shape, self.slots.columns
        unused = 100 * torch.randn(  # none would stay unseen
            shape.num_layers, 2, shape.num_heads, columns, shape.head_width, generator=generator
        )
        for row, embeds in enumerate(embedded):
            self.slots.write(row, 0, unused)  # what a mask must hide
            self.read(row, 0, embeds[:2])
            self.read(row, 2, embeds[2:-1])
        together = self.step([int(ids[-1]) for ids in rows], _PROBE_LENGTHS)
        difference = float(((together - alone).abs().amax() / alone.std()).nan_to_num(torch.inf))
        if difference > _PROBE_TOLERANCE[self._dtype]:
            raise ValueError(
                f"the decoder {type(self._decoder).__name__} answers otherwise in a batch of rows "
                f"of different lengths (logits differ by {difference:.2g} of their spread); it "
                "cannot be served this way"
            )

    def _masks(
        self, positions: Tensor, columns: int, shaped: Callable[[Tensor], Tensor]
    ) -> Tensor | dict[str, Tensor]:
        """Who sees whom: positions (L,) to masks (L, columns), shaped, 0 or the lowest number.

        A decoder with layers of two kinds takes one mask of each.
        """
        seen = torch.arange(columns, device=self._device)
        ahead = seen > positions[:, None]
        if self._window == 0:
            return shaped(self._additive(ahead))
        behind = seen <= positions[:, None] - self._window
        near = shaped(self._additive(ahead | behind))
        if not self._mixed:
            return near
        return {"full_attention": shaped(self._additive(ahead)), "sliding_attention": near}

    def _additive(self, hidden: Tensor) -> Tensor:
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, self._lowest)

    @torch.no_grad()
    def _probe(self) -> tuple[SlotShape, int, bool]:
        """What the decoder keeps of a token, seen on one.

        Returns:
            The shape; how many tokens its windowed layers see, 0 where the context fits into the
            window or there is none; and whether other layers see all.
        """
        cache = DynamicCache(config=self._decoder.config)  # type: ignore[arg-type]
        ids = torch.zeros(1, 1, dtype=torch.int64)
        self._decoder(inputs_embeds=self._model.embed(ids), past_key_values=cache, use_cache=True)
        kept = []
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if isinstance(keys, Tensor) and isinstance(values, Tensor):
                kept.append((tuple(keys.shape), tuple(values.shape), keys.dtype))
        windows = {
            int(getattr(layer, "sliding_window", self.context_length)) for layer in cache.layers
        }
        narrow = {window for window in windows if window < self.context_length}
        same = len(kept) == len(cache.layers) and len(set(kept)) == 1
        if not same or kept[0][0] != kept[0][1] or len(narrow) > 1:
            raise ValueError(
                f"the decoder {type(self._decoder).__name__} keeps other things than keys and "
                "values of one size in every layer; it cannot be served this way"
            )
        (_, num_heads, _, width), _, dtype = kept[0]
        shape = SlotShape(num_layers=len(kept), num_heads=num_heads, head_width=width, dtype=dtype)
        return shape, min(narrow, default=0), len(windows) > 1
