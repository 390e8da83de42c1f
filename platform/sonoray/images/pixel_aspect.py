"""Square pixels for pictures whose pixels are not.

Video of television width and some scanners store pixels that are wider or higher than the other
way, and say so by a ratio. Players widen the picture; so does ingest, since no tower knows of
ratios and a lesion "taller than wide" is a finding. The narrow direction is enlarged and the other
left alone, so that nothing is lost. Where the size of a pixel in millimetres is known, the picture
stays as it is and the sizes become labels.
"""

from fractions import Fraction

import numpy as np
from PIL import Image

from sonoray.images.decode import Pixels, RejectedImageError


def square_pixels(pixels: Pixels, aspect: Fraction, *, max_pixels: int) -> Pixels:
    """Enlarge a picture to square pixels.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        aspect: width of a pixel divided by its height; positive.
        max_pixels: most pixels that may come out.

    Raises:
        RejectedImageError: more would.
    """
    height, width = pixels.shape[:2]
    if aspect > 1:
        width = round(width * aspect)
    else:
        height = round(height / aspect)
    if (height, width) == pixels.shape[:2]:
        return pixels
    if width * height > max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {width} x {height} with square pixels (the file's are {aspect}), at "
            f"most {max_pixels:,}; scale it down or correct its pixel aspect ratio"
        )
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)
