"""Relabel: a dataset with corrected answers to closed questions, as a dataset of its own.

The corrections are a CSV with the columns `study_id`, `topic` and `answer`, as a person writes them
after a look at suspects, or as `sonoray second-opinion` does. Studies keep their ids, patients,
splits and images, so that stored features stay valid; the images are the same files, linked.

Where the study has a label of the topic's name and each option of the dataset stands for one value
of it, the label is corrected too. Texts are not: a report or a caption still says what it said.
`only_closed` leaves all turns out that are not closed questions, and captions, for those who must
not learn the old answer from a text.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonoray.audit.terms import CAPTION
from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError, DataError
from sonoray.files.corrections import Corrections, read_corrections
from sonoray.ingest.source_options import DATASET_NAME
from sonoray.stages import MANIFEST, Stage, StageOutput, run_stage
from sonoray.study.contract import Study, StudyImage, Turn, iter_studies, write_studies
from sonoray.workspace import Workspace

_OWN = ("studies", MANIFEST)
"""What a relabelled dataset does not share with the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabelled:
    """A dataset with other answers."""

    dataset: str
    output: StageOutput
    values: Mapping[str, Any]
    """What was changed."""

    def lines(self) -> list[str]:
        """What a person reads."""
        values = self.values
        lines = [
            f"dataset {self.dataset}: {self.output.path}",
            f"{values['rows']} rows, {values['changed']} answers changed of {values['studies']} "
            f"studies, {values['labels']} study labels with them",
        ]
        if values["only_closed"]:
            lines.append("closed questions alone: reports, free texts and captions are left out")
        elif values["changed"]:
            lines.append(
                "reports, free texts and captions are as they were and may say the old answers; "
                "--only-closed leaves them out"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"dataset": self.dataset, "path": str(self.output.path), **self.values}


def run(
    *, workspace: Workspace, dataset: str, table: Path, name: str, only_closed: bool = False
) -> Relabelled:
    """Make the dataset `name` of a dataset and a table of corrections.

    Args:
        workspace: where both lie.
        dataset: name of the dataset that is corrected.
        table: the corrections.
        name: of the new dataset.
        only_closed: whether turns that are no closed questions, and captions, are left out.

    Raises:
        ConfigError: the new name is that of the old dataset, of one from elsewhere, or none.
        DataError: there is no such dataset, the table cannot be read, or a row of it names no
            closed question of the dataset or no option of it.
    """
    if name == dataset or not DATASET_NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r} must be another name than {dataset!r}, of at most 63 lower-case "
            "letters, digits, - and _"
        )
    output = workspace.dataset(dataset)
    origin = {"source": "relabel", "dataset": dataset}
    if name in workspace.dataset_names() and workspace.dataset_pointer(name)["origin"] != origin:
        raise ConfigError(
            f"--name {name!r} is that of a dataset from another source; take a new name"
        )
    corrections = read_corrections(table)
    stage = Stage(
        name=f"ingest-{name}",
        config={
            **output.manifest["config"],
            "relabel": {"corrections": content_hash(corrections), "only_closed": only_closed},
        },
        inputs=[output.key, *output.manifest["inputs"]],
        code=("sonoray_jobs.data.relabel",),
    )
    made = run_stage(
        stage,
        workspace.stages,
        lambda folder: _make(folder, output, corrections, name, only_closed),
    )
    workspace.point_dataset(name, made, origin)
    return Relabelled(dataset=name, output=made, values=made.manifest["summary"]["relabel"])


def _make(
    folder: Path, output: StageOutput, corrections: Corrections, name: str, only_closed: bool
) -> dict[str, Any]:
    studies = list(iter_studies(output.path, complete=False))
    _check(studies, corrections)
    values = _label_values(studies, {topic for own in corrections.values() for topic in own})
    changed = [_corrected(study, corrections.get(study.study_id, {}), values) for study in studies]
    write_studies(folder, _named(changed, name, only_closed))
    for path in sorted(output.path.rglob("*")):
        relative = path.relative_to(output.path)
        if path.is_file() and relative.parts[0] not in _OWN:
            _link(path, folder / relative)
    pairs = list(zip(studies, changed, strict=True))
    return {
        **output.manifest["summary"],
        "relabel": {
            "rows": sum(map(len, corrections.values())),
            "studies": len(studies),
            "changed": sum(
                one.answer != other.answer
                for old, new in pairs
                for one, other in zip(old.turns, new.turns, strict=True)
            ),
            "labels": sum(old.labels != new.labels for old, new in pairs),
            "only_closed": only_closed,
        },
    }


def _check(studies: Sequence[Study], corrections: Corrections) -> None:
    """Refuse a row that corrects nothing that there is."""
    known = {study.study_id: study for study in studies}
    for study_id, answers in corrections.items():
        if study_id not in known:
            raise DataError(
                f"the table names study {study_id!r}, which the dataset does not have; correct it"
            )
        for topic, answer in answers.items():
            turns = [turn for turn in known[study_id].turns if turn.topic == topic]
            closed = [turn for turn in turns if turn.options]
            if not closed:
                topics = sorted({turn.topic for turn in known[study_id].turns if turn.options})
                raise DataError(
                    f"study {study_id!r} has no closed question about {topic!r}; it has {topics}"
                )
            if answer not in closed[0].options:
                raise DataError(
                    f"study {study_id!r}: {answer!r} is no answer to {topic!r}; it is one of "
                    f"{', '.join(closed[0].options)}"
                )


def _label_values(studies: Sequence[Study], topics: set[str]) -> dict[str, dict[str, str]]:
    """By topic the label's value of each option, where each has one; no two have the same."""
    seen: dict[str, defaultdict[str, set[str]]] = {topic: defaultdict(set) for topic in topics}
    for study in studies:
        for turn in study.turns:
            if turn.topic in topics and turn.options and turn.topic in study.labels:
                seen[turn.topic][turn.answer].add(study.labels[turn.topic])
    found = {}
    for topic, values in seen.items():
        single = {option: next(iter(own)) for option, own in values.items() if len(own) == 1}
        if len(single) == len(values) and len(set(single.values())) == len(single):
            found[topic] = single
    return found


def _corrected(
    study: Study, answers: Mapping[str, str], values: Mapping[str, Mapping[str, str]]
) -> Study:
    left = dict(answers)  # of several questions about a topic the first one is meant
    turns = tuple(
        replace(turn, answer=left.pop(turn.topic)) if turn.options and turn.topic in left else turn
        for turn in study.turns
    )
    labels = {
        topic: values[topic][answer]
        for topic, answer in answers.items()
        if topic in study.labels and answer in values.get(topic, {})
    }
    return replace(study, turns=turns, labels={**study.labels, **labels})


def _named(studies: Sequence[Study], name: str, only_closed: bool) -> Iterator[Study]:
    for study in studies:
        turns: Sequence[Turn] = study.turns
        images = study.images
        if only_closed:
            turns = tuple(turn for turn in turns if turn.options)
            images = tuple(map(_without_caption, images))
        if turns or images:
            yield replace(study, dataset=name, turns=tuple(turns), images=images)


def _without_caption(image: StudyImage) -> StudyImage:
    labels = {key: text for key, text in image.labels.items() if key != CAPTION}
    return replace(image, labels=labels)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
