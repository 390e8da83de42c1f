"""Bootstrap: make the towers and the language model where none can be downloaded.

Three parts, each content-addressed, each a Ray task on one CPU: the language model with its
tokenizer (trained, or taken from `model.language.source`), the SAM encoder from lesion masks, and
the CLIP tower from images and captions, which shares the tokenizer. Either tower is taken from
published weights where `model.sam.weights` or `model.clip.weights` names them; then only its
channels are standardised on the images. Only training patients are read: no stage of the road ever
sees a validation or test patient before evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.images.decode import decode_stored
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import Study, Turn, iter_studies
from sonoray.study.image_table import read_images
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths
from sonoray_jobs.outputs import find_parts, learned_from
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers.keys import PARTS, is_trained_tower, learning_of, stage_of
from sonoray_jobs.towers.layers import read_out, save_adopted, save_trained, trained_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.config import LanguageConfig


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

    from sonoray.cluster.session import ray_session
    from sonoray.cluster.step_board import StepBoard

    with ray_session(address):
        board = StepBoard.start()
        remote = ray.remote(num_cpus=1)(make_part)
        work = {
            part: remote.remote(
                part,
                road,
                output,
                (learning_of(part, road, output), stages[part]),  # paths mean these files here
                workspace.stages,
                board.poster(part),
            )
            for part in PARTS
        }
        with board.watching():
            results = ray.get(list(work.values()))
    return Bootstrapped(outputs=dict(zip(work, results, strict=True)))


def make_part(
    part: str,
    road: RoadConfig,
    dataset: StageOutput,
    stages: tuple[Stage, Stage],
    root: Path,
    post: Callable[[int, int, float], None],
) -> StageOutput:
    """Make one part, where it does not exist yet.

    Args:
        part: one of `PARTS`.
        road: the configuration.
        dataset: what it learns from.
        stages: `learning_of` and `stage_of` the part; the same one where nothing is read out.
        root: folder of the stages.
        post: progress callback.

    Raises:
        DataError: the dataset has no training studies, or none of its images has a mask.
    """
    make = {"language": _make_language, "sam": _make_sam, "clip": _make_clip}[part]
    learning, reading = stages
    studies = list(iter_studies(dataset.path, split="train"))
    if not studies:
        raise DataError(_why_no_studies(dataset))

    def learn() -> StageOutput:
        return run_stage(
            learning, root, lambda folder: make(folder, road, dataset.path, studies, post)
        )

    if not is_trained_tower(part, road):
        return learn()
    return run_stage(
        reading, root, lambda folder: read_out(folder, part, road.model, dataset.path, learn())
    )


def conversations_of(studies: Sequence[Study]) -> list[list[tuple[str, str]]]:
    """The (question, answer) texts of each study."""
    return [[(turn.question, turn.answer) for turn in study.turns] for study in studies]


def _why_no_studies(dataset: StageOutput) -> str:
    """What a dataset lacks that has no complete training study."""
    every = list(iter_studies(dataset.path, split="train", complete=False))
    lacking = {
        "images": sum(not study.images for study in every),
        "texts": sum(not study.turns for study in every),
    }
    told = ", ".join(f"{count} without {what}" for what, count in lacking.items() if count)
    return (
        f"dataset {str(dataset.path)!r} has no training study with images and texts "
        f"({len(every)} in all{told and ': ' + told}); ingest it with both (--reports, --images), "
        "or more of it"
    )


def _make_language(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    from llava_ultra.language.decoder import adopt_language, check_context, save_language
    from llava_ultra.pretrain.causal import pretrain_language

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
    from llava_ultra.pretrain.masks import pretrain_sam, thin_blanks
    from llava_ultra.pretrain.words import bag_of_words
    from llava_ultra.towers.adopt import adopt_sam

    config = road.model.sam
    wanted = [image.image_id for study in studies for image in study.images]
    if config.weights:
        tower = adopt_sam(config, target_grid=road.model.clip.grid)
        return save_adopted(folder, tower, config.weights, dataset, wanted)
    shows_lesion = _lesions(dataset, wanted)
    if not shows_lesion:
        raise DataError(
            f"dataset {str(dataset)!r} has no lesion masks to train SAM on; learn it from one that "
            "has (sonoray ingest phantom, then --set bootstrap.dataset=phantom here and in what "
            "follows), or give published weights (model.sam.weights)"
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
        trained_part("sam", config),
        settings.model_copy(update={"mask_levels": tuple(levels)}),
        target_grid=config.grid,
        words=words,
        on_step=post,
    )
    save_trained(folder, tower, used)
    missing = [level for level in settings.mask_levels if level not in levels]
    return {"missing_levels": missing, **_summary(used, losses)}


def _make_clip(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    post: Callable[[int, int, float], None],
) -> dict[str, Any]:
    from llava_ultra.pretrain.contrastive import pretrain_clip
    from llava_ultra.towers.adopt import adopt_clip

    config = road.model.clip
    if config.weights:
        wanted = [image.image_id for study in studies for image in study.images]
        source = f"{config.source} {config.weights}"
        return save_adopted(folder, adopt_clip(config), source, dataset, wanted)
    tokenizer = _make_tokenizer(road.model.language, studies)
    captions = _captions(studies)
    table = read_images(dataset, list(captions)[: road.bootstrap.clip.max_examples])
    tower, losses = pretrain_clip(
        [image for image, _ in table.values()],
        [captions[image_id] for image_id in table],
        tokenizer,
        trained_part("clip", config),
        road.bootstrap.clip,
        post,
    )
    save_trained(folder, tower, list(table))
    return _summary(list(table), losses)


def _make_tokenizer(
    config: "LanguageConfig", studies: Sequence[Study]
) -> "PreTrainedTokenizerFast":
    """The language part's tokenizer, made anew so that the parts need not wait for each other.

    It is trained from the same texts (a second's work), or taken from the same source.
    """
    from llava_ultra.language.decoder import adopt_language
    from llava_ultra.language.tokenizer import train_tokenizer

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
