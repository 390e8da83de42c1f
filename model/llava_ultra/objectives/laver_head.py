"""What LaVer learns beside the model, its teacher, and its two losses.

The teacher, a moving average of adapters and head, is the same decoder with other adapters, which
`torch.func.functional_call` puts in place for one pass. So it costs the bytes of the adapters and
not of the decoder. Averages are float32, and the same on every worker, as the weights are.

Axes: B studies, S tokens of a row, T image tokens, D width, K outputs.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from llava_ultra.objectives.ranks import sum_rows
from llava_ultra.recognition.decoder_states import check_layer, layer_states

if TYPE_CHECKING:
    from llava_ultra.objectives.laver import LaverObjective

_ADAPTER = ".lora_"


class LaverHead(nn.Module):
    """Mask vector and head of the student, averages of the teacher."""

    centre: Tensor
    seen_sum: Tensor
    seen_count: Tensor

    def __init__(
        self,
        settings: "LaverObjective",
        language_model: nn.Module,
        *,
        width: int,
        scale: Tensor,
    ) -> None:
        """Draw the weights; the teacher begins as the student.

        Args:
            settings: of the objective.
            language_model: the decoder with its adapters.
            width: of it (D).
            scale: (), root mean square of its token embeddings.
        """
        super().__init__()
        check_layer(language_model, settings.layer, "laver.layer")
        self._momentum, self._centring = settings.momentum, settings.centring
        self.mask_vector = nn.Parameter(torch.randn(width) * scale)
        self.projector = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, settings.outputs),
        )
        self.register_buffer("centre", torch.zeros(settings.outputs))
        self.register_buffer("seen_sum", torch.zeros(settings.outputs), persistent=False)
        self.register_buffer("seen_count", torch.zeros(1), persistent=False)
        for name, parameter in self._averaged(language_model).items():
            self.register_buffer(_buffer(name), parameter.detach().float().clone())

    def student(
        self, language_model: nn.Module, embeds: Tensor, seen: Tensor | None, layer: int
    ) -> Tensor:
        """Outputs (B, S, K) of rows (B, S, D).

        Args:
            language_model: the decoder with its adapters.
            embeds: what is read.
            seen: (B, 1, S, S), added to attention scores; None: as the decoder reads texts.
            layer: whose states are read.
        """
        outputs: Tensor = self.projector(layer_states(language_model, embeds, layer, seen).float())
        return outputs

    def teacher(
        self, language_model: nn.Module, embeds: Tensor, seen: Tensor | None, layer: int
    ) -> Tensor:
        """The same by the averages; arguments as of `student`."""
        buffers = dict(self.named_buffers())
        taken = {
            name: buffers[_buffer(name)].to(parameter.dtype)
            for name, parameter in self._averaged(language_model).items()
        }
        outputs: Tensor = functional_call(
            _Passing(self, language_model), taken, (embeds, seen, layer)
        )
        return outputs

    def note(self, outputs: Tensor, real: Tensor) -> None:
        """Remember the teacher's outputs (B, T, K) of a part of a step, for the centre."""
        self.seen_sum += (outputs * real[..., None]).sum(dim=(0, 1))
        self.seen_count += real.sum()

    @torch.no_grad()
    def after_step(self, language_model: nn.Module) -> None:
        """Move averages and centre; collective."""
        buffers = dict(self.named_buffers())
        for name, parameter in self._averaged(language_model).items():
            buffers[_buffer(name)].lerp_(parameter.detach().float(), 1 - self._momentum)
        told = sum_rows(torch.cat([self.seen_sum, self.seen_count]))
        if float(told[-1]):
            self.centre.lerp_(told[:-1] / told[-1], 1 - self._centring)
        self.seen_sum.zero_()
        self.seen_count.zero_()

    def _averaged(self, language_model: nn.Module) -> dict[str, nn.Parameter]:
        """What the teacher has of its own, by its name in `_Passing`."""
        adapters = {
            f"language_model.{name}": parameter
            for name, parameter in language_model.named_parameters()
            if _ADAPTER in name
        }
        head = {
            f"head.projector.{name}": parameter
            for name, parameter in self.projector.named_parameters()
        }
        return adapters | head


class _Passing(nn.Module):
    """Head and decoder as one module, whose parameters a call may replace."""

    def __init__(self, head: LaverHead, language_model: nn.Module) -> None:
        super().__init__()
        self.head, self.language_model = head, language_model

    def forward(self, embeds: Tensor, seen: Tensor | None, layer: int) -> Tensor:
        return self.head.student(self.language_model, embeds, seen, layer)


def _buffer(name: str) -> str:
    """A parameter's name as that of a buffer, which may hold no dot."""
    return "teacher|" + name.replace(".", "|")


def masked_loss(
    student: Tensor,
    teacher: Tensor,
    hidden: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy (B,) of what the student says of hidden tokens, the mean over them.

    Args:
        student: (B, T, K).
        teacher: (B, T, K), centred; gets no gradient.
        hidden: (B, T) bool.
        student_temperature: divides the student's outputs.
        teacher_temperature: divides the teacher's.
    """
    wanted = (teacher.detach().float() / teacher_temperature).softmax(dim=-1)
    told = (student.float() / student_temperature).log_softmax(dim=-1)
    each = -(wanted * told).sum(dim=-1)
    count = hidden.sum(dim=1).clamp(min=1)
    return (each * hidden).sum(dim=1) / count


def gram_loss(student: Tensor, teacher: Tensor, real: Tensor, *, clipped: bool) -> Tensor:
    """How the cosines of a study's tokens among each other differ (B,), the mean over pairs.

    Args:
        student: (B, T, K).
        teacher: (B, T, K); gets no gradient.
        real: (B, T) bool, False at padding.
        clipped: whether only cosines count that are above the teacher's.
    """
    ours, theirs = (F.normalize(each.float(), dim=-1) for each in (student, teacher.detach()))
    differ = ours @ ours.transpose(1, 2) - theirs @ theirs.transpose(1, 2)
    if clipped:
        differ = differ.clamp(min=0)
    pairs = (real[:, :, None] & real[:, None, :]).to(differ.dtype)
    return (differ.pow(2) * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)
