"""What an answer says of its study: each picture, and what the study lacks."""

from collections.abc import Sequence

from sonoray.images.decode import PASSING_REASONS
from sonoray.study.raw import UNWANTED
from sonoray_serve.asking.studies import Seen
from sonoray_serve.shapes.answers import ImageUse

LACKS = "objects of the study could not be had or read: the answer rests on the others"
"""A remark on a study of which something is missing that was meant to be there."""

_PASSING = PASSING_REASONS | {"fetch_failed"}
"""Reasons that may not hold the next time."""


def image_uses(seen: Seen, thumbnails: Sequence[str] = ()) -> list[ImageUse]:
    """The pictures of a study, before anybody has scored them."""
    places = seen.places or tuple((index, 0) for index in range(len(seen.is_transparent)))
    return [
        ImageUse(
            index=index,
            part=part,
            frame=frame,
            instance=seen.instances[index] if seen.instances else None,
            score=0.0,
            selected=False,
            transparent=is_transparent,
            thumbnail=thumbnails[index] if thumbnails else None,
        )
        for index, ((part, frame), is_transparent) in enumerate(
            zip(places, seen.is_transparent, strict=True)
        )
    ]


def lacks_pictures(seen: Seen) -> bool:
    """Whether an object was left out that might have been a picture."""
    return bool(seen.left_out.keys() - UNWANTED)


def is_lasting(seen: Seen) -> bool:
    """Whether the same study would be seen the same way again."""
    return not _PASSING & seen.left_out.keys()
