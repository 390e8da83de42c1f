"""The studies and texts that towers and language model learn from, and the tokenizer of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.study.choosing.held_out import is_held_out, without_topics
from sonoray.study.contract import Study, Turn, iter_studies
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol, conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.config import LanguageConfig


def learning_studies(
    dataset: Path, hold_out: Mapping[str, Sequence[str]] | None = None
) -> list[Study]:
    """The studies of a dataset that parts learn from: those of training patients.

    Args:
        dataset: its folder.
        hold_out: `train.hold_out`: classes that are left out, with the turns that ask for them.
    """
    studies = iter_studies(dataset, split="train")
    left_out = hold_out or {}
    return [
        without_topics(study, left_out) for study in studies if not is_held_out(study, left_out)
    ]


def conversations_of(
    studies: Sequence[Study], protocol: ReportProtocol = NO_PROTOCOL
) -> list[list[tuple[Sequence[str], str]]]:
    """The turns of each study: conversation up to a question, and its answer."""
    return [
        [
            (conversation(study.turns, number, protocol), turn.answer)
            for number, turn in enumerate(study.turns)
        ]
        for study in studies
    ]


def make_tokenizer(config: "LanguageConfig", studies: Sequence[Study]) -> "PreTrainedTokenizerFast":
    """The language part's tokenizer, made anew so that the parts need not wait for each other.

    It is trained from the same texts (a second's work), or taken from the same source.
    """
    from llava_ultra.language.decoder import adopt_tokenizer
    from llava_ultra.language.tokenizer import train_tokenizer

    if config.source:
        return adopt_tokenizer(config.source)
    texts = (
        text for study in studies for turn in study.turns for text in (turn.question, turn.answer)
    )
    return train_tokenizer(texts, config.vocab_size)


def captions_of(studies: Sequence[Study]) -> dict[str, str]:
    """Each image's own caption, or its study's text, by image id."""
    return {
        image.image_id: image.labels.get("caption") or _study_text(study.turns)
        for study in studies
        for image in study.images
    }


def _study_text(turns: Sequence[Turn]) -> str:
    """The study's text as a caption: its longest answer, the report where there is one."""
    return max((turn.answer for turn in turns), key=len)


def summary_of(examples: Sequence[Any], losses: Sequence[float]) -> dict[str, Any]:
    """Counts, and the mean loss of the first and of the last twentieth of the steps."""
    window = max(1, len(losses) // 20)
    return {
        "num_examples": len(examples),
        "num_steps": len(losses),
        "first_loss": sum(losses[:window]) / window,
        "last_loss": sum(losses[-window:]) / window,
    }
