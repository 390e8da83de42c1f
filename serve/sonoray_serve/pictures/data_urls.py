"""`data:` URLs, the one way in which a request brings an image.

A server that fetches addresses for its clients reaches what they cannot, so no address is fetched.
"""

import base64
import binascii
import re

from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits

_DATA_URL = re.compile(
    r"data:(?:image/[a-z0-9.+-]{1,32}|(application/dicom));base64,", re.IGNORECASE
)


def read_data_url(url: str, place: str, limits: Limits) -> bytes:
    """The encoded image, or the DICOM object, in a `data:` URL.

    Raises:
        ApiError: 400, with its place in the request.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise ApiError(Problem.IMAGE_URL_NOT_DATA, place)
    max_bytes = limits.max_object_bytes if head[1] else limits.max_image_bytes
    if (len(url) - head.end()) * 3 // 4 > max_bytes + 2:  # before any copy is made; 2 of padding
        raise ApiError(Problem.IMAGE_TOO_LARGE, place, max_bytes)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(Problem.IMAGE_NOT_BASE64, place) from None
