"""The running batch: rows begin and end at any step, each with decoding of its own.

A prompt is read in pieces (`read`), so that a long one does not hold up the rows that already
answer; one at a time, since a batch of prompts takes as long as its members. What the store has of
its beginning is copied, not read. Then the row joins the others, which get one token each a step
(`step`). A row's room is counted for its whole answer before it begins (`fits`), so that no running
row ever has to give way.

Each row draws from its own generator and is chosen from by `llava_ultra.decoding.step.choose`, so
its tokens are those that `llava_ultra.decoding.text.generate` gives it alone: equal in float32,
save a tie within its rounding.

A row may have options in place of an answer: behind its prompt, read once, each option is read in
turn on the same place of the slot, and the row ends with their log-likelihoods.

A row may have voices (`llava_ultra.batching.voices`): rows that are read with other adapters, or
without part of the prompt, and follow its tokens. They take slots of their own and no further pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llava_ultra.batching.adapters import NONE
from llava_ultra.batching.prefix import BlockKey, PrefixStore
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.token_scores import TokenScore, token_score
from llava_ultra.batching.voices import Voice, Voices, contrasted
from llava_ultra.decoding.step import Decoding, apply_rules, choose

EndReason = Literal["stop", "length", "failed", "scored"]
"""The end token; no more tokens allowed; logits that are no numbers; all options are scored."""


@dataclass(kw_only=True, slots=True, eq=False)
class Row:
    """One answer in the batch."""

    decoding: Decoding
    num_prompt_tokens: int
    generator: torch.Generator | None
    length: int = 0
    """Tokens that it has in its slot."""
    ids: list[int] = field(default_factory=list)
    """Tokens chosen so far."""
    adapter: str = NONE
    """Name of the adapter that it is decoded with."""
    num_likeliest: int | None = None
    """How many of the likeliest tokens are told beside each token; None tells no scores."""
    options: Sequence[Sequence[int]] = ()
    """Token ids of the answers to choose among, each with its end token; none for a free answer."""
    likelihoods: list[float] = field(default_factory=list)
    """Log-likelihood of each option, as far as they were scored."""
    voices: Voices | None = None
    """What else its tokens are chosen from."""
    followers: list["Row"] = field(default_factory=list)
    """The rows of its voices, once its prompt is read; they share its list of tokens."""
    follows: bool = False
    """Whether it is a voice of another row."""
    vector: Tensor | None = None
    """(D,): the prompt's last token, where it is yet to be read together with the voices'."""

    @property
    def full_length(self) -> int:
        """Tokens that it may grow to."""
        return self.num_prompt_tokens + self.decoding.max_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A token that a row got, or the end of one that has options."""

    row: Row
    token: int
    score: TokenScore | None = None
    """Where its row wants scores."""
    reason: EndReason | None
    """Why the row ended with it, which has then left the batch; None where it goes on."""


@dataclass(kw_only=True, slots=True)
class _Prompt:
    """The prompt that is being read."""

    row: Row
    embeds: Tensor
    """(S, D)."""
    keys: Sequence[BlockKey]
    first: Tensor | None = None
    """Log-probabilities (V,) of what follows it, once it is read and its options are not."""


class Batch:
    """The rows that are decoded together; for one thread."""

    def __init__(self, decoder: RaggedDecoder, prefixes: PrefixStore, *, end_id: int) -> None:
        self._decoder = decoder
        self._prefixes = prefixes
        self.end_id = end_id
        """The token that ends an answer."""
        self._rows: list[Row] = []  # a row's place here is its slot
        self._prompt: _Prompt | None = None  # its slot is the one behind them
        self.num_read = 0
        """Prompt tokens that were read, of all prompts."""
        self.num_shared = 0
        """Prompt tokens that the store had."""

    @property
    def num_rows(self) -> int:
        """Rows that hold a slot."""
        return len(self._rows) + (self._prompt is not None)

    @property
    def reading(self) -> Row | None:
        """The row whose prompt is being read."""
        return self._prompt.row if self._prompt else None

    def could_fit(self, num_tokens: int) -> bool:
        """Whether a row that grows to so many tokens may ever begin."""
        return self._decoder.slots.fits([num_tokens])

    def share(self, num_rows: int, num_tokens: int) -> float:
        """The rows here and as many more, as a share of what has room: of slots, or of memory."""
        slots, lengths = self._decoder.slots, self._lengths()
        if self._prompt is not None:
            lengths.append(self._prompt.row.full_length)
        return max(
            (len(lengths) + num_rows) / slots.max_rows,
            (sum(lengths) + num_tokens) / slots.num_tokens,
        )

    def fits(self, *num_tokens: int) -> bool:
        """Whether a row that grows to so many tokens may begin now, and its voices to theirs."""
        return self._prompt is None and self._decoder.slots.fits([*self._lengths(), *num_tokens])

    def begin(
        self,
        embeds: Tensor,
        decoding: Decoding,
        *,
        keys: Sequence[BlockKey] = (),
        adapter: str = NONE,
        num_likeliest: int | None = None,
        options: Sequence[Sequence[int]] = (),
        voices: Voices | None = None,
    ) -> Row:
        """Give a prompt a row, and start from what the store has of its beginning.

        Args:
            embeds: (S, D); S and `decoding.max_tokens` must be what `fits` was asked about.
            decoding: of the answer.
            keys: the prompt's blocks, named for the adapter as well.
            adapter: as `Row` has it.
            num_likeliest: as `Row` has it.
            options: as `Row` has them; none longer than `decoding.max_tokens`.
            voices: as `Row` has them; not beside options.
        """
        assert self._prompt is None
        assert not (options and voices)
        generator = None
        if decoding.seed is not None:
            generator = torch.Generator(embeds.device).manual_seed(decoding.seed)
        row = Row(
            decoding=decoding,
            num_prompt_tokens=len(embeds),
            generator=generator,
            adapter=adapter,
            num_likeliest=num_likeliest,
            options=options,
            voices=voices,
        )
        slots, slot = self._decoder.slots, len(self._rows)
        others = voices.lengths(len(embeds)) if voices else ()
        lengths = [row.full_length, *(length + decoding.max_tokens for length in others)]
        slots.arrange([*self._lengths(), *lengths], [row.length for row in self._rows])
        # the last token is always read: what follows it is not in the store
        usable = [key for key in keys if key.end < len(embeds)]
        for key, block in zip(usable, self._prefixes.find(usable), strict=False):
            slots.write(slot, key.start, block)
            row.length = key.end
        self.num_shared += row.length
        self._prompt = _Prompt(row=row, embeds=embeds, keys=keys)
        return row

    def read(self, max_tokens: int) -> tuple[int, list[Step]]:
        """Read on in the prompt that has begun.

        Returns:
            Tokens read, and the answer's first token where that was all of the prompt; or one
            option's tokens, and the row's end where that was the last option.
        """
        assert self._prompt is not None
        if self._prompt.first is not None:
            return self._score(self._prompt, self._prompt.first)
        prompt, row, slot = self._prompt, self._prompt.row, len(self._rows)
        if row.voices is not None:
            return self._read_led(prompt, row.voices, max_tokens), []
        piece = prompt.embeds[row.length : row.length + max_tokens]
        logits = self._decoder.read(slot, row.length, piece, adapter=row.adapter)
        row.length += len(piece)
        self.num_read += len(piece)
        if row.length < len(prompt.embeds):
            return len(piece), []
        if bool(logits.max().isfinite()):
            slots = self._decoder.slots
            self._prefixes.put(prompt.keys, lambda key: slots.read(slot, key.start, key.end))
            if row.options:
                prompt.first = logits.log_softmax(dim=-1)
                return len(piece), []
        self._prompt = None
        self._rows.append(row)
        return len(piece), self._choose([row], logits[None])

    def step(self) -> list[Step]:
        """Decode one token of every row that has been read."""
        if not self._rows:
            return []
        vectors = {slot: row.vector for slot, row in enumerate(self._rows)
                   if row.vector is not None}  # fmt: skip
        logits = self._decoder.step(
            [row.ids[-1] if row.ids else self.end_id for row in self._rows],
            [row.length for row in self._rows],
            adapters=[row.adapter for row in self._rows],
            vectors=vectors,
        )
        for row in self._rows:
            row.length += 1
            row.vector = None
        return self._choose(list(self._rows), logits)

    def drop(self, row: Row) -> None:
        """Take a row out at any time; nothing where it has ended."""
        if row is self.reading:
            self._prompt = None
        elif row in self._rows:
            self._leave_led(row)

    def clear(self) -> None:
        """Take all rows out and wipe their slots, after a failure that may have spoiled them."""
        for slot in range(self.num_rows):
            self._decoder.slots.clear(slot)
        self._rows.clear()
        self._prompt = None

    def _lengths(self) -> list[int]:
        return [row.full_length for row in self._rows]

    def _leave(self, row: Row) -> None:
        """Close the hole that a row leaves among the slots."""
        slots, hole, last = self._decoder.slots, self._rows.index(row), len(self._rows) - 1
        if hole != last:
            slots.move(last, hole, self._rows[last].length)
            self._rows[hole] = self._rows[last]
        self._rows.pop()
        if self._prompt is not None:
            slots.move(last + 1, last, self._prompt.row.length)

    def _leave_led(self, row: Row) -> None:
        """Let a row go, and its voices with it."""
        for each in (row, *row.followers):
            self._leave(each)

    def _read_led(self, prompt: _Prompt, voices: Voices, max_tokens: int) -> int:
        """Read on in a prompt with voices, up to its last token; then make the voices' rows.

        Returns:
            Tokens read.
        """
        row, slot = prompt.row, len(self._rows)
        last, is_whole = len(prompt.embeds) - 1, True
        if num_read := len(piece := prompt.embeds[row.length : min(last, row.length + max_tokens)]):
            logits = self._decoder.read(slot, row.length, piece, adapter=row.adapter)
            is_whole = bool(logits.max().isfinite())
            row.length += num_read
        self.num_read += num_read
        if row.length < last:
            return num_read
        slots = self._decoder.slots
        if is_whole:  # other prompts would fail by it
            self._prefixes.put(
                [key for key in prompt.keys if key.end <= last],
                lambda key: slots.read(slot, key.start, key.end),
            )
        row.vector = prompt.embeds[last]
        self._prompt = None
        self._rows.append(row)
        for voice in voices.members:
            embeds = prompt.embeds if voice.embeds is None else voice.embeds
            follower = Row(
                decoding=row.decoding,
                num_prompt_tokens=len(embeds),
                generator=None,
                length=len(embeds) - 1,
                ids=row.ids,
                adapter=voice.adapter,
                follows=True,
                vector=embeds[-1],
            )
            place = len(self._rows)
            if voice.embeds is None:
                slots.move(slot, place, last)
            else:
                num_read += self._read_own(place, voice.embeds[:-1], voice)
            self._rows.append(follower)
            row.followers.append(follower)
        return max(1, num_read)

    def _read_own(self, slot: int, embeds: Tensor, voice: Voice) -> int:
        """Read a voice's own prompt at once, or take it from the store; gives the tokens read."""
        slots = self._decoder.slots
        usable = [key for key in voice.keys if key.end <= len(embeds)]
        start = 0
        for key, block in zip(usable, self._prefixes.find(usable), strict=False):
            slots.write(slot, key.start, block)
            start = key.end
        self.num_shared += start
        if start < len(embeds):
            logits = self._decoder.read(slot, start, embeds[start:], adapter=voice.adapter)
            if bool(logits.max().isfinite()):
                self._prefixes.put(usable, lambda key: slots.read(slot, key.start, key.end))
        self.num_read += len(embeds) - start
        return len(embeds) - start

    def _score(self, prompt: _Prompt, first: Tensor) -> tuple[int, list[Step]]:
        """Score the next option behind a prompt that is read."""
        row, slot = prompt.row, len(self._rows)
        ids = row.options[len(row.likelihoods)]
        total = float(first[ids[0]])
        if len(ids) > 1:
            embeds = self._decoder.embed(ids[:-1])
            logits = self._decoder.read_all(slot, row.length, embeds, adapter=row.adapter)
            log_probs = logits.log_softmax(dim=-1)
            following = torch.tensor(ids[1:], device=log_probs.device)
            total += float(log_probs.gather(1, following[:, None]).sum())
        row.likelihoods.append(total)
        if total == total and len(row.likelihoods) < len(row.options):  # it is a number
            return len(ids), []
        self._prompt = None
        if total == total:
            return len(ids), [Step(row=row, token=self.end_id, reason="scored")]
        self._decoder.slots.clear(slot)
        return len(ids), [Step(row=row, token=self.end_id, reason="failed")]

    def _choose(self, rows: Sequence[Row], logits: Tensor) -> list[Step]:
        """Choose a token of each row from logits (N, V), and let go those that it ends."""
        highest, likeliest = logits.max(dim=-1)  # a NaN anywhere in a row is its highest
        is_number, tokens = highest.isfinite().tolist(), likeliest.tolist()
        places = {row: number for number, row in enumerate(rows)}
        heard_by = {
            number: [number, *(places[each] for each in row.followers)]
            for number, row in enumerate(rows)
            if not row.follows
        }
        led = {
            number: (voices.contrast, heard, rows[number].ids)
            for number, heard in heard_by.items()
            if (voices := rows[number].voices) is not None
        }
        spoken = contrasted(led, logits)
        steps: list[Step] = []
        for number, heard in heard_by.items():
            row = rows[number]
            if not all(is_number[each] for each in heard):
                steps.append(Step(row=row, token=self.end_id, reason="failed"))
                for each in (row, *row.followers):
                    self._decoder.slots.clear(self._rows.index(each))
                self._leave_led(row)
                continue
            token = tokens[number]
            alone = logits[number : number + 1]
            if number in spoken:
                alone = spoken[number]
                token = int(alone.argmax())
            if row.decoding.sample or row.decoding.rules:
                ruled = apply_rules(alone, row.decoding, [row.ids])
                if not bool(ruled.isfinite().any()):  # nothing plausible may be said
                    alone = logits[number : number + 1]
                token = int(choose(alone, row.decoding, [row.generator], [row.ids]))
            score = None
            if row.num_likeliest is not None:
                score = token_score(logits[number], token, row.num_likeliest)
            row.ids.append(token)
            reason = self._reason(row, token)
            steps.append(Step(row=row, token=token, score=score, reason=reason))
            if reason is not None:
                self._leave_led(row)
        return steps

    def _reason(self, row: Row, token: int) -> EndReason | None:
        if token == self.end_id:
            return "stop"
        return "length" if len(row.ids) >= row.decoding.max_tokens else None
