"""Make the language model: train a small one on the studies' texts, or adopt a published one."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.study.contract import Study
from sonoray.study.prompt import NO_PROTOCOL, conversation
from sonoray_jobs.data.closed_questions import read_protocol
from sonoray_jobs.data.context_length import check_lengths
from sonoray_jobs.towers.learning_texts import (
    conversations_of,
    make_tokenizer,
    summary_of,
)

if TYPE_CHECKING:
    from sonoray_jobs.road.config import RoadConfig


def make_language(
    folder: Path,
    road: "RoadConfig",
    dataset: Path,  # noqa: ARG001 - as the other makers
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Write the part into `folder` and return its summary.

    Args:
        folder: empty.
        road: the configuration.
        dataset: folder of the dataset.
        studies: its training studies.
        post: progress callback.

    Raises:
        DataError: a text does not fit the context.
    """
    from llava_ultra.language.decoder import adopt_language, check_context, save_language
    from llava_ultra.pretrain.causal import pretrain_language

    if source := road.model.language.source:
        language = adopt_language(source, road.model.language.shape)
        check_context(language, road.model.language.context_length)
        check_lengths(language.tokenizer, studies, road.model)
        save_language(language, folder)
        return {"num_tokens": len(language.tokenizer), "source": source}
    tokenizer = make_tokenizer(road.model.language, studies)
    protocol = read_protocol(studies) if road.train.closed_first else NO_PROTOCOL
    told = partial(conversation, protocol=protocol)
    check_lengths(tokenizer, studies, road.model, told=told)
    conversations = conversations_of(studies, protocol)
    language, losses = pretrain_language(
        conversations, tokenizer, road.model.language, road.bootstrap.language, post
    )
    save_language(language, folder)
    turns = [turn for said in conversations for turn in said]
    return {"num_tokens": len(language.tokenizer), **summary_of(turns, losses)}
