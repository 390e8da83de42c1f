"""Validate: judge an exported model on a dataset that it was not trained on.

1. the model and its record are read (`exported_model`), its topics put into the dataset's words
   (`mapping`);
2. studies whose patient it has seen are set aside (`seen_images`);
3. its own towers embed the dataset's images into the workspace's store, and the actors of
   `sonoray evaluate` answer;
4. every topic is judged (`verdict`), with groups (`subgroups`) and beside the internal test.

All studies of the dataset are test studies, whatever split ingest gave them. The output is a
content-addressed stage: `predictions.parquet`, which stays in the workspace, and what holds nothing
of a patient: `validation.html`, `validation.json` and the curves. These go to the model's MLflow
run, or to one of its own where the store does not know the training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.external.asking import ALL, ask
from sonoray_jobs.evaluation.external.exported_model import ExportedModel, open_exported
from sonoray_jobs.evaluation.external.external_report import (
    PAGE,
    VALUES,
    judge_all,
    to_values,
    topic_headlines,
    write_report,
)
from sonoray_jobs.evaluation.external.mapping import TopicMap, map_topics
from sonoray_jobs.evaluation.external.summary_tables import account_table, overview_table
from sonoray_jobs.evaluation.external.validation_page import template_digest
from sonoray_jobs.outputs.stores import features_root, stores_of
from sonoray_jobs.road.config import ExternalConfig, RoadConfig
from sonoray_jobs.road.placement import EVALUATION_PLACEMENT, without_neutral

_CODE = (
    "llava_ultra.export.assistant",
    "sonoray_jobs.evaluation.answer",
    "sonoray_jobs.evaluation.external.asking",
    "sonoray_jobs.evaluation.external.external_report",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Validated:
    """What the validation of a model says."""

    output: StageOutput
    values: Mapping[str, Any]
    """Content of `validation.json`."""

    def lines(self) -> list[str]:
        """What a person reads."""
        model, dataset, studies = (self.values[name] for name in ("model", "dataset", "studies"))
        return [
            f"{model['name']} ({model['training']}) on {dataset['name']}, {dataset['split']}: "
            f"{studies['judged']} studies of {studies['patients']} patients, 95 % intervals over "
            "patients",
            "",
            *account_table(self.values).text(),
            "",
            *overview_table(self.values).text(),
            "",
            *(f"{each['kind']}: {each['message']}" for each in self.values["remarks"]),
            f"page: {self.output.path / PAGE}",
            f"predictions: {self.output.path / 'predictions.parquet'}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        page = str(self.output.path / PAGE)
        return {**self.values, "path": str(self.output.path), "page": page}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    model: str,
    dataset: str,
    split: str = ALL,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Validated:
    """Judge an exported model on a dataset.

    Args:
        workspace: holds the dataset, and gets features and results.
        road: its sections `embed`, `evaluate` and `external` count; the model brings its own.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or an exported folder.
        dataset: name of the dataset.
        split: a split of it, or `all`.
        address: the cluster, as for every job.
        tracking_uri: MLflow's store, by default the configured one.

    Raises:
        CheckpointError: the model is missing, damaged or lacks the record of its training.
        ConfigError: the settings name topics or options that the model does not have.
        DataError: there is no such dataset, nothing of it can be asked, or the model has seen it.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the model.
    """
    from sonoray.tracking.connection import open_store

    if split not in (ALL, *SPLITS):
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join((ALL, *SPLITS))}")
    output = workspace.dataset(dataset)
    store = open_store(workspace, tracking_uri)
    exported = open_exported(model, store, workspace)
    maps = _maps(exported, road)
    evaluate = road.evaluate.model_dump(mode="json", exclude=set(EVALUATION_PLACEMENT))
    stage = Stage(
        name=f"validate-{dataset}-{split}",
        config={
            "evaluate": without_neutral("evaluate", evaluate),
            "external": road.external.model_dump(mode="json"),
            "template": template_digest(),
        },
        inputs=[output.key, exported.digest],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        from sonoray.tracking.runs import log_results, run_of_model

        run_id = run_of_model(
            store,
            exported.run_id,
            name=exported.name,
            experiment=road.experiment,
            tags={"sonoray.model": exported.digest},
        )
        asked = ask(output, exported, maps, road.evaluate.only, split)
        predictions = _answer(workspace, road, output, exported, asked.studies, address)
        _write_predictions(folder, predictions)
        verdicts, left_out = judge_all(predictions, asked, exported, maps, road)
        values = to_values(
            exported, asked, maps, verdicts, dataset=dataset, dataset_key=output.key, split=split
        )
        values |= {"labels_left_out": left_out, "least_patients": road.external.least_patients}
        write_report(folder, values, verdicts)
        shown = _shown_name(dataset, split, road)
        artifacts = {f"external/{shown}/{name}": folder / name for name in (PAGE, VALUES)}
        log_results(store, run_id, topic_headlines(verdicts, f"external-{shown}"), artifacts)
        return {"run_id": run_id, "num_studies": len(asked.studies)}

    result = run_stage(stage, workspace.stages, make)
    values = json.loads((result.path / VALUES).read_text(encoding="utf-8"))
    return Validated(output=result, values=values)


def _maps(model: ExportedModel, road: RoadConfig) -> dict[str, TopicMap]:
    """The model's topics, or those of `evaluate.topics`, in the dataset's words."""
    known, wanted = model.record.facts.topics, road.evaluate.topics
    if unknown := sorted(set(wanted).difference(known)):
        raise DataError(
            f"evaluate.topics {unknown} are no closed topics of model {model.name!r}; use some of "
            f"{sorted(known)}"
        )
    if not known:
        raise DataError(
            f"model {model.name!r} was trained on no closed question that other studies can be "
            "asked; only closed topics of one question can be judged elsewhere"
        )
    records = {name: record for name, record in known.items() if not wanted or name in wanted}
    return map_topics(records, names=road.external.topics, values=road.external.values)


def _answer(
    workspace: Workspace,
    road: RoadConfig,
    output: StageOutput,
    model: ExportedModel,
    studies: Sequence[Study],
    address: str | None,
) -> list[dict[str, Any]]:
    """Embed with the model's towers and answer, in one Ray session."""
    from llava_ultra.export.assistant import load_exported
    from sonoray.cluster.session import ray_session
    from sonoray_jobs.evaluation.answer_pool import answer_studies
    from sonoray_jobs.towers.embedding import embed_dataset
    from sonoray_jobs.towers.feature_source import feature_source, tower_stages

    dtype = model.record.facts.dtype  # that of training, whatever the road says
    embed = road.embed.model_copy(update={"dtype": dtype, "precision": model.tower_precision})
    root = features_root(workspace, road)
    stores = stores_of(root, model.config, embed, model.fingerprints)
    folders = model.tower_folders
    kept = {tower: folder for tower, folder in folders.items() if embed.keeps(tower)}
    features = feature_source(
        embed,
        model=model.config,
        dataset=output.path,
        folders=folders,
        stores=stores,
        device="cuda" if road.evaluate.actor_gpus else "cpu",
    )
    with ray_session(address):
        if kept:
            embed_dataset(output, tower_stages(embed, model.config, kept, stores), embed, address)
        return answer_studies(
            studies,
            load=partial(load_exported, model.folder, road.evaluate.precision),
            trained_in=model.precision,
            settings=road.evaluate,
            features=features,
            address=address,
        )


def _write_predictions(folder: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(predictions)), folder / "predictions.parquet")


def _shown_name(dataset: str, split: str, road: RoadConfig) -> str:
    """What a validation is called in MLflow: other settings never overwrite it."""
    name = dataset if split == ALL else f"{dataset}-{split}"
    chosen = road.model_dump(
        mode="json", include={"evaluate": {"only", "topics", "precision"}, "external": True}
    )
    chosen["evaluate"] = without_neutral("evaluate", chosen["evaluate"])
    usual = {
        "evaluate": {"only": {}, "topics": []},
        "external": ExternalConfig().model_dump(mode="json"),
    }
    return name if chosen == usual else f"{name}-{content_hash(chosen)[:6]}"
