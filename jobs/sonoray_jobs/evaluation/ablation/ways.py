"""Ways of telling classes, compared: in words, and from features with ever more of LLaVA-RadZ.

`sonoray ablate recognition` trains roads that are alike but for the objective `recognition`, of
several seeds: without it (asked in words, and by the probability of the option), with DFAT, with
DFAT and DKAM, and with learned weights of a class's descriptions (GMAT). A linear probe on the
frozen towers stands beside them. A way called `KEY=VALUE`, as in `layer=-1`, is DFAT and DKAM with
another setting of the objective. All are judged on the same studies: the AUC of each class against
all others, with intervals over patients and seeds. The parts are the road's own content-addressed
jobs, in one Ray session, so that running the command again goes on where it stopped.
"""

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.bank_file import load_bank
from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap, Estimate
from sonoray.metrics.recognition.figures import mean_over_seeds
from sonoray.study.choosing.held_out import is_held_out
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.ablation.ways_compared import WaysCompared, WaysPlanned
from sonoray_jobs.evaluation.recognition import recognize
from sonoray_jobs.evaluation.recognition.asked_in_words import asked_of_classes, word_scores
from sonoray_jobs.evaluation.recognition.recognition_report import SCORES
from sonoray_jobs.outputs.find import find_made, find_training
from sonoray_jobs.outputs.stores import tower_folders
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train

logger = logging.getLogger(__name__)

Scores = npt.NDArray[np.float64]

WORDS, OPTION, PROBE = "words", "option", "probe"
"""Ways that read no decoder states: the free answer and the probability of yes, both of the road
without the objective, and a linear probe on the towers."""
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "dfat": {"bank": ""},
    "dkam": {},
    "gmat": {"pooling": "attention"},
}
"""Ways that read features: what each changes of the objective."""
WAYS = (WORDS, OPTION, PROBE, *FEATURES)
_EQUALS = "="


def roads_of(road: RoadConfig, ways: Sequence[str], seed: int) -> Iterator[tuple[str, RoadConfig]]:
    """The road of each training that the ways need, by the first way that needs it."""
    found = road.model.recognition
    settings = (found or RecognitionObjective()).model_copy(update={"bank": _bank_of(road)})
    others = tuple(
        each for each in road.model.objectives if not isinstance(each, RecognitionObjective)
    )
    if set(ways) & {WORDS, OPTION}:
        yield WORDS, _placed(road, others, seed)
    for way in ways:
        if way not in (WORDS, OPTION, PROBE):
            yield way, _placed(road, (*others, _changed(settings, way)), seed)


def _changed(settings: RecognitionObjective, way: str) -> RecognitionObjective:
    """The objective of a way; of one called KEY=VALUE, where no TOML value is a text."""
    changes = FEATURES.get(way)
    if changes is None:
        key, _, value = way.partition(_EQUALS)
        try:
            changes = tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            changes = {key: value}
    try:
        return RecognitionObjective.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"--variants {way}: {reason}; give another value") from None


def _placed(road: RoadConfig, objectives: Sequence[Any], seed: int) -> RoadConfig:
    listed = [each.model_dump(mode="json") for each in objectives]
    return with_values(road, {"train.seed": seed, "model.objectives": listed})


def plan(*, workspace: Workspace, road: RoadConfig, choice: Choice) -> WaysPlanned:
    """List the trainings, and which are finished; starts nothing.

    Raises:
        ConfigError: a way is unknown.
    """
    trainings = []
    for seed in choice.seeds:
        for way, own in roads_of(road, _chosen(choice), seed):
            try:
                find_training(workspace, own, choice.dataset)
                done = True
            except DataError:
                done = False
            trainings.append((f"{way}, seed {seed}", done))
    return WaysPlanned(trainings=tuple(trainings))


def run(
    *, workspace: Workspace, road: RoadConfig, choice: Choice, address: str | None = None
) -> WaysCompared:
    """Train what is missing, recognise in every way, and compare.

    Args:
        workspace: where everything lies; towers and features must be there.
        road: what the ways vary; its recognition objective names the bank.
        choice: dataset, seeds, ways (`--variants`), split.
        address: Ray cluster.

    Raises:
        ConfigError: a way is unknown.
        DataError: an earlier step is missing, or no study has a class of the bank.
    """
    ways = _chosen(choice)
    output = workspace.dataset(choice.dataset)
    bank = load_bank(_bank_of(road))
    studies = [
        study
        for study in iter_studies(output.path, split=choice.split, complete=False)
        if study.images and bank.classes_of(study.labels)
    ]
    if not studies:
        raise DataError(
            f"no {choice.split} study of {choice.dataset!r} has a class of bank {bank.name!r} "
            f"({', '.join(bank.labels)}); give another bank in model.objectives"
        )
    from sonoray.cluster.session import ray_session

    with ray_session(address):
        scores, runs = _score(workspace, road, choice, ways, studies, bank, address)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    unseen = _unseen(studies, bank, road)
    values = {way: _aucs(found, studies, bank, unseen, bootstrap) for way, found in scores.items()}
    folder = workspace.root / "ablations"
    folder.mkdir(exist_ok=True)
    path = folder / f"recognition-{choice.dataset}-{bank.name}-{choice.split}.json"
    compared = WaysCompared(
        bank=bank.name,
        split=choice.split,
        command=choice.command,
        seeds=choice.seeds,
        unseen=unseen,
        num_studies=len(studies),
        values=values,
        runs=runs,
        path=path,
    )
    write_json(path, compared.to_json())
    return compared


def _score(
    workspace: Workspace,
    road: RoadConfig,
    choice: Choice,
    ways: Sequence[str],
    studies: Sequence[Study],
    bank: ClassBank,
    address: str | None,
) -> tuple[dict[str, list[Scores]], dict[str, list[str]]]:
    """Scores (N, C) of each way and seed, and the runs of its trainings."""
    scores: dict[str, list[Scores]] = {way: [] for way in ways}
    runs: dict[str, list[str]] = {way: [] for way in ways}
    common: dict[str, Any] = {
        "workspace": workspace,
        "dataset": choice.dataset,
        "address": address,
    }
    if PROBE in ways:
        scores[PROBE].append(_probe(workspace, road, choice.dataset, studies, bank))
    for seed in choice.seeds:
        for way, own in roads_of(road, ways, seed):
            logger.info("%s, seed %d", way, seed)
            trained = train.run(road=own, **common)
            if way == WORDS:
                told = _ask(workspace, own, choice.dataset, studies, bank, address)
                for name, found in ((WORDS, told.said), (OPTION, told.probability)):
                    if name in ways:
                        scores[name].append(found)
                        runs[name].append(trained.run_id)
                continue
            done = recognize.run(road=own, classes=_bank_of(road), split=choice.split, **common)
            scores[way].append(_read(done.output.path, studies, bank))
            runs[way].append(trained.run_id)
    return scores, runs


def _chosen(choice: Choice) -> tuple[str, ...]:
    settings = RecognitionObjective.model_fields
    own = [way for way in choice.variants if way.partition(_EQUALS)[0] in settings]
    if unknown := sorted(set(choice.variants).difference(WAYS, own)):
        raise ConfigError(
            f"--variants {', '.join(unknown)} are no ways of recognition; use some of "
            f"{', '.join(WAYS)}, or KEY=VALUE with a setting of the objective, as layer=-1"
        )
    named = tuple(way for way in WAYS if not choice.variants or way in choice.variants)
    return (*named, *own)


def _bank_of(road: RoadConfig) -> str:
    """The bank as a command takes it: that of the road's objective, or the phantom's."""
    settings = road.model.recognition
    return (settings and settings.bank) or f"phantom-{road.phantom.language}"


def _ask(
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    studies: Sequence[Study],
    bank: ClassBank,
    address: str | None,
) -> Any:  # noqa: ANN401 - WordScores
    """Ask a trained model about every class in words."""
    from sonoray_jobs.evaluation.answer_pool import answer_studies, features_of
    from sonoray_jobs.training.restore import load_trained

    made = find_made(workspace, road, dataset)
    rows = answer_studies(
        asked_of_classes(studies, bank),
        load=partial(load_trained, made.located, road.evaluate.precision),
        trained_in=road.train.precision,
        settings=road.evaluate.model_copy(update={"max_tokens": 4}),
        features=features_of(workspace, made),
        address=address,
    )
    return word_scores(rows, studies, bank)


def _probe(
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    studies: Sequence[Study],
    bank: ClassBank,
) -> Scores:
    """Fit a probe on the training studies; no seed bears on it."""
    from sonoray_jobs.evaluation.recognition.study_probe import probe_classes
    from sonoray_jobs.outputs.find import find_parts, open_stores
    from sonoray_jobs.towers.feature_source import feature_source
    from sonoray_jobs.training.studies import iter_training_studies

    output, parts = workspace.dataset(dataset), find_parts(workspace, road, dataset)
    features = feature_source(
        road.embed,
        model=road.model,
        dataset=output.path,
        folders=tower_folders(parts),
        stores=open_stores(workspace, road, dataset),
    )
    learned = list(iter_training_studies(output.path, road.train))
    return probe_classes(learned, studies, bank, features)


def _read(folder: Path, studies: Sequence[Study], bank: ClassBank) -> Scores:
    """The shares (N, C) that `sonoray recognize` wrote, in the order of the studies."""
    import pyarrow.parquet as pq

    found = {
        row["study_id"]: {each["class"]: each["share"] for each in json.loads(row["scores"])}
        for row in pq.read_table(folder / SCORES).to_pylist()
    }
    return np.array([[found[s.study_id][name] for name in bank.names] for s in studies])


def _unseen(studies: Sequence[Study], bank: ClassBank, road: RoadConfig) -> tuple[str, ...]:
    """Classes all of whose studies have a label of `train.hold_out`."""
    held: dict[int, set[bool]] = {}
    for study in studies:
        for number in bank.classes_of(study.labels):
            held.setdefault(number, set()).add(is_held_out(study, road.train.hold_out))
    return tuple(bank.names[number] for number in sorted(held) if held[number] == {True})


def _aucs(
    scores: Sequence[Scores],
    studies: Sequence[Study],
    bank: ClassBank,
    unseen: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Estimate | None]:
    truth = np.zeros((len(studies), len(bank.classes)), dtype=bool)
    for row, study in enumerate(studies):
        truth[row, list(bank.classes_of(study.labels))] = True
    patients = [study.patient_key for study in studies]
    judged = [n for n in range(truth.shape[1]) if truth[:, n].any() and not truth[:, n].all()]
    groups = {"mean": judged}
    if unseen:
        groups["seen"] = [n for n in judged if bank.names[n] not in unseen]
        groups["unseen"] = [n for n in judged if bank.names[n] in unseen]
    groups |= {bank.names[number]: [number] for number in judged}
    return {
        name: mean_over_seeds(scores, truth, numbers, patients, bootstrap) if numbers else None
        for name, numbers in groups.items()
    }
