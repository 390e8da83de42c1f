"""The learning-rate schedule of all trainings."""

import math


def cosine_rate(step: int, num_steps: int, warmup_fraction: float, floor: float = 0.0) -> float:
    """Factor on the learning rate: linear warm-up, then a half cosine from 1 to `floor`."""
    warmup = max(1, round(num_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
