"""The pictures of an audit: a sheet of sample images with outlines, and images side by side.

Both are patients' images. Label values may be Chinese: where the machine has no font for them, a
value appears as its number in the page's tables.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sonoray.images.decode import Pixels
from sonoray.images.fonts import find_font
from sonoray.study.contract import SPLITS

COLOURS = {"train": "#2f5d8a", "validation": "#d98e2b", "test": "#5a9e6f"}
"""Of the splits, here and on the page."""
_OUTLINE = (255, 196, 0)
_THUMB, _GAP, _HEADER = 150, 4, 26
_SAMPLE_OF_CHINESE = "良恶性甲状乳腺肝脏左右"

Decoded = Mapping[str, tuple[Pixels, Pixels | None]]
"""By image id: the image and its mask."""


@cache
def text_font() -> Path | None:
    """Return a font file with Chinese characters; None where the machine has none."""
    return find_font([_SAMPLE_OF_CHINESE])


def draw_sheet(
    label: str,
    samples: Mapping[tuple[str, str], Sequence[str]],
    pictures: Decoded,
    path: Path,
    *,
    side: int = _THUMB,
) -> None:
    """Draw sample images with the outlines of their masks, one row per label value and split.

    Args:
        label: name of the label; empty where there is none, and rows are splits.
        samples: image ids by value and split; the value is empty for studies without the label.
        pictures: the decoded images.
        path: the PNG.
        side: of a sample, in pixels.
    """
    values = sorted({value for value, _ in samples}, key=lambda value: (not value, value))
    rows = [
        (value, split, [i for i in samples[value, split] if i in pictures])
        for value in values
        for split in SPLITS
        if (value, split) in samples
    ]
    width = max((len(ids) for *_, ids in rows), default=1) * (side + _GAP) + _GAP
    height = _HEADER + side + _GAP
    sheet = Image.new("RGB", (max(width, 480), max(1, len(rows)) * height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), _pen_font()
    for number, (value, split, ids) in enumerate(rows):
        top = number * height
        pen.rectangle((_GAP, top + 8, _GAP + 10, top + 18), fill=COLOURS[split])
        group = f"{label}: {drawable_text(value, values)}" if value else f"no {label}"
        title = f"{split}   {group}" if label else split
        pen.text((_GAP + 18, top + 4), title, fill="black", font=font)
        for column, image_id in enumerate(ids):
            place = (_GAP + column * (side + _GAP), top + _HEADER)
            sheet.paste(thumbnail(*pictures[image_id], side=side), place)
    sheet.save(path, optimize=True)


def draw_pairs(rows: Mapping[str, Sequence[str]], pictures: Decoded) -> dict[str, bytes]:
    """Draw the images of each row side by side, as PNG; rows without any are left out."""
    drawn = {}
    for name, ids in rows.items():
        found = [pictures[image_id] for image_id in ids if image_id in pictures]
        if not found:
            continue
        strip = Image.new("RGB", (len(found) * (_THUMB + _GAP) - _GAP, _THUMB), "white")
        for column, pair in enumerate(found):
            strip.paste(thumbnail(*pair), (column * (_THUMB + _GAP), 0))
        buffer = io.BytesIO()
        strip.save(buffer, "PNG", optimize=True)
        drawn[name] = buffer.getvalue()
    return drawn


def thumbnail(image: Pixels, mask: Pixels | None, *, side: int = _THUMB) -> Image.Image:
    """Scale an image into a black square and draw the outline of its mask, two pixels wide.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        mask: uint8 (H, W), not 0 inside; None where there is none.
        side: of the square, in pixels.
    """
    square = Image.new("RGB", (side, side), "black")
    picture = Image.fromarray(image).convert("RGB")
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if mask is not None and mask.any():
        inside = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8))
        inside = inside.resize(picture.size, Image.Resampling.BILINEAR).point(
            lambda value: 255 if value > 127 else 0
        )
        wider = np.asarray(inside.filter(ImageFilter.MaxFilter(5)))
        outline = Image.fromarray(np.where(np.asarray(inside) > 0, 0, wider).astype(np.uint8))
        picture.paste(_OUTLINE, mask=outline)
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _pen_font() -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(str(text_font() or font_manager.findfont("DejaVu Sans")), 14)


def drawable_text(text: str, among: Sequence[str]) -> str:
    """Return a value, or its number among others where no font has its characters."""
    return text if text.isascii() or text_font() else f"value {list(among).index(text) + 1}"
