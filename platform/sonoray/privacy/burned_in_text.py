"""Text that a scanner burned into a picture: where it stands, and how it is covered.

Names, numbers and dates are drawn in thin strokes of even width that stand out from what is around
them with sharp edges, in components of like height beside each other. Speckle is blurred by the
scanner's point spread, tissue is broad, ticks and calipers stand alone. So, in four steps:

1. a white top-hat keeps what is thinner than a stroke in some direction: the plane less its opening
   with a short line, horizontal or vertical. Planes are the brightness, its negative (dark text)
   and, in colour pictures, the saturation;
2. at four contrasts, connected components of the right height are glyphs, or words whose letters
   touch;
3. glyphs beside each other, of like height and brightness, with a common top or baseline, are a
   line. Without the common edge a line would run on along bright tissue;
4. a line is text where a logistic score of six measures says so: number of glyphs, length, contrast
   over that of the picture's own texture, sharpness of the edges, strokes per length, and how far
   tops or baselines scatter. A line that better ones cover whole is left out.

What a colour Doppler draws is thin, bright and sharp as well. Its colours run from one to another,
where those of text are one, so glyphs in areas of mixed colours are left out. The steps stand in
`text_planes`, `text_glyphs` and `text_lines`.

Single letters, text above 52 pixels or with strokes above 8, and handwriting are not looked for.
What it finds and what it takes for text is measured by `bench/burned_in_text.py`, with the figures
in docs/results.md. Nothing but NumPy and SciPy, no weights from elsewhere.
"""

import numpy as np

from sonoray.images.decode import Pixels
from sonoray.privacy.text_glyphs import find_glyphs
from sonoray.privacy.text_lines import Box, find_lines
from sonoray.privacy.text_planes import colour_flow, edge_steps, iter_planes, texture_level, top_hat

FILL = 128
"""What covers text. Black would pass for fluid and white for calcium or air; an even grey without
speckle is nothing that tissue shows."""
_CONTRASTS = (40, 64, 100, 150)
"""Grey levels by which strokes stand out. The lowest finds grey text on black; over bright speckle
text comes apart from it at the higher ones alone."""


def find_text(pixels: Pixels, *, margin: float = 0.25) -> list[Box]:
    """Find lines of text.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        margin: by how much a box is wider than the line's ink on each side, over the line's height;
            at least 2 pixels. It takes in accents, dots and dashes, which are no glyphs.

    Returns:
        Boxes within the picture, from top to bottom. They may overlap, as where one contrast finds
        the beginning of a line and another its end.
    """
    found: list[tuple[float, Box]] = []
    flow = colour_flow(pixels)
    for plane in iter_planes(pixels):
        ridges = top_hat(plane)
        steps = edge_steps(plane)
        texture = texture_level(ridges)
        for contrast in _CONTRASTS:
            glyphs = find_glyphs(plane, ridges, steps, flow, contrast)
            if glyphs is not None:
                found.extend(find_lines(glyphs, texture, margin, plane.shape))
    boxes: list[Box] = []
    covered = np.zeros(pixels.shape[:2], bool)
    for _, box in sorted(found, key=lambda each: (-each[0], each[1])):
        place = covered[box.upper : box.lower, box.left : box.right]
        if not place.all():
            place[:] = True
            boxes.append(box)
    return sorted(boxes)


def cover(pixels: Pixels, boxes: list[Box]) -> Pixels:
    """Return a copy of `(H, W)` or `(H, W, 3)` pixels whose boxes are filled with `FILL`."""
    covered = pixels.copy()
    for box in boxes:
        covered[box.upper : box.lower, box.left : box.right] = FILL
    return covered
