"""The optimisation loop that the three pretrainings share."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from llava_ultra.parameters.groups import decay_groups
from llava_ultra.parameters.precision import matmul_precision
from llava_ultra.parameters.schedule import cosine_rate
from llava_ultra.pretrain.pretrain_config import PretrainConfig

OnStep = Callable[[int, int, float], None]
"""Called with (step, number of steps, loss) after each step."""


def shuffled_batches(
    num_examples: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield index batches for ever, in a new order each epoch; the short rest is carried over."""
    rest = torch.empty(0, dtype=torch.int64)
    while True:
        rest = torch.cat([rest, torch.randperm(num_examples, generator=generator)])
        while len(rest) >= batch_size:
            yield rest[:batch_size]
            rest = rest[batch_size:]


def optimise(
    module: nn.Module,
    config: PretrainConfig,
    loss_of_step: Callable[[], Tensor],
    on_step: OnStep | None,
) -> list[float]:
    """Run AdamW with clipped gradients and a cosine rate; return the loss of each step.

    Raises:
        ValueError: the loss became NaN or infinite.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        decay_groups(module, weight_decay=config.weight_decay),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    module.train()
    losses = []
    for step in range(config.steps):
        rate = cosine_rate(step, config.steps, config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate
        with matmul_precision(config.matmul_precision, "cpu"):
            loss = loss_of_step()
            if not torch.isfinite(loss):
                raise ValueError(
                    f"pretraining loss is {loss.item()} at step {step}; lower the learning_rate "
                    f"({config.learning_rate})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step + 1, config.steps, losses[-1])
    module.eval()
    return losses
