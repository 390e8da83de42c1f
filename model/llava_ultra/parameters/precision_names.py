"""The precisions that a road can ask for, by name (`llava_ultra.parameters.products`).

Apart from the model's configuration, which decides what a tower becomes: a precision does not. And
without torch, since settings are read where it is not loaded.
"""

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""See `llava_ultra.parameters.products`."""

AnswerPrecision = Literal["trained", "float32", "bfloat16"]
"""Of a trained model that answers: that of its training, or another."""


def answer_precision(asked: AnswerPrecision, trained: Precision) -> Precision:
    """The precision in which a model answers."""
    return trained if asked == "trained" else asked
