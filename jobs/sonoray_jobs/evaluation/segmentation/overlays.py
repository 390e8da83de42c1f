"""Outlines over the images: green what is meant, red what the words outline, one picture an image.

The images are spaced evenly over those that show something: neither the best nor the worst. They
are patients', so they lie in a stage of the workspace and go nowhere else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from sonoray.images.decode import Pixels, decode_stored
from sonoray.images.fonts import find_font
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray_jobs.evaluation.gallery import spaced
from sonoray_jobs.evaluation.segmentation.masked_images import (
    NOTHING,
    MaskedImage,
    mask_planes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTLINES = "outlines.parquet"
_PANEL_INCHES = 3.0
_DPI = 100
_MEANT, _FOUND = "tab:green", "tab:red"


def make_overlays(
    outlined: StageOutput,
    dataset: Path,
    root: Path,
    images: Sequence[MaskedImage],
    settings: SegmentationConfig,
    *,
    num_images: int,
) -> StageOutput:
    """Write the pictures of a judged segmenter, or return them where they are there.

    Args:
        outlined: the stage of `sonoray segment`, with its masks.
        dataset: folder of the dataset.
        root: root of the stage outputs.
        images: the judged ones.
        settings: whose instructions were given.
        num_images: how many to show.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(outlined.path / OUTLINES)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_image.setdefault(row["image_id"], []).append(row)
    showing = [each for each, rows in by_image.items() if any(row["has_target"] for row in rows)]
    chosen = {image_id: by_image[image_id] for image_id in spaced(showing, num_images)}
    font = find_font(each.text for each in settings.instructions)
    stage = Stage(
        name=str(outlined.manifest["name"]).replace("segment-", "overlays-", 1),
        config={"num_images": num_images, "font": font.name if font else None},
        inputs=[outlined.key],
        code=[__name__],
    )
    known = {each.image.image_id: each for each in images}
    return run_stage(
        stage,
        root,
        lambda folder: _write(folder, chosen, dataset, known, settings, font),
    )


def _write(
    folder: Path,
    chosen: Mapping[str, Sequence[Mapping[str, Any]]],
    dataset: Path,
    known: Mapping[str, MaskedImage],
    settings: SegmentationConfig,
    font: Path | None,
) -> dict[str, Any]:
    from sonoray.study.image_table import read_images

    pictures = read_images(dataset, list(chosen))
    page = ["# Outlines over images", "", "green: what is meant; red: what the prompt outlines", ""]
    for number, (image_id, rows) in enumerate(chosen.items(), start=1):
        image, mask = pictures[image_id]
        assert mask is not None
        planes = mask_planes(mask, settings.levels)
        panels = []
        for row in rows:
            instruction = settings.instructions[row["instruction"]]
            target = known[image_id].target_of(instruction, settings.levels)
            meant = np.zeros_like(planes[0]) if target == NOTHING else planes[target]
            found = None if row["mask_png"] is None else decode_stored(row["mask_png"]) > 0
            panels.append((instruction.text, _told(row), meant, found))
        name = f"image-{number:02d}.png"
        draw_outlines(image, panels, folder / name, font)
        page += [f"## Image {image_id}", "", f"![its outlines]({name})", ""]
        page += [*(f"{text} {told}  " for text, told, _, _ in panels), ""]
    (folder / "overlays.md").write_text("\n".join(page), encoding="utf-8")
    return {"num_images": len(chosen), "has_texts": font is not None}


def _told(row: Mapping[str, Any]) -> str:
    scores = json.loads(row["scores"])
    first = next(iter(scores))
    told = f"{first}: Dice {scores[first][0]:.2f}" if row["has_target"] else "nothing is meant"
    if row["diameter"] is None:
        return told
    return f"{told}, {row['diameter']:.1f} {row['unit']} (true {row['true_diameter']:.1f})"


def draw_outlines(
    image: Pixels,
    panels: Sequence[tuple[str, str, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]],
    path: Path,
    font: Path | None,
) -> None:
    """Draw an image once for each instruction.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        panels: of each instruction: its text, what is told of it, the true mask and the one that
            was found, (H, W), None where none was asked for.
        path: the PNG to write.
        font: a font that has the texts' characters; without one the texts are left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    properties = FontProperties(fname=font) if font else FontProperties()
    figure = Figure(
        figsize=(_PANEL_INCHES * len(panels), _PANEL_INCHES + 0.6), layout="constrained"
    )
    for axes, (text, told, meant, found) in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
    ):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        for mask, colour in ((meant, _MEANT), (found, _FOUND)):
            _outline(axes, mask, colour)
        title = f"{text}\n{told}" if font else told
        axes.set_title(title, fontsize=8, fontproperties=properties, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _outline(axes: "Axes", mask: npt.NDArray[np.bool_] | None, colour: str) -> None:
    if mask is not None and mask.any():
        inside = np.pad(mask.astype(np.float32), 1)  # closed at the picture's edge
        height, width = inside.shape
        axes.contour(
            np.arange(width) - 1, np.arange(height) - 1, inside, [0.5], colors=colour, linewidths=1
        )
