"""The chat format: from a conversation to token ids, and back.

An adopted model that has a chat template speaks in it, and keeps its own tokens; every other one
gets ours. Either way only the form is read with special tokens: what a user writes is plain text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<pad>", "<s>", "</s>"
ROLE_TOKENS = {"system": "<system>", "user": "<user>", "assistant": "<assistant>"}

_NO_CLOCK = "{% macro strftime_now(format) %}2024-01-01{% endmacro %}"
"""Stands before a chat template, for those that write today's date: a model is asked in the form in
which it was trained, and the same question has the same tokens tomorrow."""

_MOST_SAID = 120
"""Most characters of a template's own words that are passed on."""

IGNORED = -100
"""Label of a token that takes no part in the loss (PyTorch's convention)."""


class ConversationError(ValueError):
    """The form of a conversation is not what the model takes; quotes roles, never what was said."""


def encode_text(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    """Token ids of plain text, without special tokens.

    Special tokens written out in the text (`<assistant>`) are read as plain characters, so that a
    user cannot forge a turn.

    Raises:
        ValueError: the tokenizer knows some character of the text only as unknown.
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        unknown = sorted(
            {
                c
                for c in text
                if tokenizer.unk_token_id in tokenizer.encode(c, add_special_tokens=False)
            }
        )
        raise ValueError(
            f"the tokenizer has no token for {''.join(unknown)[:20]!r}; "
            "use a tokenizer with a byte fallback or train one on these texts"
        )
    return ids


def as_messages(question: str | Sequence[str]) -> list[dict[str, str]]:
    """The messages of a lone question, or of texts by user and assistant in turn, user last."""
    texts = (question,) if isinstance(question, str) else question
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def encode_chat(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[dict[str, str]]
) -> tuple[list[int], int]:
    """Token ids of a conversation up to where the assistant speaks, and the images' place in it.

    The form is the tokenizer's own chat template, the images in front of the first question's text;
    where it has none, `<s> [images] <user> question </s> <assistant> answer </s> ... <assistant>`.
    All images of a study stand together, best first; the model puts their tokens there.

    Returns:
        The ids, and how many of them stand in front of the images.

    Raises:
        ConversationError: a role is unknown, the last message is not the user's, or the chat
            template does not take the conversation.
        ValueError: as `encode_text` does.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ConversationError("the last message must be the user's question")
    for message in messages:
        if message["role"] not in ROLE_TOKENS:
            raise ConversationError(
                f"role {message['role']!r} is unknown; use one of {', '.join(ROLE_TOKENS)}"
            )
    if tokenizer.chat_template:
        return _encode_templated(tokenizer, messages)
    ids: list[int] = [token_id(tokenizer, START)]
    for message in messages:
        ids.append(token_id(tokenizer, ROLE_TOKENS[message["role"]]))
        ids.extend(encode_text(tokenizer, message["content"]))
        ids.append(token_id(tokenizer, END))
    return [*ids, token_id(tokenizer, ROLE_TOKENS["assistant"])], 1


def _encode_templated(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[dict[str, str]]
) -> tuple[list[int], int]:
    """Encode the template around the messages with special tokens, the messages without."""
    rest = _render(tokenizer, [message["role"] for message in messages], open_answer=True)
    ids: list[int] = []
    images_at = -1
    for number, message in enumerate(messages):
        before, found, rest = rest.partition(_mark(number))
        if not found:
            raise ConversationError(
                f"the language model's chat template leaves out the {message['role']} message "
                f"{number}; send the conversation without it"
            )
        ids.extend(tokenizer.encode(before, add_special_tokens=False))
        if images_at < 0 and message["role"] == "user":
            images_at = len(ids)
        ids.extend(encode_text(tokenizer, message["content"]))
    return [*ids, *tokenizer.encode(rest, add_special_tokens=False)], images_at


def _mark(number: int) -> str:
    """What stands for a message in a rendered template: private use characters."""
    return f"\ue000{number}\ue001"


def _render(
    tokenizer: "PreTrainedTokenizerFast", roles: Sequence[str], *, open_answer: bool
) -> str:
    """The chat template around messages of these roles, a mark in place of each."""
    from jinja2 import TemplateError

    marked = [{"role": role, "content": _mark(number)} for number, role in enumerate(roles)]
    try:
        text = tokenizer.apply_chat_template(
            marked,
            chat_template=_NO_CLOCK + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=open_answer,
        )
    except TemplateError as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:_MOST_SAID]
        raise ConversationError(
            f"the language model's chat template does not take {', '.join(roles)} messages "
            f"({said}); change their order or leave out the system message"
        ) from None
    assert isinstance(text, str)
    return text


def end_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Id of the token that ends an answer: what the chat template closes it with, else `</s>`.

    Raises:
        ValueError: the tokenizer has none.
    """
    if tokenizer.chat_template:
        closing = _render(tokenizer, ["user", "assistant"], open_answer=False)
        ids = tokenizer.encode(closing.partition(_mark(1))[2].strip(), add_special_tokens=False)
        added = tokenizer.added_tokens_decoder
        if ids and ids[0] in added and added[ids[0]].special:
            return int(ids[0])
        return token_id(tokenizer, str(tokenizer.eos_token))
    return token_id(tokenizer, END)


def encode_answer(tokenizer: "PreTrainedTokenizerFast", answer: str) -> list[int]:
    """Token ids of an answer with its end token."""
    return [*encode_text(tokenizer, answer), end_id(tokenizer)]


def decode_text(tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int]) -> str:
    """Text of token ids; an incomplete character at the end shows as U+FFFD."""
    text = tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text


def token_id(tokenizer: "PreTrainedTokenizerFast", token: str) -> int:
    """Id of a chat token.

    Raises:
        ValueError: the tokenizer lacks it.
    """
    index: Any = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer lacks the chat token {token!r}; add it before training")
    return int(index)
