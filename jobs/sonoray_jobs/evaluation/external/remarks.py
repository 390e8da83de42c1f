"""What a reader of an external validation must know first, in one line each.

A remark is `serious` where it limits what the figures mean, `warning` where it says that something
is worse or missing, `clear` where something was looked for and not found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sonoray.metrics import Estimate
from sonoray.metrics.external.groups import SMALL, UNKNOWN
from sonoray.study.near_duplicates import describe_rule
from sonoray_jobs.evaluation.external.mapping import TopicAccount
from sonoray_jobs.evaluation.external.seen_images import Seen
from sonoray_jobs.evaluation.external.verdict import TopicVerdict

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.external.exported_model import ExportedModel

_MOST_VALUES = 6
"""Unmapped values that a remark names."""
_COMPARED = {"auc": "AUC", "accuracy": "accuracy"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """One thing to know."""

    kind: Literal["serious", "warning", "clear"]
    message: str


def make_remarks(
    model: "ExportedModel",
    *,
    dataset: str,
    same_dataset: bool,
    seen: Seen,
    accounts: Mapping[str, TopicAccount],
    verdicts: Sequence[TopicVerdict],
) -> list[Remark]:
    """Say what limits the figures, then what they show.

    Args:
        model: which model.
        dataset: name of the dataset.
        same_dataset: whether the model was trained on it.
        seen: what of it the model had seen.
        accounts: what became of its studies, by topic.
        verdicts: the figures.
    """
    remarks = list(_on_leakage(model, dataset, seen, same_dataset=same_dataset))
    if not model.record.internal_test:
        text = (
            "the model was exported before its internal test, so there is nothing to compare with"
        )
        remarks.append(Remark(kind="warning", message=text))
    for topic, account in accounts.items():
        remarks += _on_topic(topic, account, model.record.facts.topics[topic].options)
    for verdict in verdicts:
        remarks += _on_difference(verdict)
        remarks += _on_groups(verdict)
    return remarks


def _on_leakage(
    model: "ExportedModel", dataset: str, seen: Seen, *, same_dataset: bool
) -> Iterable[Remark]:
    if same_dataset:
        yield Remark(
            kind="serious",
            message=f"the model was trained on {dataset}: this is an internal test of what is left "
            "of it, no external one",
        )
    if seen.studies:
        yield Remark(
            kind="serious",
            message=f"{seen.studies} studies of {seen.patients} patients were set aside: the model "
            f"learned from {seen.exact_images} of their images and from near duplicates of "
            f"{seen.near_images} more",
        )
    else:
        yield Remark(
            kind="clear",
            message="no image is one of the "
            f"{seen.training_images:,} that the model learned from, or looks like one "
            f"({describe_rule(seen.distance, seen.correlation)}); other pictures of the same "
            "patients cannot be told",
        )
    if model.adopted:
        yield Remark(
            kind="warning",
            message=f"{', '.join(model.adopted)} came from published weights; what these were "
            "trained on is not known here",
        )


def _on_topic(topic: str, account: TopicAccount, options: Sequence[str]) -> Iterable[Remark]:
    if account.unmapped:
        told = account.to_json()
        values = sorted(told["unmapped"].items(), key=lambda item: (-item[1], item[0]))
        names = [f"{value} ({count})" for value, count in values[:_MOST_VALUES]]
        if (left := sum(account.unmapped.values()) - sum(n for _, n in values[:_MOST_VALUES])) > 0:
            names.append(f"others ({left})")
        yield Remark(
            kind="warning",
            message=f"{topic}: {sum(account.unmapped.values())} studies were not asked, their "
            f"truth is none of {', '.join(options)}: {', '.join(names)}; external.values maps them",
        )
    if account.contradictory:
        yield Remark(
            kind="warning",
            message=f"{topic}: {account.contradictory} studies have two truths and were not asked",
        )
    if not account.asked:
        yield Remark(
            kind="warning",
            message=f"{topic}: the dataset has no topic and no label {account.name!r}; "
            "external.topics says what it is called there",
        )
    elif account.lacking:
        yield Remark(kind="warning", message=f"{topic}: {account.lacking} studies have no truth")


def _on_difference(verdict: TopicVerdict) -> Iterable[Remark]:
    for metric, name in _COMPARED.items():
        found = verdict.differences.get(metric)
        if found is None or found.low is None or found.high is None:
            continue
        text = (
            f"{verdict.topic}: {name} {found.second:.3f}, in the internal test {found.first:.3f}; "
            f"difference {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        )
        if found.value < 0 <= found.high:  # few patients show little, which is no good news
            text += ", which includes none: more patients would tell"
        yield Remark(kind="warning" if found.value < 0 else "clear", message=text)


def _on_groups(verdict: TopicVerdict) -> Iterable[Remark]:
    """Groups whose interval of the accuracy lies below the accuracy over all."""
    whole = verdict.external["accuracy"]
    for label, groups in verdict.groups.items():
        for group in groups:
            own: Estimate | None = group.estimates["accuracy"]
            if whole is None or own is None or own.high is None or group.value in (SMALL, UNKNOWN):
                continue
            if own.high < whole.value:
                yield Remark(
                    kind="warning",
                    message=f"{verdict.topic}: accuracy {own} where {label} is {group.value} "
                    f"({group.num_patients} patients), {whole.value:.3f} over all; nothing is "
                    "corrected for the number of groups",
                )
