"""Whom a validation asks: studies with images, new to the model, with a truth for its topics.

Every study of the dataset is accounted for: without an image, of a patient whom the model has seen,
without anything that can be asked, or asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.stages import StageOutput
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_hashes
from sonoray.study.prompt import SITE_LABEL, with_site_cue
from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
from sonoray_jobs.evaluation.external.mapping import TopicMap, ask_all
from sonoray_jobs.evaluation.external.seen_images import Seen, set_aside_seen

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.external.exported_model import ExportedModel

ALL = "all"
"""Every split of the dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked of whom."""

    studies: Sequence[Study]
    total: int
    """Studies of the split with the labels of `evaluate.only`."""
    without_images: int
    seen: Seen

    def counts(self) -> dict[str, int]:
        """What became of the studies."""
        return {
            "total": self.total,
            "without_images": self.without_images,
            "set_aside": self.seen.studies,
            "not_asked": self.total - self.without_images - self.seen.studies - len(self.studies),
            "judged": len(self.studies),
            "patients": len({study.patient_key for study in self.studies}),
        }


def ask(
    output: StageOutput,
    model: "ExportedModel",
    maps: Mapping[str, TopicMap],
    only: Mapping[str, str],
    split: str,
) -> Asked:
    """Choose the studies and put the model's questions to them.

    Args:
        output: the dataset.
        model: who is asked; it has the hashes of what it has seen.
        maps: its topics in the dataset's words; their accounts are filled.
        only: labels that a study must have.
        split: a split, or `ALL`.

    Raises:
        DataError: nothing is left to ask, a study lacks the site of the model's cue, or a question
            does not fit the context.
    """
    chosen = None if split == ALL else split
    found = list(iter_studies(output.path, split=chosen, only=only, complete=False))
    shown = [study for study in found if study.images]
    if not shown:
        raise DataError(
            f"dataset {str(output.path)!r} has no {split} study with an image"
            + (f" and the labels {only}" if only else "")
        )
    facts = model.record.facts
    left, seen = set_aside_seen(
        shown,
        read_hashes(output.path),
        model.record.training_images,
        distance=facts.near_duplicate_distance,
        correlation=facts.near_duplicate_correlation,
    )
    if not left:
        raise DataError(
            f"model {model.name!r} has seen an image of every patient of these {len(shown)} "
            "studies in its training; validate on a dataset of other patients"
        )
    studies = ask_all(left, maps)
    if not studies:
        topics = sorted({turn.topic for study in left for turn in study.turns if turn.topic})
        labels = sorted({label for study in left for label in study.labels})
        raise DataError(
            f"nothing can be asked: the model's topics are {', '.join(maps)}, the dataset has the "
            f"topics {', '.join(topics) or 'none'} and the labels {', '.join(labels) or 'none'}; "
            "say what is called how: --set external.topics.TOPIC=NAME --set "
            "external.values.TOPIC.VALUE=OPTION"
        )
    if model.site_cue:
        lacking = sum(not study.labels.get(SITE_LABEL) for study in studies)
        if lacking:
            raise DataError(
                f"model {model.name!r} was trained with the examination site in front of every "
                f"question, and {lacking} of {len(studies)} studies have no label {SITE_LABEL!r}; "
                "ingest the dataset with it, or validate a model without train.site_cue"
            )
        studies = [with_site_cue(study) for study in studies]
    tokenizer = read_tokenizer(model.folder / "language")
    check_lengths(tokenizer, studies, model.config, judged)
    return Asked(
        studies=studies, total=len(found), without_images=len(found) - len(shown), seen=seen
    )
