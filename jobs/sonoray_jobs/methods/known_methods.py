"""What methods there are. It is read from the code that runs them, and from one line for each here.

A method that is a member of a seam's union (a fusion, an objective, a perturbation, ...) is listed
because it is a member. What it does and its paper stand in its docstring, and are read there. Here
stands only what no code says: the inputs, the cost and the switch of a kind, and of a member where
they are others. A method that is a command, or a setting of one, has its line in `COMMANDS`, and
names the module whose docstring tells what it does.

`docs/methods.md` has the same table; `tests/unit/sonoray_jobs/methods` compares them.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal[
    "fusion",
    "sampling",
    "objective",
    "pretraining",
    "decoding",
    "perturbation",
    "probe",
    "loop",
    "student",
]
"""What a method changes, in the order of the list: how streams are joined, which images are read,
what the model and CLIP learn from, how tokens are chosen; images and questions; then what scores
states, what calls the endpoint several times, what learns from the model."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_PAPER = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One method."""

    name: str
    kind: Kind
    does: str
    """One sentence."""
    papers: tuple[str, ...]
    """arXiv numbers; none of what is usual, or ours."""
    inputs: str
    cost: str
    switch: str
    """The setting, request field or command that turns it on."""
    is_default: bool = False
    """Whether it is on where nothing is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seam:
    """Methods of one union."""

    kind: Kind
    module: str
    union: str
    switch: str
    """With `{name}` of the member."""
    inputs: str
    cost: str
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By member: `inputs`, `cost` or `switch` where it is another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    """A method that a command runs, or a setting of one."""

    name: str
    kind: Kind
    module: str
    """Whose docstring says what it does, and from which paper it is."""
    inputs: str
    cost: str
    switch: str


_FEATURES = "features of CLIP and SAM"
_MIX = "features of CLIP, SAM and further towers (`model.towers`)"
_STUDY = "studies of several images"

SEAMS = (
    _Seam(
        kind="fusion",
        module="llava_ultra.config",
        union="FusionConfig",
        switch="`model.fusion.type`: `{name}`",
        inputs=_FEATURES,
        cost="trained; of a pass little beside the decoder",
        others={
            "concat": {"inputs": _MIX},
            "append": {
                "inputs": _MIX,
                "cost": "trained; the decoder reads the tokens of every tower",
            },
            "layer_merge": {
                "inputs": "features of several layers of CLIP, and of the other towers where "
                "wanted",
                "cost": "trained; the store grows with the layers",
            },
            "clip_only": {"inputs": "features of CLIP"},
            "sam_only": {"inputs": "features of SAM"},
        },
    ),
    _Seam(
        kind="sampling",
        module="llava_ultra.config",
        union="SamplingConfig",
        switch="`model.sampling.type`: `{name}`",
        inputs=_STUDY,
        cost="none",
        others={
            "adaptive": {"cost": "trained; of a pass little beside the decoder"},
            "keep_all": {"cost": "the decoder reads every image of a study"},
        },
    ),
    _Seam(
        kind="objective",
        module="llava_ultra.config",
        union="ObjectiveConfig",
        switch="`{name}` in `model.objectives`",
        inputs="training studies with questions",
        cost="the training's pass of the decoder",
        others={
            "distillation": {"inputs": "a sampler with scores", "cost": "little"},
            "grounding": {"inputs": "a sampler with scores", "cost": "little"},
            "recognition": {
                "inputs": "training studies with texts; a bank of classes for DKAM",
                "cost": "a pass over images, one over texts and one over the bank for each step",
            },
            "laver": {"cost": "two more passes over the images for each step with adapters"},
        },
    ),
    _Seam(
        kind="pretraining",
        module="llava_ultra.pretrain.pretrain_config",
        union="ClipObjectiveConfig",
        switch="`{name}` in `bootstrap.clip.objectives`",
        inputs="training images with captions",
        cost="the pretraining of CLIP",
        others={
            "mlip": {"inputs": "training images with captions; a bank where classes count"},
        },
    ),
    _Seam(
        kind="decoding",
        module="llava_ultra.decoding.rules",
        union="DecodingRule",
        switch="`{name}` of a request",
        inputs="a running service",
        cost="none",
        others={
            "penalties": {"switch": "`frequency_penalty`, `presence_penalty` of a request"},
            "without": {"switch": "`ignore_eos` of a request"},
        },
    ),
    _Seam(
        kind="perturbation",
        module="llava_ultra.perturbations.gallery",
        union="PerturbationConfig",
        switch="`sonoray robustness --perturb {name}`",
        inputs="a finished training; images",
        cost="a pass of both towers over all images for each strength",
    ),
)
"""Kinds whose members stand in a union."""

COMMANDS = (
    _Command(
        name="tuned-towers",
        kind="pretraining",
        module="llava_ultra.pretrain.tuning",
        inputs="a finished training",
        cost="forward and backward through the towers for each step; then features and training "
        "anew",
        switch="`sonoray tune`, then `bootstrap.tuned`: its name",
    ),
    _Command(
        name="alternate-contrast",
        kind="decoding",
        module="llava_ultra.decoding.contrast",
        inputs="reports in Chinese; three adapters, trained where they are not there",
        cost="four rows of the engine in place of one, in the same pass",
        switch="`extract.contrast.strength`: `0.25`, in `sonoray extract`",
    ),
    _Command(
        name="wording",
        kind="perturbation",
        module="sonoray_jobs.evaluation.robustness.wording",
        inputs="a finished training; closed questions",
        cost="the questions once more for each strength",
        switch="`sonoray robustness --perturb typos`, `sonoray robustness --perturb wrong-claim`",
    ),
    _Command(
        name="calibration",
        kind="perturbation",
        module="llava_ultra.perturbations.calibration",
        inputs="a finished training; some training images, as 64",
        cost="a pass of both towers over these images for each condition; the questions twice",
        switch="`sonoray robustness --references 64`",
    ),
    _Command(
        name="linear",
        kind="probe",
        module="sonoray_jobs.evaluation.probing.probe",
        inputs="closed questions; features of CLIP and SAM",
        cost="seconds, where the features are stored",
        switch="`sonoray probe`",
    ),
    _Command(
        name="suspects",
        kind="probe",
        module="sonoray_jobs.evaluation.probing.suspects",
        inputs="closed questions; features of CLIP and SAM",
        cost="five linear probes of each question",
        switch="`sonoray probe`",
    ),
    _Command(
        name="error-sources",
        kind="probe",
        module="sonoray_jobs.evaluation.modes.error_sources",
        inputs="a finished training; closed questions; reports, or several closed questions",
        cost="an evaluation, linear probes, and the closed questions once more without images",
        switch="`sonoray evaluate --mode all`",
    ),
    _Command(
        name="states",
        kind="probe",
        module="sonoray_jobs.evaluation.encoding.probe_states",
        inputs="a finished training; a table of numbers, or labels",
        cost="a pass of the decoder for each study and instruction; ridge regressions, seconds",
        switch="`sonoray probe-states`",
    ),
    _Command(
        name="recognition",
        kind="probe",
        module="sonoray_jobs.evaluation.recognition.recognize",
        inputs="a training with the objective `recognition`; a bank of classes",
        cost="a pass of the decoder for each study, whatever the number of classes",
        switch="`sonoray recognize`",
    ),
    _Command(
        name="risk",
        kind="probe",
        module="sonoray_jobs.evaluation.structured.predict_risk",
        inputs="labels or a table of patient columns; an outcome",
        cost="seconds",
        switch="`sonoray risk`",
    ),
    _Command(
        name="patient-columns",
        kind="perturbation",
        module="sonoray_jobs.evaluation.telling.tell_columns",
        inputs="a finished training; labels or a table of patient columns; closed questions",
        cost="the closed questions three times",
        switch="`sonoray tell`",
    ),
    _Command(
        name="document-questions",
        kind="probe",
        module="sonoray_jobs.evaluation.documents.ask_pages",
        inputs="images of pages with questions, or a font to make some; an exported model, or none",
        cost="3 s of CPU time for OCR of a page; a model's answers to each question twice",
        switch="`sonoray documents evaluate`",
    ),
    _Command(
        name="distil",
        kind="student",
        module="sonoray_jobs.evaluation.student.distil",
        inputs="a finished training; its closed questions; features of CLIP and SAM",
        cost="the model's answers to the training studies once, then seconds",
        switch="`sonoray distil`",
    ),
    _Command(
        name="second-opinion",
        kind="loop",
        module="sonoray_jobs.evaluation.opinion.second_opinion",
        inputs="a finished training that was asked the question; features of CLIP and SAM",
        cost="probes, seconds; one to six calls for each suspect answer and for the check, capped",
        switch="`sonoray second-opinion`",
    ),
    _Command(
        name="text-to-mask",
        kind="student",
        module="sonoray_jobs.evaluation.segmentation.segment",
        inputs="a finished training; images with masks; features of SAM",
        cost="a pass of the decoder for each image and instruction, then minutes of training",
        switch="`sonoray segment`",
    ),
    _Command(
        name="write-bank",
        kind="loop",
        module="sonoray_jobs.service.class_writer",
        inputs="a running service; training studies of each class",
        cost="three calls for each study that is shown",
        switch="`sonoray write-bank`",
    ),
    _Command(
        name="tools",
        kind="loop",
        module="sonoray_jobs.evaluation.toolcalls.assist",
        inputs="a running service; labels or a table of patient columns; programs where wanted",
        cost="two calls or more for a question, at most `--max-calls`",
        switch="`sonoray assist`",
    ),
    _Command(
        name="roles",
        kind="loop",
        module="sonoray_jobs.evaluation.roles.consult",
        inputs="a running service; a question; training reports for the assistant",
        cost="about 12 calls a round, at most `--max-calls`; training studies shown once",
        switch="`sonoray consult`",
    ),
)
"""Methods that a command runs, or a setting of one."""


def known_methods() -> list[Method]:
    """All methods, by kind."""
    found = [*(method for seam in SEAMS for method in _members(seam)), *map(_of_command, COMMANDS)]
    return sorted(found, key=lambda method: KINDS.index(method.kind))


def _members(seam: _Seam) -> Iterator[Method]:
    from importlib import import_module

    from llava_ultra.config import ModelConfig
    from llava_ultra.pretrain.pretrain_config import ClipPretrainConfig

    model = ModelConfig()
    pretraining = ClipPretrainConfig.model_fields["objectives"].get_default(
        call_default_factory=True
    )
    on = {each.type for each in (model.fusion, model.sampling, *model.objectives, *pretraining)}
    union = getattr(import_module(seam.module), seam.union)
    for member in _classes(union):
        name = member.model_fields["type"].default
        told = {"switch": seam.switch, "inputs": seam.inputs, "cost": seam.cost}
        told |= seam.others.get(name, {})
        texts = [inspect.getdoc(member) or "", sys.modules[member.__module__].__doc__ or ""]
        yield Method(
            name=name,
            kind=seam.kind,
            does=first_sentence(texts[0]),
            papers=next((papers for text in texts if (papers := papers_in(text))), ()),
            inputs=told["inputs"],
            cost=told["cost"],
            switch=told["switch"].format(name=name),
            is_default=name in on,
        )


def _of_command(command: _Command) -> Method:
    text = docstring_of(command.module)
    told = first_sentence(text).rpartition(": ")[2]  # without the name of the job in front
    return Method(
        name=command.name,
        kind=command.kind,
        does=told[0].upper() + told[1:],
        papers=papers_in(text),
        inputs=command.inputs,
        cost=command.cost,
        switch=command.switch,
    )


def _classes(union: Any) -> tuple[type[Any], ...]:  # noqa: ANN401 - an annotated union
    """The members of `Annotated[A | B, ...]`."""
    inner = get_args(union)[0]
    return get_args(inner) or (inner,)


def docstring_of(module: str) -> str:
    """A module's docstring, read without importing it, which may take seconds."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def first_sentence(text: str) -> str:
    """Of a docstring, without the name in front of it, its paper and its full stop."""
    sentence = re.split(r"\.(?:\s|$)|\n\n", text, maxsplit=1)[0].replace("\n", " ")
    sentence = re.sub(r" \(arXiv[^)]*\)", "", sentence)
    return sentence.strip()


def papers_in(text: str) -> tuple[str, ...]:
    """The arXiv numbers that a docstring names, each once."""
    return tuple(dict.fromkeys(_PAPER.findall(text)))
