"""The cost model of an archive: inputs, counted or measured, to bytes, cores and GPU hours.

Pure arithmetic; `scale.py` collects the inputs. Start-up is left out: seconds, beside hours.
"""

from dataclasses import dataclass

from sonoray.metrics.tables import Table

INDEX_BYTES = 24
"""Memory of an id in the index of an open store (`sonoray.features.id_index`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """All that the model takes."""

    images: int
    texts: int
    gpus: int
    images_per_file: int
    """Of the feature store."""
    epochs: int
    """Of training, both stages together."""
    png_bytes: float
    decode_s: float
    """Of one core, for one image and both towers."""
    study_bytes: float
    feature_bytes: dict[str, int]
    """Of one image, by tower."""
    images_per_second: dict[str, float]
    """Of one GPU, by tower."""
    step_flops: float
    """Of one study in one epoch."""
    training_flops_per_second: float
    """Of one GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What comes out."""

    image_table_bytes: float
    study_table_bytes: float
    feature_store_bytes: dict[str, float]
    """By what is stored: none, clip, sam, both."""
    feature_files: int
    """Of each tower's store."""
    feature_file_bytes: dict[str, int]
    """Of one of them, by tower."""
    index_bytes: float
    """In every process that reads both stores."""
    embed_hours: dict[str, float]
    """Of all GPUs, by tower."""
    decode_cores: float
    """Cores that keep all GPUs busy."""
    training_hours: float
    gpu_hours: float
    """Embedding and training together."""


def compute(inputs: Inputs) -> Costs:
    """The cost model."""
    clip, sam = (inputs.images * inputs.feature_bytes[tower] for tower in ("clip", "sam"))
    embed_s = {
        tower: inputs.images / rate / inputs.gpus
        for tower, rate in inputs.images_per_second.items()
    }
    training_flops = inputs.texts * inputs.epochs * inputs.step_flops
    training_s = training_flops / inputs.training_flops_per_second / inputs.gpus
    return Costs(
        image_table_bytes=inputs.images * inputs.png_bytes,
        study_table_bytes=inputs.texts * inputs.study_bytes,
        feature_store_bytes={"none": 0, "clip": clip, "sam": sam, "both": clip + sam},
        feature_files=-(-inputs.images // inputs.images_per_file),
        feature_file_bytes={
            tower: inputs.images_per_file * each for tower, each in inputs.feature_bytes.items()
        },
        index_bytes=len(inputs.feature_bytes) * inputs.images * INDEX_BYTES,
        embed_hours={tower: each / 3600 for tower, each in embed_s.items()},
        decode_cores=inputs.images / sum(embed_s.values()) * inputs.decode_s,
        training_hours=training_s / 3600,
        gpu_hours=(sum(embed_s.values()) + training_s) * inputs.gpus / 3600,
    )


def cost_table(inputs: Inputs, costs: Costs) -> Table:
    """Lay out what an archive costs."""
    rows = [
        ("images, as PNG of 1,024 px", size(costs.image_table_bytes)),
        ("study rows, texts included", size(costs.study_table_bytes)),
        *(
            (f"feature store, `{mode}`", size(stored))
            for mode, stored in costs.feature_store_bytes.items()
        ),
        (
            f"files of each tower's store, {inputs.images_per_file} images each",
            f"{costs.feature_files:,}",
        ),
        *(
            (f"such a file, {tower.upper()}", size(each))
            for tower, each in costs.feature_file_bytes.items()
        ),
        ("memory of a reader's index, both towers", size(costs.index_bytes)),
        *(
            (f"hours to embed, {tower.upper()}, {inputs.gpus} GPUs", f"{hours:.2f}")
            for tower, hours in costs.embed_hours.items()
        ),
        ("cores that decode for them", f"{costs.decode_cores:,.0f}"),
        (
            f"hours to train {inputs.epochs} epochs, {inputs.gpus} GPUs",
            f"{costs.training_hours:.1f}",
        ),
        ("GPU hours, both together", f"{costs.gpu_hours:,.0f}"),
    ]
    return Table(header=("what", "how much"), rows=tuple(rows))


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{count / step:,.2f} {unit}"
    return f"{count:,.0f} B"
