"""Second opinion: answers that look wrong, put to a trained model as true or false.

After Machine Vision Therapy (arXiv 2312.02546), which mends labels so with a multimodal model that
was not trained for it: a transition matrix from confidences, true or false about the likeliest
options with one right and one wrong exemplar, the truest option wins, and a classifier learns from
the mended labels. What is doubted is one closed question of a dataset. The confidences are those
of linear probes that did not see the patient, or the model's; confident learning picks the suspect
answers (`sonoray_jobs.evaluation.probing.suspects`).

One content-addressed stage. `opinions.jsonl` holds the opinions, `labels.csv` the answers of all
studies afterwards and `given.csv` those before; `sonoray relabel` makes datasets of them. Where the
true answers are known, `second-opinion.md` says how many errors were found and how many right
answers broken. Studies stay in the workspace; counts and tables also go to the MLflow run.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.config.canonical import content_hash
from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.study.prompt import with_site_cue
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.opinion.claims import claimed, read_texts
from sonoray_jobs.evaluation.opinion.doubts import check_size, ways_of
from sonoray_jobs.evaluation.opinion.labels import (
    Labels,
    check_rate,
    find_turn,
    own_answers,
    plant,
)
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.opinion.opinions import Opinions

logger = logging.getLogger(__name__)

ALL = "all"
"""Every split of the dataset."""
OPINIONS, LABELS, GIVEN = "opinions.jsonl", "labels.csv", "given.csv"
_REPORT = ("second-opinion.md", "second-opinion.json")
_CODE = (
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.opinion.opinions",
    "sonoray_jobs.evaluation.opinion.claims",
    "sonoray_jobs.evaluation.opinion.opinion_report",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondOpinion:
    """What is thought of a dataset's answers."""

    output: StageOutput
    dataset: str
    topic: str
    split: str
    values: Mapping[str, Any]
    """Content of `second-opinion.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.opinion.opinion_tables import (
            answers_table,
            differences_table,
            ways_line,
        )

        values, folder = self.values, self.output.path
        told = ", ".join(f"{verdict} {number}" for verdict, number in values["verdicts"].items())
        lines = [
            f"{self.split}: {values['num_studies']} answers about {self.topic} ({values['origin']})"
            f", {values['num_suspect']} suspect: {told or 'none'}",
            ways_line(values),
            f"{values['num_calls']} of {values['most_calls']} calls, {values['seconds']:.0f} s; "
            f"model: {values['model']}",
        ]
        if "answers" in values:
            lines += [
                f"true answers: {values['answers']['num_wrong']} of them are wrong; 95 % "
                "intervals over patients",
                *answers_table(values).text(),
                *differences_table(values).text(),
            ]
        lines.append(f"opinions: {folder / OPINIONS}")
        if self.split in ("train", ALL) and "answers" not in values:
            lines.append(
                f"to learn from the mended answers: sonoray relabel {self.dataset} "
                f"{folder / LABELS} --name {self.dataset}-mended"
            )
        if self.split != "train":
            lines.append(
                f"{LABELS} has this model's opinion in place of answers of {self.split}: judge no "
                "model on them"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    topic: str,
    split: str = "test",
    noise: float | None = None,
    claims: str | None = None,
    truth: str | None = None,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> SecondOpinion:
    """Doubt a dataset's answers to one question, and ask a training's model about the suspect ones.

    Args:
        workspace: where everything lies.
        road: the settings; section `opinion` says how.
        dataset: name of the dataset.
        topic: of the closed question.
        split: whose answers are doubted; `all` takes every one.
        noise: share of errors that are planted first, so that the worth can be measured.
        claims: a dataset of the same pictures whose texts give the answers that are doubted.
        truth: a dataset of the same studies whose answers are true.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        ConfigError: two of `noise`, `claims` and `truth` are given, the share is none, or the
            training that `run` names is of another dataset.
        DataError: the training is not finished or was never asked the question, the split is
            unknown or has no such answers, all are the same, or the training has learned the true
            answers of studies whose errors are planted or claimed.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    if sum(each is not None for each in (noise, claims, truth)) > 1:
        raise ConfigError("--plant, --claims and --truth each say what is true; leave one")
    if noise is not None:
        check_rate(noise)
    if split not in (ALL, *SPLITS):
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join((ALL, *SPLITS))}")
    output = workspace.dataset(dataset)
    sources = {
        name: workspace.dataset(other) if other is not None else None
        for name, other in (("claims", claims), ("truth", truth))
    }
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    studies = _studies(output, made, topic)
    labels = _labels(studies, topic, made.road, noise, sources)
    learned = _learned(made, topic)
    judged = [
        study for study in studies if study.study_id in labels.given and split in (ALL, study.split)
    ]
    if not judged:
        raise DataError(f"dataset {dataset!r} has no {split} answer about {topic!r} to doubt")
    if noise is not None and all(
        labels.given[study.study_id] == (labels.truth or {}).get(study.study_id) for study in judged
    ):
        raise DataError(
            f"--plant {noise:g} plants no error among the {len(judged)} {split} answers; plant more"
        )
    settings = made.road.opinion
    check_size(settings, ways_of(settings), settings.calls)
    known = sum(study.study_id in learned for study in judged)
    if known and (noise is not None or claims is not None):
        raise DataError(
            f"training {made.trained.name!r} learned the true answers of {known} of these "
            f"{len(judged)} studies; judge a split that it did not learn from, or write the errors "
            "into a dataset with sonoray relabel and train on that"
        )
    stage = Stage(
        name=f"second-opinion-{dataset}-{split}",
        config={
            "topic": topic,
            "opinion": road.opinion.model_dump(mode="json"),
            "plant": noise,
            "precision": road.evaluate.precision,
            "features": road.embed.dtype,
            "positive_options": road.evaluate.positive_options,
            "only": made.road.evaluate.only,
            "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
        },
        inputs=[
            output.key,
            made.trained.name,
            made.trained.run_id,
            *(f"{name} {each.key}" for name, each in sources.items() if each),
        ],
        code=_CODE,
    )
    result = run_stage(
        stage,
        workspace.stages,
        lambda folder: _make(
            folder, workspace, made, studies, labels, topic, split, known, address, tracking_uri
        ),
    )
    return SecondOpinion(
        output=result,
        dataset=dataset,
        topic=topic,
        split=split,
        values=result.manifest["summary"],
    )


def _studies(output: StageOutput, made: Made, topic: str) -> list[Study]:
    """All studies that are asked the question, with that one alone, worded as in training."""
    everyone = list(iter_studies(output.path, only=made.road.evaluate.only))
    own_answers(everyone, topic)  # refuses what nobody is asked
    kept = [
        replace(study, turns=(turn,)) for study in everyone if (turn := find_turn(study, topic))
    ]
    return [with_site_cue(study) for study in kept] if made.road.train.site_cue else kept


def _labels(
    studies: Sequence[Study],
    topic: str,
    road: RoadConfig,
    noise: float | None,
    sources: Mapping[str, StageOutput | None],
) -> Labels:
    own = own_answers(studies, topic)
    if noise is not None:
        options = {study.study_id: study.turns[0].options for study in studies}
        given = plant(own, options, noise, road.opinion.noise, road.opinion.seed)
        return Labels(given=given, truth=own, origin=f"{noise:.0%} {road.opinion.noise} errors")
    if (claims := sources["claims"]) is not None:
        given = claimed(studies, topic, read_texts(claims.path))
        return Labels(given=given, truth=own, origin="what texts claim")
    if (true := sources["truth"]) is None:
        return Labels(given=own, truth=None, origin="the dataset's own")
    known = own_answers(list(iter_studies(true.path)), topic)
    if lacking := len(set(own).difference(known)):
        raise DataError(
            f"--truth has no answer about {topic!r} of {lacking} of the {len(own)} studies; name "
            "the dataset that this one was relabelled from"
        )
    return Labels(given=own, truth=known, origin="the dataset's own, beside the true ones")


def _learned(made: Made, topic: str) -> set[str]:
    """Ids of the studies whose answer the training learned.

    Raises:
        DataError: there is none.
    """
    found, topics = set(), set()
    for study in iter_training_studies(made.output.path, made.road.train):
        topics |= {turn.topic for turn in study.turns if turn.options}
        if find_turn(study, topic):
            found.add(study.study_id)
    if not found:
        raise DataError(
            f"training {made.trained.name!r} was never asked about {topic!r} and has no opinion of "
            f"it; it was asked about {', '.join(sorted(topics)) or 'no closed question'}"
        )
    return found


def _make(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    labels: Labels,
    topic: str,
    split: str,
    num_learned: int,
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Have opinions, judge them, write into `folder`, log counts."""
    from sonoray.files.corrections import write_corrections
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, require_run
    from sonoray_jobs.evaluation.opinion.opinions import have_opinions

    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, made.trained.run_id)
    begun = time.monotonic()
    found = have_opinions(workspace, made, studies, labels.given, split, address)
    mended = {**labels.given, **{each.study_id: each.answer for each in found.opinions}}
    write_corrections(folder / GIVEN, labels.given, topic)
    write_corrections(folder / LABELS, mended, topic)
    told = [
        {**each.to_json(), **({"truth": labels.truth[each.study_id]} if labels.truth else {})}
        for each in found.opinions
    ]
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in told]
    (folder / OPINIONS).write_text("".join(lines), encoding="utf-8")
    verdicts = Counter(each.verdict for each in found.opinions)
    values: dict[str, Any] = {
        "topic": topic,
        "model": made.trained.name,
        "origin": labels.origin,
        "num_studies": len(found.judged),
        "num_learned": num_learned,
        "num_suspect": len(found.opinions),
        "verdicts": dict(sorted(verdicts.items())),
        "transition": found.transition,
        **found.asked_json(),
        "num_calls": found.num_calls,
        "most_calls": made.road.opinion.calls,
    }
    if labels.truth is not None:
        values |= _judge(found, labels, mended, made.road, topic)
    values["seconds"] = time.monotonic() - begun
    _report(folder, values)
    shown = f"second-opinion/{split}-{topic}-{content_hash(values['origin'])[:6]}"
    counts = {f"{shown}/suspect": float(len(told)), f"{shown}/changed": float(verdicts["change"])}
    if "answers" in values:
        own = values["answers"]["sets"]["mended"]
        counts |= {
            f"{shown}/{rate}": own[rate]["value"] for rate in ("right", "found", "broken")
            if own[rate]
        }  # fmt: skip
    artifacts = {f"{shown}/{name}": folder / name for name in _REPORT}
    log_results(store, made.trained.run_id, counts, artifacts)
    return {**values, "run_id": made.trained.run_id}


def _judge(
    found: "Opinions", labels: Labels, mended: Mapping[str, str], road: RoadConfig, topic: str
) -> dict[str, Any]:
    from sonoray_jobs.evaluation.opinion.opinion_report import (
        judge_answers,
        judge_probes,
    )

    assert labels.truth is not None  # else nothing can be judged
    logger.info("judge the mended answers by linear probes")
    asked = found.judged_asked
    ids = [each.study.study_id for each in asked.studies]
    suspected = {**labels.given, **{each.study_id: each.suspected for each in found.opinions}}
    sets = {
        name: [answers[study] for study in ids]
        for name, answers in (
            ("given", labels.given),
            ("suspected", suspected),
            ("mended", mended),
        )
    }
    truth = [labels.truth[study] for study in ids]
    evaluate = road.evaluate
    bootstrap = Bootstrap(num_resamples=evaluate.bootstrap_samples, seed=evaluate.seed)
    positive = evaluate.positive_options.get(topic)
    return {
        "answers": judge_answers(sets, truth, asked.patients.tolist(), bootstrap),
        "probes": judge_probes(asked, sets, truth, positive, bootstrap, evaluate.seed),
    }


def _report(folder: Path, values: Mapping[str, Any]) -> None:
    from sonoray_jobs.evaluation.opinion.opinion_tables import (
        answers_table,
        differences_table,
        ways_line,
    )

    lines = [ways_line(values)]
    if "answers" in values:
        for table in (answers_table(values), differences_table(values)):
            lines += ["", *table.markdown()]
    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(as_json, values)
