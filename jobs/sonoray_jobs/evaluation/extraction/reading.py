"""From reports to answers in fields: what the roles learn, and the engine that decodes them.

The engine is the served one's batch (`llava_ultra.batching.running`) without its scheduler: reports
begin while there is room and get one token each in every pass of the decoder. By contrast a report
takes four of its rows, plainly one.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from llava_ultra.batching.adapters import AdapterBank
from llava_ultra.batching.prefix import PrefixStore, block_keys
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch, Row, Step
from llava_ultra.batching.slots import columns_for
from llava_ultra.batching.voices import Voice, Voices
from llava_ultra.config import LoraSettings, ModelConfig
from llava_ultra.decoding.contrast import AlternateContrast
from llava_ultra.decoding.contrast_config import ContrastConfig
from llava_ultra.decoding.step import Decoding
from llava_ultra.language.chat import as_messages, decode_text, encode_chat, encode_text, end_id
from llava_ultra.language.decoder import Language
from llava_ultra.language.role_names import ROLES
from llava_ultra.model import LlavaUltra
from llava_ultra.pretrain.roles import RoleExample
from sonoray_jobs.evaluation.extraction.fields import MARK, SEPARATOR, Field, question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PREFIX_BYTES = 64 * 2**20
"""Of kept beginnings of prompts: what is asked without a report is read once."""
_LEAST_ANSWER = 8
"""Tokens that a prompt must leave to its answer."""


def encode_prompt(tokenizer: "PreTrainedTokenizerFast", report: str | None) -> list[int]:
    """Token ids up to where the assistant speaks; without a report, those of the instruction."""
    return encode_chat(tokenizer, as_messages(question(report)))[0]


def encode_example(
    tokenizer: "PreTrainedTokenizerFast", report: str, fields: Sequence[Field]
) -> RoleExample:
    """A report and its fields as the roles learn them.

    Raises:
        ValueError: a character has no token, or mark and separator are no single tokens.
    """
    mark, separator = structure_ids(tokenizer)
    answer: list[int] = []
    classifies: list[bool] = []
    for field in fields:
        value, name = (encode_text(tokenizer, text) for text in (field.value, field.name))
        answer += [*value, mark, *name, separator]
        classifies += [False] * (len(value) + 1) + [True] * (len(name) + 1)
    return RoleExample(
        prompt=encode_prompt(tokenizer, report),
        answer=[*answer, end_id(tokenizer)],
        classifies=[*classifies, False],
    )


def structure_ids(tokenizer: "PreTrainedTokenizerFast") -> tuple[int, int]:
    """Ids of mark and separator.

    Raises:
        ValueError: the tokenizer has no single token for one.
    """
    mark, separator = (encode_text(tokenizer, text) for text in (MARK, SEPARATOR))
    if len(mark) != 1 or len(separator) != 1:
        raise ValueError(
            f"the tokenizer writes {MARK + SEPARATOR!r} as {len(mark) + len(separator)} tokens, "
            "and extraction needs two; take another model.language.source"
        )
    return mark[0], separator[0]


class FieldReader:
    """A decoder with the three roles; for one thread."""

    def __init__(
        self,
        language: Language,
        states: Mapping[str, Mapping[str, Tensor]],
        lora: LoraSettings,
        config: ModelConfig,
        *,
        at_once: int,
        own_prompt: bool = False,
    ) -> None:
        """Put the adapters on a decoder.

        Args:
            language: the decoder that they were trained on.
            states: their weights by role, as PEFT names them.
            lora: their shape.
            config: of the whole model; of it the context length is used.
            at_once: most reports that are decoded together.
            own_prompt: as in `RolesConfig`.

        Raises:
            ValueError: the adapters do not fit, or the decoder cannot be batched.
        """
        self._tokenizer = language.tokenizer
        self._end_id = end_id(language.tokenizer)
        self._at_once = at_once
        self._own_prompt = own_prompt
        self._context = config.language.context_length
        model = LlavaUltra(config, language.model)  # its fusion stays idle: texts alone are read
        model.eval()
        bank = AdapterBank(language.model)
        for role in ROLES:
            bank.add(role, states[role], lora)
        rows = at_once * (1 + len(ROLES))
        size = language.model.config
        per_token = 8 * size.num_hidden_layers * size.hidden_size  # keys and values in float32
        max_bytes = rows * columns_for([self._context]) * per_token
        decoder = RaggedDecoder(model, max_bytes=max_bytes, max_rows=rows, adapters=bank)
        self._embed = decoder.embed
        store = PrefixStore(max_bytes=_PREFIX_BYTES)
        self._batch = Batch(decoder, store, end_id=self._end_id)

    def fits(self, report: str) -> bool:
        """Whether a report leaves room for an answer."""
        return self._room(encode_prompt(self._tokenizer, report)) >= _LEAST_ANSWER

    def read(
        self, reports: Sequence[str], contrast: ContrastConfig, *, max_tokens: int
    ) -> Iterator[tuple[int, str]]:
        """Yield each report's number and answer, in the order in which they end.

        Args:
            reports: those that `fits` takes.
            contrast: how; a strength of 0 decodes plainly.
            max_tokens: longest answer.

        Raises:
            ValueError: the decoder gave no numbers.
        """
        waiting = deque(enumerate(reports))
        running: dict[Row, int] = {}
        while waiting or running:
            steps: list[Step] = []
            while waiting and len(running) < self._at_once:
                number, report = waiting.popleft()
                running[self._begin(report, contrast, max_tokens)] = number
                while self._batch.reading is not None:
                    steps += self._batch.read(self._context)[1]
            for step in [*steps, *self._batch.step()]:
                if step.reason == "failed":
                    raise ValueError("the decoder gave no numbers; lower extract.roles rates")
                if step.reason is not None:
                    ids = [token for token in step.row.ids if token != self._end_id]
                    yield running.pop(step.row), decode_text(self._tokenizer, ids)

    def _begin(self, report: str, contrast: ContrastConfig, max_tokens: int) -> Row:
        ids = encode_prompt(self._tokenizer, report)
        embeds = self._embed(ids)
        return self._batch.begin(
            embeds,
            Decoding(max_tokens=min(max_tokens, self._room(ids))),
            adapter=ROLES[0],
            voices=self._voices(contrast, embeds) if contrast.strength else None,
        )

    def _voices(self, contrast: ContrastConfig, embeds: Tensor) -> Voices:
        """The halves of the task over the same report, and the whole without it."""
        own = embeds if self._own_prompt else None
        halves = [Voice(adapter=role, embeds=own) for role in ROLES[1:]]
        bare = encode_prompt(self._tokenizer, None)
        keys = block_keys(
            [token.to_bytes(4) for token in bare], ends=[len(bare) - 1], salt=ROLES[0].encode()
        )
        uninformed = Voice(adapter=ROLES[0], embeds=self._embed(bare), keys=keys)
        mark, separator = structure_ids(self._tokenizer)
        rule = AlternateContrast(
            settings=contrast, mark=mark, separator=separator, end=self._end_id
        )
        return Voices(members=[*halves, uninformed], contrast=rule)

    def _room(self, prompt: Sequence[int]) -> int:
        return self._context - len(prompt)
