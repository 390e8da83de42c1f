"""From a drawn page to an image of it: a screenshot, a scan, a photograph, at a strength.

At a strength of 1 about half of the characters are lost to OCR: a scan is turned by 4 degrees,
blurred and noisy, a photograph is taken from the side, out of focus, half of it in shadow. At 0.6
hardly any is. What is drawn at random hangs on the generator alone. Severities are ours; the pages
of RJUA-MedDQA (arXiv 2402.14840) are real ones.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from sonoray.documents.document_config import PageKind
from sonoray.images.decode import Pixels

_Floats = NDArray[np.float32]
_PAPER, _DESK = 250.0, 96.0
"""Grey of paper, and of what lies around it in a photograph."""
_ROUND = 0.04
"""Share of the page's side that a photograph shows around it."""


def capture(page: Pixels, kind: PageKind, strength: float, rng: np.random.Generator) -> Pixels:
    """Make an image of a page.

    Args:
        page: uint8 (H, W), as drawn.
        kind: how.
        strength: 0 to 1; a screenshot has none.
        rng: draws angles, noise and light.

    Returns:
        uint8, (H, W) of a scan, (H, W, 3) else.
    """
    if kind == "screenshot":
        return np.repeat(page[..., None], 3, axis=2)
    if kind == "scan":
        return _scan(page, strength, rng)
    return _photograph(page, strength, rng)


def _scan(page: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    height, width = page.shape
    angle = 4.0 * strength * float(rng.uniform(0.7, 1.0)) * float(rng.choice([-1, 1]))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    turned = np.asarray(cv2.warpAffine(page, turn, (width, height), borderValue=(255.0,)), np.uint8)
    fade = 90 * strength  # ink becomes grey, paper darkens
    faded = fade * 0.8 + _blurred(turned, 1.5 * strength) * ((_PAPER - fade) / 255)
    image = np.asarray(faded + rng.normal(0, 45 * strength, page.shape), np.float32)
    specks = rng.uniform(size=page.shape) < 0.01 * strength
    image[specks] = rng.uniform(0, 255, int(specks.sum()))
    return _to_pixels(image)


def _photograph(page: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    height, width = page.shape
    around = np.array([width, height], np.float32) * _ROUND
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inward = rng.uniform(0, 0.1 * strength, (4, 2)) * np.array([[width, height]])
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    moved = np.asarray(corners + signs * inward + around, np.float32)
    size = (int(width + 2 * around[0]), int(height + 2 * around[1]))
    warp = cv2.getPerspectiveTransform(corners, moved)
    warped = np.asarray(cv2.warpPerspective(page, warp, size, borderValue=(_DESK,)), np.uint8)
    image = _blurred(warped, 2.2 * strength) * _light(warped.shape, strength, rng)
    tint = 1 - strength * np.array([0.0, 0.03, 0.12]) * float(rng.uniform(0.5, 1.0))  # a warm lamp
    colours = image[..., None] * tint
    noisy = np.asarray(colours + rng.normal(0, 10 * strength, colours.shape), np.float32)
    quality = round(95 - 65 * strength)
    _, coded = cv2.imencode(
        ".jpg", _to_pixels(noisy)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


def _light(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> _Floats:
    """Light from one side, and the soft edge of a shadow across the page; 1 is full light."""
    height, width = shape
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = float(rng.uniform(0, 2 * np.pi))
    along = (across / width - 0.5) * np.cos(angle) + (down / height - 0.5) * np.sin(angle)
    edge = float(rng.uniform(-0.15, 0.15))
    shadow = 1 / (1 + np.exp(-(along - edge) / 0.03))
    return np.asarray(1 - strength * (0.15 * (along + 0.5) + 0.5 * shadow), np.float32)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8) if sigma > 0 else image


def _to_pixels(image: _Floats) -> Pixels:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
