"""Extract: structured fields out of the reports of a dataset, plainly or by contrast (ALCD).

Contrastive decoding is arXiv 2410.15702; `llava_ultra.decoding.contrast` has the rule.

Three content-addressed stages. The decoder is the road's language model, that of `sonoray
bootstrap` where it is made; of a dataset without images it is made from the training texts by the
same code. The roles are three adapters on it, taught the fields that rules find in training
reports. The last stage reads the fields out of a split: `fields.parquet` stays in the workspace,
`extraction.md` and `extraction-report.json` hold figures alone. Texts that training has are left
out, and of equal texts one is read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.choosing.held_out import is_held_out, without_topics
from sonoray.study.contract import SPLITS, Study, Task, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.part_keys import stage_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.learning_texts import learning_studies

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.extraction.extraction_report import Extracted
    from sonoray_jobs.evaluation.extraction.reading import FieldReader

logger = logging.getLogger(__name__)

_ROLES_CODE = (
    "llava_ultra.pretrain.roles",
    "sonoray_jobs.evaluation.extraction.fields",
    "sonoray_jobs.evaluation.extraction.reading",
)
_CODE = (
    "sonoray_jobs.evaluation.extraction.reading",
    "sonoray_jobs.evaluation.extraction.extraction_report",
)
_FIELDS, _REPORT = "fields.parquet", ("extraction.md", "extraction-report.json")
_CHUNK = 64
"""Reports that are read one way before they are read the other, so that both see the same load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """Fields of a split, judged."""

    output: StageOutput
    split: str
    values: Mapping[str, Any]
    """Content of the report."""

    def lines(self) -> list[str]:
        """What a person reads."""
        from sonoray_jobs.evaluation.extraction.extraction_report import extraction_table

        values = self.values
        lines = [
            f"{self.split}: {values['num_judged']} different texts that training does not have, of "
            f"{values['num_reports']} reports; 95 % intervals over patients",
            *extraction_table(values).text(),
            f"wall time a report: plain {values['plain_ms']:.1f} ms",
        ]
        if values["contrast"] is not None:
            lines[-1] += (
                f", contrast {values['contrast_ms']:.1f} ms ({values['time_ratio']:.2f} times)"
            )
        if values["num_too_long"]:
            lines.append(
                f"{values['num_too_long']} texts do not fit model.language.context_length; left out"
            )
        lines.append(f"fields: {self.output.path / _FIELDS}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.values}


def run(*, workspace: Workspace, road: RoadConfig, dataset: str, split: str = "test") -> Extraction:
    """Train the roles where they are not there, extract, judge.

    Args:
        workspace: where everything lies.
        road: the settings; section `extract` says how.
        dataset: name of the dataset.
        split: whose reports are read; the roles learn from the training reports.

    Raises:
        DataError: there is no training report with a field, or none in the split that training
            does not have; or a text does not fit the context.
        ConfigError: the roles' adapters cannot share a batch.
        ValueError: there are fewer reports than a batch, or the decoder cannot be batched.
    """
    if split not in SPLITS[1:]:
        raise DataError(
            f"split {split!r} is none to extract from; choose {' or '.join(SPLITS[1:])}"
        )
    if road.extract.lora.variant == "dora":
        raise ConfigError(
            "extract.lora.variant 'dora': the roles are decoded in one batch, which DoRA cannot "
            "share; set it to lora or rslora"
        )
    output = workspace.dataset(dataset)
    language = _language(workspace, road, output)
    settings = road.extract
    roles = run_stage(
        Stage(
            name=f"extract-roles-{dataset}",
            config={
                "roles": settings.roles.model_dump(mode="json"),
                "lora": settings.lora.model_dump(mode="json"),
                "context": road.model.language.context_length,
            },
            inputs=[output.key, language.key],
            code=_ROLES_CODE,
        ),
        workspace.stages,
        lambda folder: _train(folder, road, output, language),
    )
    result = run_stage(
        Stage(
            name=f"extract-{dataset}-{split}",
            config={
                "contrast": settings.contrast.model_dump(mode="json"),
                "max_tokens": settings.max_tokens,
                "at_once": settings.at_once,
                "bootstrap": [road.evaluate.bootstrap_samples, road.evaluate.seed],
            },
            inputs=[roles.key],
            code=_CODE,
        ),
        workspace.stages,
        lambda folder: _extract(folder, road, output, (language, roles), split),
    )
    return Extraction(output=result, split=split, values=result.manifest["summary"])


def reports_of(studies: Sequence[Study]) -> list[tuple[Study, str]]:
    """Each study that has a report, with its text."""
    return [
        (study, turn.answer)
        for study in studies
        for turn in study.turns
        if turn.task is Task.REPORT
    ]


def _learning_studies(output: StageOutput, road: RoadConfig) -> list[Study]:
    """What parts learn from; of a dataset without images, the texts."""
    hold_out = road.train.hold_out
    if any(iter_studies(output.path, split="train")):
        return learning_studies(output.path, hold_out)
    return [
        without_topics(study, hold_out)
        for study in iter_studies(output.path, split="train", complete=False)
        if not is_held_out(study, hold_out)
    ]


def _language(workspace: Workspace, road: RoadConfig, output: StageOutput) -> StageOutput:
    """The decoder, made where it is not there."""
    from sonoray_jobs.towers.learn_language import make_language

    def make(folder: Path) -> dict[str, Any]:
        studies = _learning_studies(output, road)
        logger.info("make the language model from the texts of %d studies", len(studies))
        return make_language(folder, road, output.path, studies, _Steps("language model"))

    return run_stage(stage_of("language", road, output), workspace.stages, make)


class _Steps:
    """Says now and then how far a training is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = perf_counter()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        if step == steps or perf_counter() - self._said > 20:
            self._said = perf_counter()
            logger.info("%s: step %d of %d, loss %.3f", self._what, step, steps, loss)


def _train(
    folder: Path, road: RoadConfig, output: StageOutput, language: StageOutput
) -> dict[str, Any]:
    """Teach the roles and write their adapters into `folder`."""
    from safetensors.torch import save_file

    from llava_ultra.language.decoder import load_language
    from llava_ultra.pretrain.roles import train_roles
    from sonoray_jobs.evaluation.extraction.fields import find_fields
    from sonoray_jobs.evaluation.extraction.reading import encode_example

    loaded = load_language(language.path)
    texts = [text for _, text in reports_of(_learning_studies(output, road))]
    examples = [encode_example(loaded.tokenizer, text, find_fields(text)) for text in texts]
    context = road.model.language.context_length
    fitting = [each for each in examples if len(each.prompt) + len(each.answer) <= context]
    if not any(len(each.answer) > 1 for each in fitting):
        raise DataError(
            f"no training report of {str(output.path)!r} has a field and fits "
            f"model.language.context_length {context}; ingest reports in Chinese, or raise it"
        )
    settings = road.extract
    states, losses = train_roles(loaded, fitting, settings.lora, settings.roles, _Steps("roles"))
    for role, state in states.items():
        save_file(state, folder / f"{role}.safetensors")
    return {
        "num_reports": len(fitting),
        "num_too_long": len(examples) - len(fitting),
        "losses": {role: sum(each[-20:]) / len(each[-20:]) for role, each in losses.items()},
    }


def _extract(
    folder: Path,
    road: RoadConfig,
    output: StageOutput,
    made: tuple[StageOutput, StageOutput],
    split: str,
) -> dict[str, Any]:
    """Read the fields of a split, judge them, write into `folder`."""
    from safetensors.torch import load_file

    from llava_ultra.language.decoder import load_language
    from llava_ultra.language.role_names import ROLES
    from sonoray_jobs.evaluation.extraction.extraction_report import (
        compare,
        extraction_table,
        judge,
        to_json,
    )
    from sonoray_jobs.evaluation.extraction.reading import FieldReader

    language, roles = made
    settings = road.extract
    reader = FieldReader(
        load_language(language.path),
        {role: load_file(roles.path / f"{role}.safetensors") for role in ROLES},
        settings.lora,
        road.model,
        at_once=settings.at_once,
        own_prompt=settings.roles.own_prompt,
    )
    learned = {text for _, text in reports_of(_learning_studies(output, road))}
    everything = reports_of(list(iter_studies(output.path, split=split, complete=False)))
    unseen = {text: study for study, text in reversed(everything) if text not in learned}
    judged = [(study, text) for text, study in unseen.items() if reader.fits(text)]
    if not judged:
        raise DataError(
            f"the {len(everything)} reports of split {split} hold no text that training does not "
            "have and that fits model.language.context_length; ingest others, or raise it"
        )
    plain, contrast, seconds = _read_both(reader, judged, road)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values: dict[str, Any] = {
        "num_reports": len(everything),
        "num_judged": len(judged),
        "num_too_long": len(unseen) - len(judged),
        "plain": judge(plain, bootstrap),
        "plain_ms": 1000 * seconds[0] / len(judged),
        "contrast": None,
    }
    if contrast:
        values |= {
            "contrast": judge(contrast, bootstrap),
            "differences": to_json(compare(plain, contrast, bootstrap)),
            "contrast_ms": 1000 * seconds[1] / len(judged),
            "time_ratio": seconds[1] / seconds[0],
        }
    _write_fields(folder / _FIELDS, contrast or plain)
    markdown, as_json = (folder / name for name in _REPORT)
    markdown.write_text("\n".join(extraction_table(values).markdown()) + "\n", encoding="utf-8")
    write_json(as_json, values)
    return values


def _read_both(
    reader: "FieldReader", judged: Sequence[tuple[Study, str]], road: RoadConfig
) -> tuple[list["Extracted"], list["Extracted"], tuple[float, float]]:
    """Read reports plainly and, where it is on, by contrast; with the wall time of each, s."""
    from llava_ultra.decoding.contrast_config import ContrastConfig
    from sonoray.cluster.progress import progress
    from sonoray_jobs.evaluation.extraction.extraction_report import Extracted

    settings = road.extract
    ways = [ContrastConfig(strength=0)]
    if settings.contrast.strength:
        ways.append(settings.contrast)
    sides: list[list[Extracted]] = [[], []]
    seconds = [0.0, 0.0]
    starts = range(0, len(judged), _CHUNK)
    for start in progress(starts, f"extract from {len(judged)} reports, {_CHUNK} at a time"):
        part = judged[start : start + _CHUNK]
        for at, way in enumerate(ways):
            begun = perf_counter()
            texts = [text for _, text in part]
            answers = dict(reader.read(texts, way, max_tokens=settings.max_tokens))
            seconds[at] += perf_counter() - begun
            sides[at] += [
                Extracted(
                    study_id=study.study_id,
                    patient_key=study.patient_key,
                    report=text,
                    answer=answers[number],
                )
                for number, (study, text) in enumerate(part)
            ]
    return sides[0], sides[1], (seconds[0], seconds[1])


def _write_fields(path: Path, side: Sequence["Extracted"]) -> None:
    """Write one row per stated field."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray_jobs.evaluation.extraction.fields import is_hallucinated

    rows = [
        {
            "study_id": each.study_id,
            "field": field.name,
            "value": field.value,
            "in_report": not is_hallucinated(field, each.report),
        }
        for each in side
        for field in each.stated
    ]
    names = ("study_id", "field", "value")
    schema = pa.schema([*((name, pa.string()) for name in names), ("in_report", pa.bool_())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
