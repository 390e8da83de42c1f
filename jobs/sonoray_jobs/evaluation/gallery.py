"""Answers beside the images they are about, for reading with one's own eyes.

For some studies of a finished evaluation, one picture each: the images in a row, framed where they
are known to show the finding; below them the score that the sampler gave each (those that the
language model saw are dark); beside them questions, answers and truths. A sampler that reads the
question scores the images anew for each one, and so the bars are drawn as often as they change.
`gallery.md` holds the same texts, whatever fonts there are.

The studies are spaced evenly over the split: neither the best nor the worst. Pictures and texts are
patients', so they lie in a stage of the workspace beside the predictions and go nowhere else. It is
a stage of its own because how many are wanted, and with which font, does not change the evaluation.
"""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.images.fonts import find_font
from sonoray.stages import Stage, StageOutput, run_stage

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

_DPI = 100
_IMAGE_INCHES = 1.7
_BARS_INCHES = 0.7
_LINE_INCHES = 0.22
_TEXT_INCHES = 6.0
_GAP_INCHES = 0.25
_LINE_LENGTH = 36
"""Chinese characters in a line of text."""
_SEEN, _NOT_SEEN, _WRONG, _SHOWING = "tab:blue", "lightsteelblue", "tab:red", "tab:green"
_LEGEND = (
    "bars: the sampler's score of each image; dark: seen by the language model",
    "green frame: known to show the finding",
)

_NO_FONT = "no font has the characters of the texts; they are in gallery.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Paragraph:
    """A line of the text column before it is wrapped."""

    text: str
    wrong: bool = False


def make_gallery(
    evaluation: StageOutput, dataset: Path, root: Path, *, num_studies: int
) -> StageOutput:
    """Write the gallery of an evaluation, or return it where it is there.

    Args:
        evaluation: the finished stage, with its predictions.
        dataset: the dataset folder that holds the images.
        root: root of the stage outputs.
        num_studies: how many studies to show.
    """
    import pyarrow.parquet as pq

    questions: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(evaluation.path / "predictions.parquet").to_pylist():
        questions.setdefault(row["study_id"], []).append(row)
    chosen = {study_id: questions[study_id] for study_id in spaced(list(questions), num_studies)}
    rows = [row for rows in chosen.values() for row in rows]
    font = find_font(paragraph.text for row in rows for paragraph in _paragraphs(row))
    name = str(evaluation.manifest["name"]).replace("evaluate-", "gallery-", 1)
    stage = Stage(
        name=name,
        config={"num_studies": num_studies, "font": font.name if font else None},
        inputs=[evaluation.key],
        code=[__name__],
    )
    return run_stage(stage, root, lambda folder: _write(folder, chosen, dataset, font))


def spaced(items: Sequence[Any], number: int) -> list[Any]:
    """Return `number` of the items, spaced evenly, or all where there are fewer."""
    number = min(number, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * number)] for place in range(number)]


def draw_study(
    images: Sequence["np.ndarray"], rows: Sequence[Mapping[str, Any]], path: Path, font: Path | None
) -> None:
    """Draw one study with its questions.

    Args:
        images: the K images, uint8, (H, W) or (H, W, 3).
        rows: the predictions of the study, one per question.
        path: the PNG to write.
        font: a font that has the texts' characters; without one the picture names the topics.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    properties = FontProperties(fname=font) if font else FontProperties()
    blocks = [(own[0], _lines(own, font)) for own in _alike(rows)]
    legend = [*_LEGEND, *([] if font else [_NO_FONT])]
    heights = [
        max((place == 0) * _IMAGE_INCHES + _BARS_INCHES, len(lines) * _LINE_INCHES)
        for place, (_, lines) in enumerate(blocks)
    ]
    left, bars_width = _GAP_INCHES, _IMAGE_INCHES * len(images)
    width = bars_width + _TEXT_INCHES + 3 * _GAP_INCHES
    top = len(legend) * _LINE_INCHES + _GAP_INCHES
    height = top + sum(heights) + (len(heights) + 1) * _GAP_INCHES
    figure = Figure(figsize=(width, height))

    def axes_at(x: float, y: float, wide: float, high: float) -> "Axes":
        """Axes whose upper left corner is so many inches from that of the picture."""
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    figure.text(left / width, 1 - 0.1 / height, "\n".join(legend), fontsize=8, va="top")
    for number, image in enumerate(images):
        frame = axes_at(left + number * _IMAGE_INCHES, top, 0.92 * _IMAGE_INCHES, _IMAGE_INCHES)
        _draw_image(frame, image, f"image {number + 1}", rows[0]["showing"][number] == 1)
    for place, ((row, lines), high) in enumerate(zip(blocks, heights, strict=True)):
        below = (place == 0) * _IMAGE_INCHES
        _draw_bars(axes_at(left, top + below, bars_width, _BARS_INCHES), row)
        words = axes_at(2 * left + bars_width, top, _TEXT_INCHES, high)
        words.set_axis_off()
        for number, line in enumerate(lines):
            words.text(
                0, 1 - (number + 0.5) * _LINE_INCHES / high, line.text, fontsize=9, va="center",
                color=_WRONG if line.wrong else "black", fontproperties=properties,
                parse_math=False,
            )  # fmt: skip
        top += high + _GAP_INCHES
    figure.savefig(path, dpi=_DPI)


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Questions in their order, together as long as the sampler gave the images the same scores."""
    alike = itertools.groupby(rows, key=lambda row: (row["image_scores"], row["selected"]))
    return [list(own) for _, own in alike]


def _lines(rows: Sequence[Mapping[str, Any]], font: Path | None) -> list[_Paragraph]:
    """Wrapped lines, an empty one between questions."""
    lines: list[_Paragraph] = []
    for row in rows:
        if font and lines:
            lines.append(_Paragraph(text=""))
        lines += _wrapped(_paragraphs(row) if font else _topic_only(row))
    return lines


def _draw_image(axes: "Axes", image: "np.ndarray", title: str, shows: bool) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=_SHOWING, linewidth=3, visible=shows)


def _draw_bars(axes: "Axes", row: Mapping[str, Any]) -> None:
    scores = row["image_scores"]
    colours = [_SEEN if n in row["selected"] else _NOT_SEEN for n in range(len(scores))]
    drawn = axes.bar(range(len(scores)), scores, color=colours, width=0.5)
    axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    axes.set_xlim(-0.5, len(scores) - 0.5)
    axes.set_ylim(0, 1.25)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)


def _write(
    folder: Path, chosen: Mapping[str, list[dict[str, Any]]], dataset: Path, font: Path | None
) -> dict[str, Any]:
    from sonoray.study.image_table import read_images

    images = read_images(dataset, [i for rows in chosen.values() for i in rows[0]["image_ids"]])
    page = ["# Answers beside images", ""]
    for number, (study_id, rows) in enumerate(chosen.items(), start=1):
        name = f"study-{number:02d}.png"
        draw_study([images[i][0] for i in rows[0]["image_ids"]], rows, folder / name, font)
        page += [f"## Study {study_id}", "", f"![its images and scores]({name})", ""]
        for row in rows:
            page += [*(f"{paragraph.text}  " for paragraph in _paragraphs(row)), ""]
    (folder / "gallery.md").write_text("\n".join(page), encoding="utf-8")
    return {"num_studies": len(chosen), "has_texts": font is not None}


def _is_wrong(row: Mapping[str, Any]) -> bool:
    """Whether a closed question has the wrong answer; a free text is the reader's to judge."""
    return bool(row["task"] == "closed" and row["answer"] != row["truth"])


def _paragraphs(row: Mapping[str, Any]) -> list[_Paragraph]:
    return [
        _Paragraph(text=f"问: {row['question']}"),
        _Paragraph(text=f"答: {row['answer']}", wrong=_is_wrong(row)),
        _Paragraph(text=f"真: {row['truth']}"),
    ]


def _topic_only(row: Mapping[str, Any]) -> list[_Paragraph]:
    state = (
        "free text"
        if row["task"] != "closed"
        else "wrong answer"
        if _is_wrong(row)
        else "right answer"
    )
    return [_Paragraph(text=f"{row['topic']}: {state}", wrong=_is_wrong(row))]


def _wrapped(paragraphs: Iterable[_Paragraph]) -> list[_Paragraph]:
    return [
        _Paragraph(text=line, wrong=paragraph.wrong)
        for paragraph in paragraphs
        for line in textwrap.wrap(paragraph.text, _LINE_LENGTH) or [""]
    ]
