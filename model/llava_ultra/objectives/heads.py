"""What an objective learns beside the model: a module of its own, which is no part of the answer.

An objective that needs one builds it (`Objective.build_head`). The model keeps it under the
objective's name in `heads`; its parameters learn in all stages, its buffers are saved with a
training's checkpoints, and an exported model is loaded without either counting.
"""

from torch import nn


class ObjectiveHead(nn.Module):
    """Base of such modules."""

    def after_step(self, language_model: nn.Module) -> None:
        """Called on every worker after each optimiser step, with the decoder and its adapters."""
