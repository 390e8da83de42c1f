"""What CLIP's pretraining is told beside images and captions, where one of its objectives needs it.

The terms of the audit's vocabulary that a caption affirms, and the classes of an image. One that
its dataset says does not show the study's finding is of no class but that of the absence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llava_ultra.recognition.bank_file import load_bank
from sonoray.audit.terms import affirmed_terms
from sonoray.errors import DataError
from sonoray.study.contract import Study

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.objectives.pretraining.tower_objective import Knowledge
    from llava_ultra.recognition.bank import ClassBank
    from sonoray_jobs.road.config import RoadConfig


def knowledge_of(
    road: "RoadConfig",
    studies: Sequence[Study],
    image_ids: Sequence[str],
    captions: Mapping[str, str],
    tokenizer: "PreTrainedTokenizerFast",
) -> "Knowledge":
    """What the objectives of the pretraining need beside images and captions.

    Args:
        road: the configuration.
        studies: that are learned from.
        image_ids: the N examples.
        captions: by image id.
        tokenizer: the language part's.

    Raises:
        DataError: terms are asked for, and the captions affirm none that tells them apart; or
            classes, and fewer than two are there.
        ValueError: a bank cannot be read, or does not know a label's value.
    """
    from llava_ultra.objectives.pretraining.mlip import MlipObjective
    from llava_ultra.objectives.pretraining.tower_objective import Knowledge

    active = road.bootstrap.clip.active_objectives
    needs = set().union(*(each.needs for each in active))
    known: dict[str, Any] = {}
    length = road.model.clip.context_length  # CLIP's text side takes no other
    if "terms" in needs:
        known |= _terms([captions[image_id] for image_id in image_ids], tokenizer, length)
    for objective in active:
        if isinstance(objective, MlipObjective) and "classes" in objective.needs:
            bank = load_bank(objective.bank)
            known |= _classes(bank, studies, image_ids, tokenizer, length)
    return Knowledge(**known)


def _terms(
    captions: Sequence[str], tokenizer: "PreTrainedTokenizerFast", length: int
) -> dict[str, Any]:
    import torch

    from llava_ultra.pretrain.contrastive import encode_captions
    from llava_ultra.pretrain.words import LEAST_SHARE

    found = [affirmed_terms(caption) for caption in captions]
    counts = Counter(term for terms in found for term in terms)
    least = max(1, round(LEAST_SHARE * len(captions)))
    terms = [term for term in sorted(counts) if least <= counts[term] <= len(captions) - least]
    if len(terms) < 2:
        raise DataError(
            f"the {len(captions)} captions affirm {len(terms)} terms of the audit's vocabulary "
            "that tell them apart; set local = 0 in the objective 'mlip' of "
            "bootstrap.clip.objectives"
        )
    marks = torch.tensor([[term in own for term in terms] for own in found])
    ids = encode_captions(tokenizer, terms, length)
    return {"term_ids": ids, "term_marks": marks}


def _classes(
    bank: "ClassBank",
    studies: Sequence[Study],
    image_ids: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    length: int,
) -> dict[str, Any]:
    import torch

    from llava_ultra.pretrain.contrastive import encode_captions

    absent = {number for number, each in enumerate(bank.classes) if each.absence_of}
    classes: dict[str, set[int]] = {}
    for study in studies:
        own = set(bank.classes_of(study.labels))
        for image in study.images:
            hidden = image.labels.get("shows_finding") == "0"
            classes.setdefault(image.image_id, set()).update(absent if hidden else own)
    seen = sorted(set().union(*(classes[image_id] for image_id in image_ids)))
    if len(seen) < 2:
        raise DataError(
            f"the training images are of {len(seen)} of the classes of bank {bank.name!r} "
            f"({', '.join(bank.labels)}); give another bank, or leave out that of the objective "
            "'mlip' in bootstrap.clip.objectives"
        )
    kept = bank.only([bank.names[number] for number in seen])
    rows = list(kept.texts())
    labels = [[int(number in classes[image_id]) for number in seen] for image_id in image_ids]
    return {
        "class_ids": encode_captions(tokenizer, [text for _, text in rows], length),
        "class_of": torch.tensor([kept.names.index(each.name) for each, _ in rows]),
        "labels": torch.tensor(labels),
    }
