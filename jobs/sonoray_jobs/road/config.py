"""The configuration of a whole road: one TOML file, one section per step.

Packaged roads lie in `sonoray_jobs/road/presets`: the sizes `tiny` (phantom studies, two CPU cores,
minutes), `base` (one 24 GB GPU) and `paper` (our stand-in for LLaVA-Ultra at full size), and
`busbra` (the public BUS-BRA set, tiny parts); `evidence` is the road of the experiments on the
phantom. Every command reads the same file and finds what earlier commands made by content, so
nothing has to be passed from one to the next by hand.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from llava_ultra.config import LoraSettings, ModelConfig
from llava_ultra.decoding.contrast_config import ContrastConfig
from llava_ultra.parameters.precision_names import AnswerPrecision
from llava_ultra.pretrain.pretrain_config import (
    ClipPretrainConfig,
    LanguagePretrainConfig,
    RolesConfig,
    SamPretrainConfig,
)
from llava_ultra.pretrain.tune_config import TuneConfig
from llava_ultra.recognition.names import Against, Pooling, Readout
from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from llava_ultra.student.student_config import StudentConfig
from sonoray.config.load import load_config
from sonoray.config.model import Config
from sonoray.documents.document_config import DocumentsConfig
from sonoray.errors import ConfigError
from sonoray.images.video import VideoConfig
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.phantom import PhantomConfig
from sonoray_jobs.road.assist_config import AssistConfig
from sonoray_jobs.road.consult_config import ConsultConfig
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.road.risk_config import RiskConfig, TellConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_serve.settings import ServeConfig


class BootstrapConfig(Config):
    """How the small towers and the small language model are made."""

    language: LanguagePretrainConfig = LanguagePretrainConfig()
    clip: ClipPretrainConfig = ClipPretrainConfig()
    sam: SamPretrainConfig = SamPretrainConfig()
    dataset: str | None = Field(default=None, min_length=1)
    """Dataset whose training patients they learn from, by default the one that is trained on; so
    that several datasets can share towers."""
    tuned: str = Field(default="", pattern=r"^[\w.\-]*$", examples=["tune-phantom-3f2a51c09d7e"])
    """Tuning that the towers are taken from (`sonoray tune`), by its name; empty takes none."""


class EvaluateConfig(Config):
    """How answers are made and judged."""

    batch_size: int = Field(default=16, ge=1)
    """Studies whose features are read and fused at once."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens of images, questions and answers in the decoder's cache at once; a branch for an
    option counts its prompt again. Twice as many are alive for a moment: 0.4 MB each of `base`."""
    actors: int = Field(default=2, ge=1)
    actor_cpus: float = Field(default=1, ge=0)
    actor_gpus: float = Field(default=0, ge=0)
    precision: AnswerPrecision = "trained"
    """What the model multiplies in; by default what it was trained in."""
    max_tokens: int = Field(default=96, ge=1)
    """Longest answer, tokens."""
    only: dict[str, str] = Field(default_factory=dict)
    """Labels that an evaluated study must have, as in {organ = "liver"}; empty takes all."""
    topics: tuple[str, ...] = ()
    """Topics that are asked, as in ["margin", "pathology"]; empty asks all. Reports and other free
    texts take most of an evaluation's time. Other topics than the training's road has get names of
    their own in MLflow."""
    positive_options: dict[str, str] = Field(default_factory=dict)
    """By topic: the option that counts as positive in the AUC; where absent, of two options the one
    beside a plain no, else the last one."""
    bootstrap_samples: int = Field(default=2000, ge=1000)
    """Patient resamples behind each interval."""
    seed: int = 0


class RecognizeConfig(Config):
    """How classes are recognised from features (`sonoray recognize`)."""

    against: Against | Literal["trained"] = "trained"
    """What a class is told by: `descriptions` of the bank, `prompts` with its name, or
    `embeddings`, as DKAM learned them; by default these where it did and every class has
    descriptions, else `descriptions`."""
    pooling: Pooling | Literal["trained"] = "trained"
    """How a class's descriptions are pooled; by default as in training."""
    readout: Readout | Literal["trained"] = "trained"
    """Which vectors of a study and a class are compared; by default as the training says."""
    label: str = ""
    """Study label that holds the truth, where the bank names none."""

    @property
    def reading(self) -> dict[str, str]:
        """What decides a study's shares of classes, by setting."""
        return {"against": self.against, "pooling": self.pooling, "readout": self.readout}


Level = Literal["modality", "anatomy", "lesion", "diagnosis"]
"""What a question is about, from the kind of picture to what the patient has."""


class ModesConfig(Config):
    """How errors are traced to their source (`sonoray evaluate --mode all`)."""

    levels: dict[str, Level] = Field(default_factory=dict)
    """By topic its level, where it is another than usual, as in {size = "lesion"}."""


class StatesConfig(Config):
    """What states are asked to predict (`sonoray probe-states`)."""

    instructions: tuple[str, ...] = ()
    """What the model is told in front of them, each by itself and beside nothing at all; empty
    takes the commonest question of each topic of the training."""
    targets: tuple[str, ...] = ()
    """Columns of the table, or labels, that are predicted; empty takes all."""


NoiseKind = Literal["symmetric", "pairwise"]
"""Which other option a planted error is: any, or the next one."""
Asking = Literal["auto", "exemplars", "statement", "options"]
"""How a model is asked for its opinion; `auto` takes the way that the check is best at."""


class OpinionConfig(Config):
    """How answers of a dataset are doubted, and a model asked (`sonoray second-opinion`)."""

    noise: NoiseKind = "symmetric"
    """Which errors `--plant` plants."""
    seed: int = Field(default=0, ge=0)
    """Of planted errors, and of the studies that the check draws."""
    confidence: Literal["probe", "model"] = "probe"
    """Whose probabilities the transition matrix is made of: linear probes that did not see the
    patient, or the model's of the options, which has learned the answers of training studies."""
    spread: int = Field(default=0, ge=0)
    """Studies of an answer that make its row of the matrix, spread evenly over their confidence; 0
    takes all."""
    candidates: int = Field(default=2, ge=2)
    """Options that the model is asked about: the answer, the suggested one, and those that the
    matrix takes most often for the answer."""
    asking: Asking = "auto"
    """`exemplars`: true or false, behind a right and a wrong exemplar; `statement`: true or false
    alone; `options`: the question itself, by the likelihood of its options."""
    exemplars: int = Field(default=3, ge=1)
    """Pairs of exemplars for each option, the nearest by features."""
    check: int = Field(default=48, ge=8)
    """Studies that are not suspect, by which ways of asking are judged."""
    centred: bool = True
    """Whether an option's mean score over the check is subtracted, since a model may find one
    option truer than another whatever it sees."""
    sure: float = Field(default=0.6, ge=0.5, lt=1)
    """Least confidence, of the best option against the next; below it an opinion is undecided."""
    calls: int = Field(default=4000, ge=1)
    """Most prompts that the model reads, those of the check among them."""


class ExtractConfig(Config):
    """How structured fields are read out of reports (`sonoray extract`)."""

    contrast: ContrastConfig = ContrastConfig()
    """How tokens are chosen; `extract.contrast.strength=0.25` turns contrastive decoding on."""
    roles: RolesConfig = RolesConfig()
    """How the adapters are trained."""
    lora: LoraSettings = LoraSettings()
    """Their shape."""
    max_tokens: int = Field(default=160, ge=8)
    """Longest answer, tokens."""
    at_once: int = Field(default=16, ge=1)
    """Most reports that are decoded together."""


class ExternalConfig(Config):
    """How an exported model is judged on a dataset of others (`sonoray validate`)."""

    topics: dict[str, str] = Field(default_factory=dict)
    """By topic of the model: the dataset's topic or label that holds the truth, where it has
    another name, as in {pathology = "diagnosis"}."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    """By topic: the model's option for a value of the dataset, as in {pathology = {M = "恶性"}}."""
    breakdown: tuple[str, ...] = ()
    """Labels whose values are judged apart, and `year`; empty takes all with 2 to 12 values."""
    least_patients: int = Field(default=10, ge=1)
    """Patients of a group that is shown by itself; smaller groups are counted together."""


class ExportConfig(Config):
    """Under which name the trained model is registered, and when it abstains."""

    name: str = Field(default="", pattern=r"^[\w.\-]*$", examples=["breast-2"])
    """Name of the registered model, and in requests to the service; empty stands for
    `llava-ultra-DATASET`, so that models of one dataset are versions of one name."""
    max_error_rate: float = Field(default=0.1, ge=0, lt=1)
    """Share of wrong answers that a closed question's threshold is chosen for, on the validation
    split; below the threshold the served answer says that it abstains."""
    student: bool = False
    """Whether the newest student of the training (`sonoray distil`) goes with the model; the
    service then answers under `NAME:student` too."""

    def name_for(self, dataset: str) -> str:
        """The name of a model that was trained on `dataset`."""
        return self.name or f"llava-ultra-{dataset}"


class PromoteConfig(Config):
    """What a version must reach before an alias moves to it (`sonoray promote`)."""

    margin: float = Field(default=0.05, ge=0, lt=1)
    """By how much its accuracy may be worse than that of the version that has the alias: the
    interval of the paired difference must lie above minus this."""


class RoadConfig(Config):
    """All steps of a road."""

    name: str = Field(default="", pattern=r"^[\w.\-]*$", examples=["breast-2"])
    """What it is called in the titles of its runs; by default the packaged road, or the file."""
    dataset: str = "phantom"
    """The dataset that the commands use where none is given."""
    experiment: str = "sonoray"
    """MLflow experiment."""
    phantom: PhantomConfig = PhantomConfig()
    dicom: DicomConfig = DicomConfig()
    dicomweb: DicomWebConfig = DicomWebConfig()
    ingest: IngestConfig = IngestConfig()
    video: VideoConfig = VideoConfig()
    model: ModelConfig = ModelConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    tune: TuneConfig = TuneConfig()
    embed: EmbedConfig = EmbedConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    recognize: RecognizeConfig = RecognizeConfig()
    modes: ModesConfig = ModesConfig()
    distil: StudentConfig = StudentConfig()
    segment: SegmentationConfig = SegmentationConfig()
    states: StatesConfig = StatesConfig()
    opinion: OpinionConfig = OpinionConfig()
    extract: ExtractConfig = ExtractConfig()
    consult: ConsultConfig = ConsultConfig()
    risk: RiskConfig = RiskConfig()
    tell: TellConfig = TellConfig()
    documents: DocumentsConfig = DocumentsConfig()
    assist: AssistConfig = AssistConfig()
    external: ExternalConfig = ExternalConfig()
    export: ExportConfig = ExportConfig()
    promote: PromoteConfig = PromoteConfig()
    serve: ServeConfig = ServeConfig()


def packaged_roads() -> dict[str, Path]:
    """The roads that come with the package, by name."""
    folder = Path(str(files("sonoray_jobs.road"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_road(name_or_path: str, overrides: Sequence[str] = ()) -> RoadConfig:
    """Load a packaged road by name, or a TOML file by path, with dotted overrides.

    A file may begin with `extends = "tiny"`, or another packaged road or file, and name only what
    differs from it.

    Raises:
        ConfigError: there is no such road or file, or a value does not fit.
    """
    packaged = packaged_roads()
    if name_or_path in packaged:
        return _named(
            load_config(RoadConfig, packaged[name_or_path], overrides, packaged), name_or_path
        )
    if Path(name_or_path).suffix != ".toml":
        raise ConfigError(
            f"road {name_or_path!r} is unknown; use one of {', '.join(packaged)} or a .toml file"
        )
    path = Path(name_or_path)
    return _named(load_config(RoadConfig, path, overrides, packaged), path.stem)


def _named(road: RoadConfig, name: str) -> RoadConfig:
    """The road with a name, where its file gives it none."""
    return road if road.name else road.model_copy(update={"name": re.sub(r"[^\w.\-]", "-", name)})
