"""The two losses of LaVer over the image tokens of each study.

Axes: B studies, T image tokens, K outputs of the head.
"""

import torch.nn.functional as F
from torch import Tensor


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
