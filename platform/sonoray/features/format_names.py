"""The names of the formats, for configurations: what they do needs numpy (`features.formats`)."""

from typing import Literal

FormatName = Literal["float16", "bfloat16", "float32", "int8"]
