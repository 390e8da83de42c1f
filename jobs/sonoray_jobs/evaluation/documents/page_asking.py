"""Questions about pages, put to an exported model: over the text that was read, and over the image.

Over the text, the model's language part is asked without an image, behind the lines of the page
that are most like the question, as far as its context holds them beside an answer. Over the image,
the whole model is shown the page as its towers take any image, at the towers' size. A choice is
decided by the likelihood of its options, every other question by what is written.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llava_ultra.decoding.likelihood import answer_log_likelihoods
from llava_ultra.decoding.step import Decoding, read_prompts
from llava_ultra.decoding.text import generate
from llava_ultra.export.assistant import Assistant
from llava_ultra.export.encoder import VisualStudy
from llava_ultra.language.chat import as_messages, encode_answer, encode_chat
from sonoray.documents.page_folder import decode_page
from sonoray.errors import DataError
from sonoray.metrics.text import normalise
from sonoray_jobs.evaluation.documents.field_lookup import is_labelled

TEXT, IMAGE = "text", "image"
"""What the model is asked over."""
_LEAST_ANSWER = 8
"""Tokens that a prompt leaves to its answer, at least."""
_CACHED_TOKENS = 16_384


def blocks_of(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a page as texts, a heading with what stands below it."""
    blocks: list[str] = []
    is_open = False
    for line in lines:
        text = " ".join(line)
        if is_open and len(line) == 1 and not is_labelled(text):
            blocks[-1] += text
            continue
        blocks.append(text)
        is_open = len(line) == 1 and text.endswith(("：", ":"))
    return blocks


def ranked(blocks: Sequence[str], question: str) -> list[int]:
    """Places of blocks, those first that share most pairs of characters with the question."""
    wanted = _pairs(question)
    shared = [len(wanted & _pairs(block)) for block in blocks]
    return sorted(range(len(blocks)), key=lambda at: (-shared[at], at))


def _pairs(text: str) -> set[str]:
    signs = normalise(text)
    return {signs[at : at + 2] for at in range(len(signs) - 1)}


class PageAsker:
    """A model that answers questions about pages; for one thread."""

    def __init__(self, assistant: Assistant, *, max_tokens: int, passage_chars: int) -> None:
        """Take a loaded model.

        Args:
            assistant: the model.
            max_tokens: longest answer.
            passage_chars: most characters of a page in front of a question.
        """
        self._assistant = assistant
        self._max_tokens = max_tokens
        self._passage_chars = passage_chars
        width = assistant.width
        self._nothing = VisualStudy(tokens=torch.zeros(0, 0, width), feature_scores=torch.zeros(0))

    def over_text(
        self, lines: Sequence[Sequence[str]], question: str, options: Sequence[str]
    ) -> str:
        """Answer over the text of a page; empty where question and answer alone do not fit."""
        blocks = blocks_of(lines)
        order = ranked(blocks, question)
        while order and sum(len(blocks[at]) for at in order) > self._passage_chars:
            order.pop()
        while True:
            passage = "\n".join(blocks[at] for at in sorted(order))
            prompt = f"{passage}\n{question}" if passage else question
            if self._fits(prompt, 0, options):
                return self._answer(self._nothing, prompt, options)
            if not order:
                return ""
            order.pop()

    def over_image(self, page: VisualStudy, question: str, options: Sequence[str]) -> str:
        """Answer over the image of a page; empty where it does not fit the context."""
        if not self._fits(question, page.tokens.shape[1], options):
            return ""
        return self._answer(page, question, options)

    def encode(self, name: str, data: bytes) -> VisualStudy:
        """An image of a page as the model sees it."""
        return self._assistant.encode([decode_page(name, data)])

    def _fits(self, prompt: str, num_image_tokens: int, options: Sequence[str]) -> bool:
        try:
            ids, _ = encode_chat(self._assistant.tokenizer, as_messages(prompt))
            longest = max(
                (len(encode_answer(self._assistant.tokenizer, option)) for option in options),
                default=_LEAST_ANSWER,
            )
        except ValueError:  # its message quotes the text, which is a patient's
            raise DataError(
                "the model's tokenizer has no token for a character of a page, a question or an "
                "option; ask a model whose tokenizer falls back to bytes"
            ) from None
        return len(ids) + num_image_tokens + longest <= self._assistant.context_length

    @torch.no_grad()
    def _answer(self, visual: VisualStudy, prompt: str, options: Sequence[str]) -> str:
        assistant = self._assistant
        embeds = assistant.prepare(visual, as_messages(prompt)).inputs_embeds
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        context = read_prompts(assistant.model, embeds, mask)
        if options:
            scores = answer_log_likelihoods(
                assistant.model,
                context,
                [0] * len(options),
                [encode_answer(assistant.tokenizer, option) for option in options],
                max_tokens=_CACHED_TOKENS,
            )
            return options[int(scores.argmax())]
        room = max(1, assistant.context_length - embeds.shape[1])
        decoding = Decoding(max_tokens=min(self._max_tokens, room))
        return generate(assistant.model, assistant.tokenizer, context, decoding)[0].text


class AskingActor:
    """One model in one process: pages with questions in, answers out."""

    def __init__(
        self, *, load: Callable[[], Assistant], max_tokens: int, passage_chars: int
    ) -> None:
        self._asker = PageAsker(load(), max_tokens=max_tokens, passage_chars=passage_chars)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the questions of a batch of pages; `answers` is JSON, by way a list."""
        found: dict[str, list[Any]] = {"page": [], "answers": []}
        for page, data, told in zip(batch["page"], batch["data"], batch["asked"], strict=True):
            asked = json.loads(told)
            image = self._asker.encode(str(page), bytes(data))
            answers = {
                TEXT: [
                    self._asker.over_text(asked["lines"], question, options)
                    for question, options in asked["questions"]
                ],
                IMAGE: [
                    self._asker.over_image(image, question, options)
                    for question, options in asked["questions"]
                ],
            }
            found["page"].append(page)
            found["answers"].append(json.dumps(answers, ensure_ascii=False))
        return found
