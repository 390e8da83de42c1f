"""Bootstrap: make the towers and the language model where none can be downloaded.

Three stages, each content-addressed, each a Ray task on one CPU: the language model with its
tokenizer (trained, or taken from `model.language.source`), the SAM encoder from lesion masks, and
the CLIP tower from images and captions, which shares the tokenizer. Either tower is taken from
published weights where `model.sam.weights` or `model.clip.weights` names them; then only its
channels are standardised on the images. Only training patients are read: no stage of the road ever
sees a validation or test patient before evaluation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.content import content_digest
from sonoray.errors import DataError
from sonoray.image_table import read_images
from sonoray.images import decode_stored
from sonoray.stages import Stage, StageOutput, find_stage, run_stage
from sonoray.study import Study, Turn, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.leakage import check_unseen
from sonoray_jobs.lengths import check_lengths
from sonoray_jobs.road import RoadConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.config import LanguageConfig
    from llava_ultra.towers import ClipTower, SamTower
    from sonoray.step_board import StepBoard

PARTS = ("language", "sam", "clip")

_LOOP = ("llava_ultra.schedule", "llava_ultra.precision", "llava_ultra.pretrain.loop")
_PIXELS = (
    "sonoray.images",
    "llava_ultra.pixels",
    "llava_ultra.tower_config",
    "llava_ultra.towers",
    "llava_ultra.adoption",
)
_CODE = {
    "language": [
        *_LOOP,
        "llava_ultra.batch",
        "llava_ultra.chat",
        "llava_ultra.language",
        "llava_ultra.model",
        "llava_ultra.pretrain.language",
    ],
    "sam": [
        *_LOOP,
        *_PIXELS,
        "llava_ultra.chat",
        "llava_ultra.language",
        "llava_ultra.pretrain.words",
        "llava_ultra.pretrain.sam",
    ],
    "clip": [
        *_LOOP,
        *_PIXELS,
        "llava_ultra.chat",
        "llava_ultra.language",
        "llava_ultra.pretrain.clip",
    ],
}
"""Modules whose source decides each part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrapped:
    """The finished parts."""

    outputs: Mapping[str, StageOutput]

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = []
        for part, output in self.outputs.items():
            summary = output.manifest["summary"]
            if "source" in summary:
                what, state = f"taken from {summary['source']!r}", "copied"
            else:
                what = f"loss {summary['first_loss']:.3f} -> {summary['last_loss']:.3f}"
                state = f"{summary['num_examples']} examples"
            rows.append(f"{part}: {what} ({'reused' if output.reused else state}), {output.path}")
            if missing := summary.get("missing_levels"):
                rows.append(f"{part}: no mask holds {missing} of bootstrap.sam.mask_levels")
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            part: {"path": str(output.path), **output.manifest["summary"]}
            for part, output in self.outputs.items()
        }


def stage_of(part: str, road: RoadConfig, dataset: StageOutput) -> Stage:
    """The stage that makes `part` from the dataset's training split."""
    model = road.model
    values = getattr(model, part).model_dump(mode="json")
    origin = "source" if part == "language" else "weights"
    values[origin] = _content_of(values[origin], dataset)
    config: dict[str, Any] = {
        "model": values,
        "pretrain": getattr(road.bootstrap, part).model_dump(mode="json"),
    }
    if part == "clip" or (part == "sam" and road.bootstrap.sam.word_weight):
        source = _content_of(model.language.source, dataset)
        config["tokenizer"] = source or model.language.vocab_size
    if part == "sam":
        config["target_grid"] = model.clip.grid
    return Stage(
        name=f"bootstrap-{part}",
        config=config,
        inputs=[dataset.key],
        code=["sonoray_jobs.bootstrap", *_CODE[part]],
    )


def _content_of(origin: str, dataset: StageOutput) -> str:
    """The digest of a file or folder of the user's; what a hub or open_clip names stays a name."""
    memory = dataset.path.parent / ".contents"
    return (origin and content_digest(Path(origin), memory)) or origin


def learned_from(workspace: Workspace, road: RoadConfig, dataset: str) -> StageOutput:
    """The dataset that the parts learn from: `bootstrap.dataset`, or the one that is trained on.

    Raises:
        DataError: one of both is missing, or one's training patients are judged in the other.
    """
    learned = road.bootstrap.dataset or dataset
    if learned != dataset:
        check_unseen(workspace, learned=learned, judged=dataset)
    return workspace.dataset(learned)


def find_parts(workspace: Workspace, road: RoadConfig, dataset: str) -> dict[str, StageOutput]:
    """Return the finished parts of a road.

    Raises:
        DataError: one was never made, the message says which command makes it; or they may not be
            used, see `learned_from`.
    """
    output = learned_from(workspace, road, dataset)
    fix = f"sonoray bootstrap --dataset {dataset} with the same --config and --set"
    return {
        part: find_stage(stage_of(part, road, output), workspace.stages, fix=fix) for part in PARTS
    }


def run(
    *, workspace: Workspace, road: RoadConfig, dataset: str, address: str | None = None
) -> Bootstrapped:
    """Make all parts, each where it does not exist yet.

    Raises:
        DataError: the dataset has no training studies, none of its images has a mask, or a text
            does not fit the context.
        ClusterError: Ray cannot be reached.
    """
    output = learned_from(workspace, road, dataset)
    stages = {part: stage_of(part, road, output) for part in PARTS}
    if all((stage.path(workspace.stages) / "manifest.json").is_file() for stage in stages.values()):
        return Bootstrapped(outputs=find_parts(workspace, road, dataset))

    import ray

    from sonoray.cluster import ray_session
    from sonoray.step_board import StepBoard

    with ray_session(address):
        board = StepBoard.start()
        remote = ray.remote(num_cpus=1)(_make_part)
        work = {part: remote.remote(part, road, output, workspace.stages, board) for part in PARTS}
        with board.watching():
            results = ray.get(list(work.values()))
    return Bootstrapped(outputs=dict(zip(work, results, strict=True)))


def _make_part(
    part: str, road: RoadConfig, dataset: StageOutput, root: Path, board: "StepBoard"
) -> StageOutput:
    make = {"language": _make_language, "sam": _make_sam, "clip": _make_clip}[part]
    post = board.poster(part)
    studies = list(iter_studies(dataset.path, split="train"))
    if not studies:
        raise DataError(f"dataset {str(dataset.path)!r} has no training studies; ingest more")
    return run_stage(
        stage_of(part, road, dataset),
        root,
        lambda folder: make(folder, road, dataset.path, studies, post),
    )


def conversations_of(studies: Sequence[Study]) -> list[list[tuple[str, str]]]:
    """The (question, answer) texts of each study."""
    return [[(turn.question, turn.answer) for turn in study.turns] for study in studies]


def _make_language(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    from llava_ultra.language import adopt_language, check_context, save_language
    from llava_ultra.pretrain.language import pretrain_language

    if source := road.model.language.source:
        language = adopt_language(source)
        check_context(language, road.model.language.context_length)
        check_lengths(language.tokenizer, studies, road.model)
        save_language(language, folder)
        return {"num_tokens": len(language.tokenizer), "source": source}
    tokenizer = _make_tokenizer(road.model.language, studies)
    check_lengths(tokenizer, studies, road.model)
    conversations = conversations_of(studies)
    language, losses = pretrain_language(
        conversations, tokenizer, road.model.language, road.bootstrap.language, post
    )
    save_language(language, folder)
    turns = [turn for said in conversations for turn in said]
    return {"num_tokens": len(language.tokenizer), **_summary(turns, losses)}


def _make_sam(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    from llava_ultra.adoption import adopt_sam
    from llava_ultra.pretrain.sam import pretrain_sam, thin_blanks
    from llava_ultra.pretrain.words import bag_of_words

    config, target_grid = road.model.sam, road.model.clip.grid
    wanted = [image.image_id for study in studies for image in study.images]
    if config.weights:
        tower = adopt_sam(config, target_grid=target_grid)
        return _save_adopted(folder, tower, config.weights, dataset, wanted)
    shows_lesion = _lesions(dataset, wanted)
    if not shows_lesion:
        raise DataError(
            f"dataset {str(dataset)!r} has no lesion masks to train SAM on; ingest a source with "
            "masks (BUS-BRA and the phantom have them)"
        )
    settings = road.bootstrap.sam
    masked = list(shows_lesion)
    kept = thin_blanks(list(shows_lesion.values()), settings.blank_share)
    used = [masked[position] for position in kept[: settings.max_examples]]
    pairs = read_images(dataset, used).values()
    levels = [
        level
        for level in settings.mask_levels
        if any((mask == level).any() for _, mask in pairs if mask is not None)
    ]
    words = None
    if settings.word_weight:
        captions = _captions(studies)
        tokenizer = _make_tokenizer(road.model.language, studies)
        words = bag_of_words(tokenizer, [captions[image_id] for image_id in used])
    tower, losses = pretrain_sam(
        [image for image, _ in pairs],
        [mask for _, mask in pairs if mask is not None],
        config,
        settings.model_copy(update={"mask_levels": tuple(levels)}),
        target_grid=target_grid,
        words=words,
        on_step=post,
    )
    tower.save(folder)
    missing = [level for level in settings.mask_levels if level not in levels]
    return {
        "fingerprint": tower.fingerprint,
        "missing_levels": missing,
        **_summary(used, losses),
    }


def _make_clip(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    from llava_ultra.adoption import adopt_clip
    from llava_ultra.pretrain.clip import pretrain_clip

    config = road.model.clip
    if config.weights:
        wanted = [image.image_id for study in studies for image in study.images]
        source = f"{config.source} {config.weights}"
        return _save_adopted(folder, adopt_clip(config), source, dataset, wanted)
    tokenizer = _make_tokenizer(road.model.language, studies)
    captions = _captions(studies)
    table = read_images(dataset, list(captions)[: road.bootstrap.clip.max_examples])
    tower, losses = pretrain_clip(
        [image for image, _ in table.values()],
        [captions[image_id] for image_id in table],
        tokenizer,
        config,
        road.bootstrap.clip,
        post,
    )
    tower.save(folder)
    return {"fingerprint": tower.fingerprint, **_summary(list(table), losses)}


def _save_adopted(
    folder: Path,
    tower: "ClipTower | SamTower",
    source: str,
    dataset: Path,
    image_ids: Sequence[str],
) -> dict[str, Any]:
    """Fit the standardiser on the dataset's images and write the tower as our own safetensors."""
    from llava_ultra.towers import ADOPTED_FIT_IMAGES, fit_adopted

    unique = list(dict.fromkeys(image_ids))
    chosen = unique[:: math.ceil(len(unique) / ADOPTED_FIT_IMAGES)]
    fit_adopted(tower, [image for image, _ in read_images(dataset, chosen).values()])
    tower.save(folder)
    return {"fingerprint": tower.fingerprint, "num_examples": len(chosen), "source": source}


def _make_tokenizer(
    config: "LanguageConfig", studies: Sequence[Study]
) -> "PreTrainedTokenizerFast":
    """The language part's tokenizer, made anew so that the parts need not wait for each other.

    It is trained from the same texts (a second's work), or taken from the same source.
    """
    from llava_ultra.language import adopt_language, train_tokenizer

    if config.source:
        return adopt_language(config.source).tokenizer
    texts = (text for said in conversations_of(studies) for pair in said for text in pair)
    return train_tokenizer(texts, config.vocab_size)


def _captions(studies: Sequence[Study]) -> dict[str, str]:
    """Each image's own caption, or its study's text, by image id."""
    return {
        image.image_id: image.labels.get("caption") or _study_text(study.turns)
        for study in studies
        for image in study.images
    }


def _study_text(turns: Sequence[Turn]) -> str:
    """The study's text as a caption: its longest answer, the report where there is one."""
    return max((turn.answer for turn in turns), key=len)


def _lesions(dataset: Path, image_ids: Sequence[str]) -> dict[str, bool]:
    """Whether its mask shows a lesion, of each image that has a mask, in the same order."""
    import pyarrow.dataset as ds

    has_mask = ds.field("mask_png").is_valid()
    table = ds.dataset(dataset / "images").to_table(["image_id", "mask_png"], filter=has_mask)
    wanted = set(image_ids)
    shows = {
        row["image_id"]: bool(decode_stored(row["mask_png"]).any())
        for row in table.to_pylist()
        if row["image_id"] in wanted
    }
    return {image_id: shows[image_id] for image_id in dict.fromkeys(image_ids) if image_id in shows}


def _summary(examples: Sequence[Any], losses: Sequence[float]) -> dict[str, Any]:
    window = max(1, len(losses) // 20)
    return {
        "num_examples": len(examples),
        "num_steps": len(losses),
        "first_loss": sum(losses[:window]) / window,
        "last_loss": sum(losses[-window:]) / window,
    }
