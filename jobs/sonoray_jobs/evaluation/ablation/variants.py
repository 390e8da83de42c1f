"""What each ablation compares: variants of a road, as configuration values by dotted key.

A variant replaces whole values: `{"model.fusion": {"type": "concat"}}`, because the keys of one
fusion are unknown to another. All else stays as the road has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from llava_ultra.config import AdaptiveSampling, FusionConfig
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.objectives.pretraining.mlip import MlipObjective
from llava_ultra.towers.mix.mix_config import OWN_TOWERS
from sonoray.config.load import validate_config
from sonoray.errors import ConfigError, DataError
from sonoray.study.choosing.labels import label_values, telling_labels
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.report import KEEP_ALL
from sonoray_jobs.road.config import RoadConfig

Values = Mapping[str, Any]
"""JSON values by dotted key, each put in place of what stands there."""

DEFAULT_LABEL = "organ"
PHANTOM = "phantom"
REDUNDANCIES = (1, 3, 5, 7, 9)
BALANCES = (0.0, 0.25, 0.5, 0.75, 0.8, 1.0)
SINGLE_SCORES = ("feature", "attention")
"""Variants of the sampling that pick by one score, which no other teaches."""
DISTILLATION = "distillation"
RECOGNITION = "recognition"
"""The ablation that is judged by classes and not by questions (`ways`)."""
EVERYTHING = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One thing to compare."""

    name: str
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Data on which all variants are compared."""

    dataset: str
    name: str = ""
    """As in `redundancy 3`; empty where there is only one."""
    values: Values = field(default_factory=dict)
    is_generated: bool = False
    """Whether it is made from section `phantom`; others must have been ingested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Studies that every variant answers."""

    name: str = ""
    """As in `liver`; empty where there is only one."""
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """A comparison: every variant in every setting, on every test."""

    name: str
    question: str
    """What its result answers."""
    reference: str
    """The variant that the others are compared with."""
    variants: tuple[Variant, ...]
    settings: tuple[Setting, ...]
    towers: Setting | None = None
    """Data that the towers of all settings learn from; each setting's own where None."""
    tests: tuple[EvaluationSet, ...] = (EvaluationSet(),)

    def chosen(self, names: Sequence[str]) -> "Ablation":
        """Keep some of the variants, all where none is named.

        Raises:
            ConfigError: a name is unknown, or fewer than two are left.
        """
        if not names:
            return self
        known = {variant.name: variant for variant in self.variants}
        unknown = [name for name in names if name not in known]
        if unknown or len(set(names)) < 2:
            raise ConfigError(
                f"--variants {','.join(names)} must name two or more of: {', '.join(known)}"
            )
        reference = self.reference if self.reference in names else names[0]
        kept = tuple(variant for variant in self.variants if variant.name in names)
        return replace(self, variants=kept, reference=reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the tables may depend on besides the road."""

    workspace: Workspace
    dataset: str
    redundancies: tuple[int, ...] = ()
    """Images per study on the phantom; by default `REDUNDANCIES`."""
    label: str = DEFAULT_LABEL
    """Study label that tells modalities apart."""
    split: str = "test"
    """Whose studies are asked about."""

    @property
    def is_phantom(self) -> bool:
        """Whether the dataset is the phantom's: as its origin says, its name where it has none."""
        if self.dataset in self.workspace.dataset_names():
            return self.workspace.is_synthetic(self.dataset)
        return self.dataset == PHANTOM

    @property
    def setting(self) -> Setting:
        """The dataset as it is."""
        return Setting(dataset=self.dataset, is_generated=self.is_phantom)


def build_ablation(name: str, road: RoadConfig, request: Request) -> Ablation:
    """Build the ablation called `name`.

    Raises:
        ConfigError: there is none of that name, or it does not fit the road or the dataset.
        DataError: it has to look at a dataset that is missing.
    """
    if name not in ABLATIONS:
        names = ", ".join((*ABLATIONS, RECOGNITION))
        raise ConfigError(f"ablation {name!r} is unknown; use one of {names}")
    if request.redundancies and (name != "sampling" or not request.is_phantom):
        raise ConfigError(
            "--redundancy is for the sampling ablation on the phantom, whose images are made to "
            "order; leave it out"
        )
    return ABLATIONS[name](road, request)


def with_values(road: RoadConfig, values: Values) -> RoadConfig:
    """Put `values` in place of the road's own.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    changed = road.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        table = changed
        for part in path:
            table = table[part]
        table[last] = value
    return validate_config(RoadConfig, changed, f"variant {dict(values)}")


def fusion_types() -> tuple[str, ...]:
    """The types of fusion that the model knows, single streams first."""
    known = [str(part.model_fields["type"].default) for part in get_args(get_args(FusionConfig)[0])]
    return tuple(sorted(known, key=lambda name: (not name.endswith("_only"), known.index(name))))


def _visual(road: RoadConfig, request: Request) -> Ablation:
    own = road.model.fusion
    needs = {"layer_merge": {"model.clip.feature_layers": _layers_to_merge(road)}}
    return Ablation(
        name="visual",
        question="Which visual stream, and which fusion of both, answers best?",
        reference="blend",
        variants=tuple(
            Variant(
                name=name,
                values={
                    "model.fusion": own.model_dump(mode="json")
                    if own.type == name
                    else {"type": name},
                    **needs.get(name, {}),
                },
            )
            for name in fusion_types()
        ),
        settings=(request.setting,),
    )


def _towers(road: RoadConfig, request: Request) -> Ablation:
    """CLIP and SAM, then one further tower after the other, side by side; all of them in a row."""
    names = (*OWN_TOWERS, *(tower.name for tower in road.model.towers))
    if names == OWN_TOWERS:
        raise ConfigError("model.towers is empty; name there the towers that are to be compared")
    mixes = [names[:number] for number in range(2, len(names) + 1)]
    fusions = {"+".join(mix): {"type": "concat", "towers": mix} for mix in mixes}
    fusions["append"] = {"type": "append"}
    return Ablation(
        name="towers",
        question="What is each further tower worth?",
        reference="+".join(OWN_TOWERS),
        variants=tuple(
            Variant(name=name, values={"model.fusion": fusion}) for name, fusion in fusions.items()
        ),
        settings=(request.setting,),
    )


def _layers_to_merge(road: RoadConfig) -> list[int]:
    """The blocks of CLIP that the road reads; all where it reads one."""
    several = getattr(road.model.clip, "feature_layers", ())
    return list(several or range(road.model.clip.layers))


def _sampling(road: RoadConfig, request: Request) -> Ablation:
    adaptive = _adaptive(road)
    keep = {"num_selected": adaptive["num_selected"]}
    objectives = [objective.model_dump(mode="json") for objective in road.model.objectives]
    alone = [each for each in objectives if each["type"] != DISTILLATION]
    samplings: dict[str, dict[str, Any]] = {
        "distilled": adaptive | {"inference_score": "feature"},
        "feature": adaptive | {"balance": 0.0, "inference_score": "feature"},
        "attention": adaptive | {"balance": 1.0, "inference_score": "attention"},
        KEEP_ALL: {"type": KEEP_ALL},
        "first": {"type": "first", **keep},
        "random": {"type": "random", **keep},
    }
    settings: tuple[Setting, ...] = (request.setting,)
    towers = None
    if request.is_phantom:
        if road.bootstrap.dataset is None:
            towers = Setting(dataset=PHANTOM, is_generated=True)
        others = {  # other patients than those that the towers learn from
            "phantom.seed": road.phantom.seed + 1,
            "bootstrap.dataset": road.bootstrap.dataset or PHANTOM,
        }
        settings = tuple(
            Setting(
                name=f"redundancy {number}",
                dataset=f"{PHANTOM}-redundancy-{number}",
                is_generated=True,
                values={
                    "phantom.images": [number, number],
                    "phantom.max_showing": 1,
                    **others,
                },
            )
            for number in request.redundancies or REDUNDANCIES
        )
    return Ablation(
        name="sampling",
        question="Which way to pick images holds when more of them do not show the finding?",
        reference="distilled",
        variants=tuple(
            Variant(
                name=name,
                values={"model.sampling": values}
                | ({"model.objectives": alone} if name in SINGLE_SCORES else {}),
            )
            for name, values in samplings.items()
        ),
        settings=settings,
        towers=towers,
    )


def _balance(road: RoadConfig, request: Request) -> Ablation:
    adaptive = _adaptive(road)
    return Ablation(
        name="balance",
        question="How much should the attention score weigh against the feature score?",
        reference="0.8",
        variants=tuple(
            Variant(name=f"{balance:g}", values={"model.sampling": adaptive | {"balance": balance}})
            for balance in BALANCES
        ),
        settings=(request.setting,),
    )


def _site_cue(road: RoadConfig, request: Request) -> Ablation:  # noqa: ARG001 - as the others
    return Ablation(
        name="site-cue",
        question="Does it help to name the examination site in the question?",
        reference="without",
        variants=(
            Variant(name="without", values={"train.site_cue": False}),
            Variant(name="with", values={"train.site_cue": True}),
        ),
        settings=(request.setting,),
    )


def _objectives(road: RoadConfig, request: Request) -> Ablation:
    """MLIP before the towers are read, LaVer while the adapters learn: neither, one, both.

    A CLIP with published weights is not pretrained here, and MLIP is left out.
    """
    mlip, laver = MlipObjective(), LaverObjective()
    if request.is_phantom:
        mlip = MlipObjective(bank=f"phantom-{road.phantom.language}")
    lists = {
        "bootstrap.clip.objectives": (road.bootstrap.clip.objectives, mlip),
        "model.objectives": (road.model.objectives, laver),
    }

    def values(*chosen: str) -> dict[str, Any]:
        found = {}
        for key, (listed, added) in lists.items():
            own = next((each for each in listed if each.type == added.type), added)
            others = [each for each in listed if each.type != added.type]
            told = [*others, own] if added.type in chosen else others
            found[key] = [each.model_dump(mode="json") for each in told]
        return found

    return Ablation(
        name="objectives",
        question="What are MLIP before and LaVer during the training worth?",
        reference="none",
        variants=tuple(
            Variant(name=name, values=values(*chosen))
            for name, chosen in {
                "none": (),
                "mlip": ("mlip",),
                "laver": ("laver",),
                "both": ("mlip", "laver"),
            }.items()
            if not (road.model.clip.weights and "mlip" in chosen)
        ),
        settings=(request.setting,),
    )


def _modality(road: RoadConfig, request: Request) -> Ablation:
    values, tested = (_label_values(road, request, split) for split in ("train", request.split))
    if len(values) < 2:
        raise ConfigError(
            f"label {request.label!r} has {len(values)} values among the training studies of "
            f"{request.dataset!r}; --label must name one with two or more"
            f"{_telling_labels(request)}"
        )
    return Ablation(
        name="modality",
        question="What does a model that was trained on one kind of study know of another?",
        reference=EVERYTHING,
        variants=(
            Variant(name=EVERYTHING, values={"train.only": {}}),
            *(
                Variant(name=value, values={"train.only": {request.label: value}})
                for value in values
            ),
        ),
        settings=(request.setting,),
        tests=tuple(
            EvaluationSet(name=value, values={"evaluate.only": {request.label: value}})
            for value in values
            if value in tested
        ),
    )


ABLATIONS: Mapping[str, Callable[[RoadConfig, Request], Ablation]] = {
    "visual": _visual,
    "sampling": _sampling,
    "balance": _balance,
    "site-cue": _site_cue,
    "modality": _modality,
    "objectives": _objectives,
    "towers": _towers,
}


def _adaptive(road: RoadConfig) -> dict[str, Any]:
    """The road's adaptive sampling; the default one, of as many images, where it has another."""
    own = road.model.sampling
    if not isinstance(own, AdaptiveSampling):
        own = AdaptiveSampling(num_selected=getattr(own, "num_selected", 1))
    return own.model_dump(mode="json")


def _label_values(road: RoadConfig, request: Request, split: str) -> list[str]:
    if request.is_phantom and request.label == "organ":  # it may not have been made yet
        return [organ.value for organ in road.phantom.organs]
    try:
        folder = request.workspace.dataset(request.dataset).path
    except DataError:
        if not request.is_phantom:
            raise
        raise DataError(
            f"the values of label {request.label!r} are not known before the phantom is made; "
            "run: sonoray ingest phantom with the same --config and --set"
        ) from None
    return label_values(folder, split=split).get(request.label, [])


def _telling_labels(request: Request) -> str:
    """The labels with two or more values, to end a message; nothing where no dataset is made."""
    if request.dataset not in request.workspace.dataset_names():
        return ""
    known = telling_labels(request.workspace.dataset(request.dataset).path, split="train")
    return f": {known}"
