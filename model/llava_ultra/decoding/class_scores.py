"""Zero-shot recognition: a study's features against texts of classes, one pass for all of them.

A class is told by its descriptions, or by the prompt with its name, read by the decoder as reports
are; or by what DKAM made of its descriptions' token embeddings. The class texts are read once; a
study costs one pass over its images to the layer that is read, however many classes there are.

Axes: B studies, K images, P tokens, D width, R class texts, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava_ultra.language.report_pairs import recognition_prompt, text_encoder
from llava_ultra.model import LlavaUltra
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.losses import ClassTexts, Side, class_similarities
from llava_ultra.recognition.names import Against, Pooling, Readout
from llava_ultra.recognition.pairs import text_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownClasses:
    """What a model has read of classes."""

    names: tuple[str, ...]
    globals_: ClassTexts
    locals_: ClassTexts | None
    """None where token embeddings are held against, which have no other vector."""
    pooling: Pooling
    readout: Readout


def can_recognise(model: LlavaUltra) -> None:
    """Refuse a model that has no heads for it.

    Raises:
        ValueError: it was not trained to recognise.
    """
    if model.recognition is None:
        raise ValueError(
            "this model was not trained to recognise; train one with an objective of type "
            "'recognition' in model.objectives, and name it with --run"
        )


@torch.no_grad()
def read_classes(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    bank: ClassBank,
    *,
    against: Against | None = None,
    pooling: Pooling | None = None,
    readout: Readout | None = None,
) -> KnownClasses:
    """Read the classes of a bank.

    Args:
        model: trained to recognise.
        tokenizer: its own.
        bank: the classes.
        against: what a class is told by; by default what DKAM learned: token embeddings where it
            did and every class has descriptions, else `descriptions`.
        pooling: of several texts of a class; by default as in training.
        readout: which vectors are compared; by default the training's.

    Raises:
        ValueError: the model was not trained to recognise, or not with a bank where its
            embeddings are asked for; or a text has a character without a token.
    """
    can_recognise(model)
    head, settings = model.recognition, model.config.recognition
    assert head is not None
    assert settings is not None
    knows_classes = "class" in head.heads
    if against is None:
        # a name's sentence is no description: DKAM's embeddings say little of it
        is_described = all(each.descriptions for each in bank.classes)
        against = "embeddings" if knows_classes and is_described else "descriptions"
    if against == "prompts":
        rows = [(each, bank.prompt_of(each)) for each in bank.classes]
    else:
        rows = list(bank.texts())
    most = model.config.language.context_length - settings.text_tokens
    texts = text_tokens([text for _, text in rows], text_encoder(tokenizer), max_tokens=most)
    device = model.embedding_scale.device
    texts = texts.to(device)
    class_of = torch.tensor([bank.names.index(each.name) for each, _ in rows], device=device)
    chosen = pooling or settings.pooling
    if chosen == "attention" and head.query is None:
        raise ValueError(
            "this model learned no weights of descriptions; set recognize.pooling to mean or max, "
            "or train with pooling = 'attention'"
        )

    def told(vectors: Tensor) -> ClassTexts:
        return ClassTexts(vectors=vectors, class_of=class_of, weights=head.text_weights(vectors))

    if against == "embeddings":
        if not knows_classes:
            raise ValueError(
                "this model was trained without a bank's token embeddings; set recognize.against "
                "to descriptions or prompts"
            )
        vectors = model.class_vectors(texts, "embeddings")
        return KnownClasses(
            names=bank.names,
            globals_=told(vectors),
            locals_=None,
            pooling=chosen,
            readout="global",
        )
    side = model.read_texts(texts)
    return KnownClasses(
        names=bank.names,
        globals_=told(side.globals_),
        locals_=told(side.locals_),
        pooling=chosen,
        readout=readout or settings.readout,
    )


@torch.no_grad()
def score_classes(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    classes: KnownClasses,
    tokens: Tensor,
    image_mask: Tensor,
    study_keys: Sequence[str],
) -> Tensor:
    """Similarity over temperature (B, C) of studies and classes; softmax makes shares of it.

    Args:
        model: trained to recognise, in evaluation mode.
        tokenizer: its own.
        classes: read before.
        tokens: (B, K, P, D) fused tokens.
        image_mask: (B, K) bool.
        study_keys: what names each study.
    """
    side = read_studies(model, tokenizer, tokens, image_mask, study_keys)
    return compare(model, classes, side)


@torch.no_grad()
def read_studies(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    tokens: Tensor,
    image_mask: Tensor,
    study_keys: Sequence[str],
) -> Side:
    """What is compared of B studies, whatever the classes; arguments as of `score_classes`."""
    can_recognise(model)
    settings = model.config.recognition
    assert settings is not None
    prompt, images_at = recognition_prompt(tokenizer, settings)
    return model.read_images(tokens, image_mask, prompt, images_at, study_keys)


@torch.no_grad()
def compare(model: LlavaUltra, classes: KnownClasses, side: Side) -> Tensor:
    """Similarity over temperature (B, C) of studies and classes that were read before."""
    can_recognise(model)
    head = model.recognition
    assert head is not None
    if classes.readout == "global" or classes.locals_ is None:
        found = class_similarities(side.globals_, classes.globals_, classes.pooling)
    else:
        found = class_similarities(side.globals_, classes.locals_, classes.pooling)
        found = (found + class_similarities(side.locals_, classes.globals_, classes.pooling)) / 2
    return found / head.temperature
