"""Studies of the phantom's second modality: chests in projection, with reports and questions.

Labels are those of a chest set: `modality` DX, and `findings` as ChestX-ray14 calls them, so that
the packaged banks `chest-zh` and `chest-en` know them. A study has one finding or none, and one to
three views that all show it. What is drawn hangs on (seed, patient, study, view) alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sonoray.phantom.cohort import PhantomConfig
from sonoray.phantom.language import LanguageName
from sonoray.phantom.lesion import Side
from sonoray.phantom.projection import ChestFinding, ChestTruth, draw_chest
from sonoray.study.contract import Task, Turn
from sonoray.study.prompt import SITE_LABEL
from sonoray.study.raw import RawImage, RawStudy

_MODALITY = 1
"""Tells the random numbers of this modality from those of ultrasound studies."""
_MOST_VIEWS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """One language."""

    site: str
    sides: Mapping[Side, str]
    presence: Mapping[bool, str]
    kinds: Mapping[ChestFinding | None, str]
    seen: Mapping[ChestFinding | None, str]
    """What a report says of each, with {side}."""
    report: str
    finding: str
    kind: str
    side: str
    impression: str


_WORDS: Mapping[LanguageName, _Words] = {
    "zh": _Words(
        site="胸部",
        sides={Side.LEFT: "左侧", Side.RIGHT: "右侧"},
        presence={True: "有", False: "无"},
        kinds={
            ChestFinding.NODULE: "肺结节",
            ChestFinding.EFFUSION: "胸腔积液",
            ChestFinding.PNEUMOTHORAX: "气胸",
            ChestFinding.CONSOLIDATION: "肺实变",
            ChestFinding.CARDIOMEGALY: "心脏增大",
            None: "未见异常",
        },
        seen={
            ChestFinding.NODULE: "{side}肺野见类圆形致密影，边界清楚。",
            ChestFinding.EFFUSION: "{side}肋膈角变钝，下肺野致密，上缘呈弧形。",
            ChestFinding.PNEUMOTHORAX: "{side}肺外带透亮度增高，无肺纹理，可见气胸线。",
            ChestFinding.CONSOLIDATION: "{side}肺野见斑片状致密影，边界模糊。",
            ChestFinding.CARDIOMEGALY: "心影增大，心胸比大于一半。",
            None: "双肺野清晰，心影大小正常，肋膈角锐利。",
        },
        report="请写出胸片报告。",
        finding="胸片有无异常？",
        kind="胸片显示什么异常？",
        side="异常在左侧还是右侧？",
        impression="提示：{kind}。",
    ),
    "en": _Words(
        site="chest",
        sides={Side.LEFT: "left", Side.RIGHT: "right"},
        presence={True: "yes", False: "no"},
        kinds={
            ChestFinding.NODULE: "nodule",
            ChestFinding.EFFUSION: "pleural effusion",
            ChestFinding.PNEUMOTHORAX: "pneumothorax",
            ChestFinding.CONSOLIDATION: "consolidation",
            ChestFinding.CARDIOMEGALY: "enlarged heart",
            None: "no abnormality",
        },
        seen={
            ChestFinding.NODULE: "A round opacity with a sharp edge in the {side} lung.",
            ChestFinding.EFFUSION: "The {side} costophrenic angle is blunt, with a curved level.",
            ChestFinding.PNEUMOTHORAX: "No markings in the outer {side} zone, with a fine line.",
            ChestFinding.CONSOLIDATION: "A patchy opacity with a blurred edge in the {side} lung.",
            ChestFinding.CARDIOMEGALY: "The heart is wider than half of the chest.",
            None: "Clear lungs, a heart of normal size, sharp costophrenic angles.",
        },
        report="Write the report of the chest film.",
        finding="Is anything abnormal on the film?",
        kind="Which abnormality does the film show?",
        side="Is it on the left or on the right?",
        impression=" Impression: {kind}.",
    ),
}


def plan_chest(config: PhantomConfig, patient: int, number: int = 0) -> ChestTruth:
    """Draw the truth of one study; the studies of a patient share it."""
    del number  # repeat examinations, as those of the ultrasound phantom
    rng = _generator(config, patient)
    found = rng.uniform() >= config.fraction_without_finding
    kinds = list(ChestFinding)
    kind = kinds[int(rng.integers(len(kinds)))]
    return ChestTruth(
        finding=kind if found else None,
        side=list(Side)[int(rng.integers(2))],
        size=float(rng.uniform()),
        x=float(rng.uniform(-1, 1)),
        y=float(rng.uniform(-1, 1)),
    )


def build_chest(config: PhantomConfig, patient: int, number: int = 0) -> RawStudy:
    """Render a study."""
    truth, words = plan_chest(config, patient, number), _WORDS[config.language]
    ref = f"patient-{patient:06d}/study-{number}"
    kind = words.kinds[truth.finding]
    seen = words.seen[truth.finding].format(side=words.sides[truth.side])
    return RawStudy(
        ref=ref,
        patient_ref=f"patient-{patient:06d}",
        images=tuple(
            _view(config, truth, patient, number, view, seen, ref)
            for view in range(_num_views(config, patient, number))
        ),
        turns=_turns(truth, words, seen + words.impression.format(kind=kind)),
        labels={
            "modality": "DX",
            "organ": "chest",
            SITE_LABEL: words.site,
            "finding": "0" if truth.finding is None else "1",
            "findings": "No Finding" if truth.finding is None else truth.finding.value,
            **({"side": truth.side.value} if _has_side(truth) else {}),
        },
        provenance=f"phantom in projection, seed {config.seed}",
    )


def _turns(truth: ChestTruth, words: _Words, report: str) -> tuple[Turn, ...]:
    turns = [
        Turn(question=words.report, answer=report, task=Task.REPORT, topic="report"),
        Turn(
            question=words.finding,
            answer=words.presence[truth.finding is not None],
            task=Task.CLOSED,
            topic="finding",
            options=tuple(words.presence.values()),
        ),
    ]
    if truth.finding is not None:
        turns.append(
            Turn(
                question=words.kind,
                answer=words.kinds[truth.finding],
                task=Task.CLOSED,
                topic="findings",
                options=tuple(words.kinds[kind] for kind in ChestFinding),
            )
        )
    if _has_side(truth):
        turns.append(
            Turn(
                question=words.side,
                answer=words.sides[truth.side],
                task=Task.CLOSED,
                topic="side",
                options=tuple(words.sides.values()),
            )
        )
    return tuple(turns)


def _view(
    config: PhantomConfig,
    truth: ChestTruth,
    patient: int,
    number: int,
    view: int,
    seen: str,
    ref: str,
) -> RawImage:
    rng = _generator(config, patient, number, view)
    image, mask = draw_chest(truth, rng, config.image_size)
    return RawImage(
        ref=f"{ref}/image-{view:02d}",
        data=image,
        mask=mask,
        labels={"shows_finding": "0" if truth.finding is None else "1", "caption": seen},
    )


def _num_views(config: PhantomConfig, patient: int, number: int) -> int:
    low, high = (min(bound, _MOST_VIEWS) for bound in config.images)
    return int(_generator(config, patient, number).integers(low, high + 1))


def _has_side(truth: ChestTruth) -> bool:
    return truth.finding not in (None, ChestFinding.CARDIOMEGALY)


def _generator(config: PhantomConfig, *path: int) -> np.random.Generator:
    """Random numbers of one patient, one of his studies, or one of its views."""
    seed = np.random.SeedSequence(config.seed, spawn_key=(_MODALITY, *path))
    return np.random.default_rng(seed)
