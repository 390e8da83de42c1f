"""What a road's model costs: parameters, tokens, FLOPs and memory, without weights, data or Ray.

The counting is `llava_ultra.cost.trace`'s. What is added here is the road: which parameters learn,
how many studies a worker takes, and what a training or a server holds in memory.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llava_ultra.config import ModelConfig, images_kept
from llava_ultra.cost.zero import BYTES, Part, TrainingMemory, training_memory
from llava_ultra.parameters.precision_names import Precision, answer_precision
from sonoray.errors import ConfigError
from sonoray.features.formats import FORMATS
from sonoray.metrics.tables import Table
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig

if TYPE_CHECKING:
    from llava_ultra.cost.parts import Parts

ZERO_STAGES = (0, 1, 2, 3)
GPU_COUNTS = (1, 4, 8)
_GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyShape:
    """The study that is counted for."""

    images: int
    """Images of a study (K)."""
    images_read: int
    """Those that the language model reads (m)."""
    questions: int
    """Questions asked of it in a step."""
    text_tokens: int
    """Tokens of a question with its answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Lengths of what is read."""

    per_image: int
    per_study: int
    """Over all images."""
    images_read: int
    """Over the images that the language model reads."""
    prompt: int
    """Those and the text."""
    context_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """FLOPs of one study: the towers over all images, the rest with its questions."""

    clip_tower: int
    sam_tower: int
    further_towers: int
    """Of a mix, all of them."""
    connector_forward: int
    connector_backward: int
    language_forward: int
    language_backward: int

    @property
    def step(self) -> int:
        """A training step on stored features."""
        return (
            self.connector_forward
            + self.connector_backward
            + self.language_forward
            + self.language_backward
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingMemory:
    """Bytes of one process that holds the whole model, as both serving deployments do."""

    weights: int
    vision_activations: int
    """The larger of both towers, all images of a study as one batch."""
    prefill_activations: int
    """Reading a prompt, its key-value cache included."""
    cache_per_1000_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """All that `sonoray describe` prints."""

    config: str
    precision: Precision
    """Of fusion and decoder: of frozen weights and of products; what learns is float32."""
    tower_precision: Precision
    studies_per_gpu: int
    """In a step."""
    studies_at_once: int
    """Of those, in a part of the step (`train.micro_studies`, `train.micro_tokens`)."""
    study: StudyShape
    parts: tuple[Part, ...]
    tokens: Tokens
    feature_bytes_per_image: int
    """Of all towers in the feature store."""
    embeddings_per_training_image: int
    """How often a training image is embedded: itself and its views."""
    flops: Flops
    training: tuple[TrainingMemory, ...]
    serving: ServingMemory

    def lines(self) -> list[str]:
        """What a person reads."""
        study, tokens = self.study, self.tokens
        return [
            f"{self.config}: frozen weights and products in {self.precision}, towers in "
            f"{self.tower_precision}, what learns in float32",
            f"a study: {study.images} images, {study.questions} question(s) of "
            f"{study.text_tokens} tokens",
            "",
            *self._parts_table().text(),
            "",
            f"tokens: {tokens.per_image:,} per image, {tokens.per_study:,} per study; the language "
            f"model reads {study.images_read} image(s): {tokens.images_read:,} and the text, "
            f"{tokens.prompt:,} of its {tokens.context_length:,}",
            f"feature store: {self._stored()}",
            "",
            *self._flops_table().text(),
            "",
            f"training, GiB on each GPU with {self._share()}:",
            *self._training_table().text(),
            "",
            *self._serving_table().text(),
        ]

    def _share(self) -> str:
        parts = self.studies_at_once < self.studies_per_gpu
        at_once = f", {self.studies_at_once} at once" if parts else ""
        return f"{self.studies_per_gpu} studies each{at_once}"

    def _stored(self) -> str:
        each = f"{self.feature_bytes_per_image / 1e6:.2f} MB per image"
        times = self.embeddings_per_training_image
        if times == 1:
            return each
        of_training = f"{times * self.feature_bytes_per_image / 1e6:.2f} MB"
        return f"{each}, {of_training} per training image, which is embedded {times} times"

    def to_json(self) -> dict[str, Any]:
        """What a script reads; bytes and FLOPs as integers."""
        return {
            **asdict(self),
            "flops": {**asdict(self.flops), "step": self.flops.step},
            "training": [{**asdict(row), "total": row.total} for row in self.training],
        }

    def _parts_table(self) -> Table:
        sums = [sum(getattr(p, key) for p in self.parts) for key in ("parameters", "trainable")]
        parameters, trainable = sums
        total = Part(
            name="all",
            parameters=parameters,
            trainable=trainable,
            frozen=parameters - trainable,
        )
        return Table(
            header=("part", "parameters", "trainable", "frozen", *(f"{d}, GiB" for d in BYTES)),
            rows=tuple(
                (
                    part.name,
                    f"{part.parameters:,}",
                    f"{part.trainable:,}",
                    f"{part.frozen:,}",
                    *(_gib(part.parameters * size) for size in BYTES.values()),
                )
                for part in (*self.parts, total)
            ),
        )

    def _flops_table(self) -> Table:
        flops, images = self.flops, self.study.images
        further = flops.further_towers
        towers = flops.clip_tower + flops.sam_tower + flops.further_towers
        rows = (
            (f"CLIP tower, {images} images", flops.clip_tower, 0),
            (f"SAM tower, {images} images", flops.sam_tower, 0),
            *([(f"further towers, {images} images", further, 0)] if further else []),
            ("fusion and sampler", flops.connector_forward, flops.connector_backward),
            ("language model with LoRA", flops.language_forward, flops.language_backward),
            ("all, features stored on the way", towers + flops.step, None),
            ("all, features from the store", flops.step, None),
        )
        return Table(
            header=("GFLOPs of a study", "forward", "backward", "both"),
            rows=tuple(
                (
                    name,
                    "" if backward is None else _giga(forward),
                    "" if backward is None else _giga(backward),
                    _giga(forward + (backward or 0)),
                )
                for name, forward, backward in rows
            ),
        )

    def _training_table(self) -> Table:
        header = ("ZeRO", "GPUs", "weights", "gradients", "optimiser", "activations", "total")
        offloads = any(row.host for row in self.training)
        return Table(
            header=(*header, "host") if offloads else header,
            rows=tuple(
                (
                    str(row.zero_stage),
                    str(row.num_gpus),
                    _gib(row.weights),
                    _gib(row.gradients),
                    _gib(row.optimizer),
                    _gib(row.activations),
                    _gib(row.total),
                    *((_gib(row.host),) if offloads else ()),
                )
                for row in self.training
            ),
        )

    def _serving_table(self) -> Table:
        serving = self.serving
        rows = (
            ("weights, all parts", serving.weights),
            (f"activations of the towers, {self.study.images} images", serving.vision_activations),
            ("activations of one prompt", serving.prefill_activations),
            ("key-value cache per 1,000 tokens", serving.cache_per_1000_tokens),
        )
        return Table(
            header=("serving", "GiB"), rows=tuple((name, _gib(size)) for name, size in rows)
        )


def run(*, road: RoadConfig, config: str, images: int, text_tokens: int) -> Description:
    """Describe a road's model.

    Args:
        road: the configuration.
        config: its name, for the reader.
        images: images of a study.
        text_tokens: tokens of a question with its answer, at least 2.

    Raises:
        ConfigError: images and text do not fit the language model's context.
    """
    study = StudyShape(
        images=images,
        images_read=images_kept(road.model.sampling, images),
        questions=road.train.turns_per_epoch or 1,
        text_tokens=text_tokens,
    )
    tokens = _tokens(road.model, study)

    from llava_ultra.cost.parts import build_parts, part_sizes
    from llava_ultra.cost.trace import Load, trace_encoder, trace_prefill, trace_training
    from llava_ultra.language.decoder import checkpoint_activations
    from sonoray_jobs.training.worker import set_trainable

    precision = road.train.precision
    parts = build_parts(road.model, precision=precision, tower_precision=road.embed.precision)
    set_trainable(parts.model, road.train.stages[-1])
    if road.train.activation_checkpointing:
        checkpoint_activations(parts.model.language_model.get_base_model())  # type: ignore[operator]
    sizes = part_sizes(parts)
    studies = -(-road.train.studies_per_step // road.train.num_workers)
    at_once = _studies_at_once(road.train, study, tokens, studies)
    load, whole = (
        Load(studies=number, images=images, questions=study.questions, text_tokens=text_tokens)
        for number in (at_once, studies)
    )
    traced = {name: trace_encoder(tower, images) for name, tower in parts.towers.items()}
    step = trace_training(parts, load)
    parts.model.reads_rows = True
    rows = trace_training(parts, whole)
    served = _served_parts(road)
    prefill = trace_prefill(served, load)
    described = tuple(
        Part(name=s.name, parameters=s.parameters, trainable=s.trainable, frozen=s.frozen)
        for s in sizes
        if s.parameters
    )
    largest = max(
        sum(p.numel() for p in module.parameters(recurse=False)) for module in parts.model.modules()
    )
    kept_as = FORMATS[road.embed.dtype]
    feature_bytes = sum(
        t.num_tokens * kept_as.bytes_per_token(t.num_channels) for t in parts.towers.values()
    )
    return Description(
        config=config,
        precision=precision,
        tower_precision=road.embed.precision,
        studies_per_gpu=studies,
        studies_at_once=at_once,
        study=study,
        parts=described,
        tokens=tokens,
        feature_bytes_per_image=feature_bytes,
        embeddings_per_training_image=1 + road.embed.views,
        flops=Flops(
            clip_tower=traced["clip"].flops,
            sam_tower=traced["sam"].flops,
            further_towers=sum(traced[name].flops for name in parts.more),
            connector_forward=step.connector_forward // at_once,
            connector_backward=step.connector_backward // at_once,
            language_forward=step.language_forward // at_once,
            language_backward=step.language_backward // at_once,
        ),
        training=tuple(
            training_memory(
                described,
                precision=precision,
                zero_stage=zero_stage,
                num_gpus=num_gpus,
                largest_layer=largest,
                # at stage 3 parts are refused, and questions share no reading
                activations=rows.peak_bytes if zero_stage == 3 else step.peak_bytes,
                offload=road.train.offload,
            )
            for zero_stage in ZERO_STAGES
            for num_gpus in sorted({*GPU_COUNTS, road.train.num_workers})
        ),
        serving=ServingMemory(
            weights=sum(
                tensor.nbytes
                for part in (*served.towers.values(), served.model)
                for tensor in part.parameters()
            ),
            vision_activations=max(
                trace_encoder(tower, images).peak_bytes for tower in served.towers.values()
            ),
            prefill_activations=prefill.peak_bytes,
            cache_per_1000_tokens=prefill.cache_bytes * 1000 // prefill.tokens,
        ),
    )


def _studies_at_once(train: TrainConfig, study: StudyShape, tokens: Tokens, studies: int) -> int:
    """Studies of a part of a step, where all are as the described one."""
    if train.micro_studies:
        studies = min(studies, train.micro_studies)
    if train.micro_tokens:
        read = tokens.images_read + study.questions * study.text_tokens
        studies = min(studies, max(1, train.micro_tokens // read))
    return studies


def _served_parts(road: RoadConfig) -> "Parts":
    """The parts as a server holds them, in `serve.precision`, their factors rounded for good."""
    from llava_ultra.cost.parts import build_parts

    asked = road.serve.precision
    parts = build_parts(
        road.model,
        precision=answer_precision(asked, road.train.precision),
        tower_precision=answer_precision(asked, road.embed.precision),
    )
    parts.model.fix()
    return parts


def _tokens(model: ModelConfig, study: StudyShape) -> Tokens:
    """Count tokens, as `LlavaUltra.read` does."""
    read = model.num_tokens * study.images_read
    tokens = Tokens(
        per_image=model.num_tokens,
        per_study=model.num_tokens * study.images,
        images_read=read,
        prompt=read + study.text_tokens,
        context_length=model.language.context_length,
    )
    if tokens.prompt >= tokens.context_length:
        raise ConfigError(
            f"images ({read} tokens) and text ({study.text_tokens}) do not fit the context of "
            f"{tokens.context_length} tokens; lower --text-tokens or --images, or raise "
            "model.language.context_length"
        )
    return tokens


def _gib(size: int) -> str:
    return f"{size / _GIB:,.2f}" if size >= _GIB / 10 else f"{size / _GIB:.4f}"


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.0f}" if flops >= 1e11 else f"{flops / 1e9:,.2f}"
