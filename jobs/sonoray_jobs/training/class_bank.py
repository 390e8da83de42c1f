"""The bank of a training, and what it must not have seen: classes that are held out.

A bank's classes that no training study is of take no part in DKAM: their descriptions would tell
the model what it is to find by itself. The check of the texts goes through all that is learned
from, once, before a worker starts.
"""

import logging
from pathlib import Path

from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.bank_file import load_bank
from sonoray.errors import DataError
from sonoray.study.choosing.held_out import check_unnamed, is_held_out, names_of_held_out
from sonoray.study.contract import iter_studies
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

logger = logging.getLogger(__name__)


def prepare_bank(dataset: Path, road: RoadConfig) -> ClassBank | None:
    """The bank with the classes that training has, after the texts have been checked.

    Args:
        dataset: its folder.
        road: `train.hold_out`, and the objective's bank.

    Returns:
        None where nothing is held against a bank.

    Raises:
        DataError: no study has a class of the bank, or a text names a class that is held out.
        ValueError: the bank cannot be read, or does not know a label's value.
    """
    settings = road.model.recognition
    whole = load_bank(settings.bank) if settings is not None and settings.bank else None
    unseen: set[str] = set()
    bank = None
    if whole is not None:
        bank = _seen_part(dataset, road, whole)
        unseen = set(whole.names) - set(bank.names)
    if road.train.hold_out:
        _check_texts(dataset, road, whole, unseen)
    return bank


def _seen_part(dataset: Path, road: RoadConfig, bank: ClassBank) -> ClassBank:
    seen: set[int] = set()
    num_known = number = 0
    for study in iter_training_studies(dataset, road.train):
        found = bank.classes_of(study.labels)
        seen.update(found)
        num_known += bool(found)
        number += 1
    names = [name for place, name in enumerate(bank.names) if place in seen]
    if len(names) < 2:
        raise DataError(
            f"the training studies are of {len(names)} of the {len(bank.names)} classes of bank "
            f"{bank.name!r} ({', '.join(bank.labels)}); ingest studies that have these labels, "
            "give another bank, or leave model.objectives' bank empty"
        )
    unseen = [name for name in bank.names if name not in names]
    logger.info(
        "bank %s: %d of %d training studies are of a class%s",
        bank.name,
        num_known,
        number,
        f"; without any, and left out of training: {', '.join(unseen)}" if unseen else "",
    )
    return bank.only(names)


def _check_texts(dataset: Path, road: RoadConfig, bank: ClassBank | None, unseen: set[str]) -> None:
    hold_out = road.train.hold_out
    left_out = [study for study in iter_studies(dataset) if is_held_out(study, hold_out)]
    if not left_out:
        raise DataError(
            f"no study has a label of train.hold_out = {hold_out}; correct it, or leave it out"
        )
    words = names_of_held_out(left_out, hold_out)
    for each in bank.classes if bank else ():
        if each.name in unseen:
            words |= {each.name, *each.aliases}
    number = check_unnamed(iter_training_studies(dataset, road.train), words)
    logger.info(
        "held out: %d studies; %d training studies name none of %s",
        len(left_out),
        number,
        ", ".join(sorted(words)),
    )
