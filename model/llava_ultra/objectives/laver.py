"""The LaVer objective: the decoder learns to say of hidden image tokens what it says of seen ones.

LaVer (arXiv 2512.06281) masks image tokens in front of the decoder. A student sees the masked ones
and a teacher, its exponential moving average, all of them. Of N text rows, B studies, T image
tokens, K outputs of a head on the decoder's states, with student z and teacher y:

- masked latent reconstruction: `- sum_k softmax((y - c) / tau_t) log softmax(z / tau_s)`, the mean
  over a study's masked tokens; c is a running mean of the teacher's outputs;
- Gram loss: of the tokens' cosines among each other, `G(z)` and `G(y)`, either how far the
  student's are above the teacher's, `max(0, G(z) - G(y))^2`, as the paper has it, or
  `(G(z) - G(y))^2`, as its public code has it; the mean over pairs of a study's tokens.

What is ours, says docs/methods.md. The average is taken of adapters and head alone, since all else
is frozen, and the objective rests while the adapters do; it and c move after each optimiser step
(`LaverHead.after_step`). Studies count by their text rows, so that the loss adds up from parts.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.objectives.objective import Need, Objective

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from llava_ultra.batch import Batch
    from llava_ultra.objectives.laver_head import LaverHead
    from llava_ultra.objectives.states import States

Gram = Literal["clipped", "symmetric"]


class LaverObjective(Objective):
    """Masked latent reconstruction of image tokens, and a Gram loss."""

    needs: ClassVar[frozenset[Need]] = frozenset({"adapters"})
    needs_whole_weights: ClassVar[bool] = True

    type: Literal["laver"] = "laver"
    weight: float = Field(default=0.2, ge=0)
    mask_ratio: float = Field(default=0.2, gt=0, lt=1)
    """Share of a study's image tokens that the student does not see; one at least."""
    reconstruction: float = Field(default=1.0, ge=0)
    """Weight of the reconstruction within the loss."""
    alignment: float = Field(default=1.0, ge=0)
    """Weight of the Gram loss within the loss."""
    gram: Gram = "clipped"
    """Whether cosines count that are above the teacher's, or all that differ."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    centring: float = Field(default=0.9, ge=0, lt=1)
    """What the teacher, and the mean of its outputs, keep of themselves at each step."""
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)
    outputs: int = Field(default=128, ge=2)
    """Outputs of the head (K)."""
    layer: int = -1
    """Layer whose states are read, as in the objective `recognition`."""
    both_ways: bool = False
    """Whether image tokens see each other in both directions in the passes of this objective."""

    def build_head(self, language_model: "nn.Module", width: int, scale: "Tensor") -> "nn.Module":
        """Mask vector, head, and the teacher's average."""
        from llava_ultra.objectives.laver_head import LaverHead

        return LaverHead(self, language_model, width=width, scale=scale)

    def loss(self, batch: "Batch", states: "States") -> "Tensor":
        """The loss (), the mean over the N rows of their studies'."""
        import torch

        from llava_ultra.connector.unasked import images_unasked
        from llava_ultra.objectives.laver_head import gram_loss, masked_loss

        model = states.recogniser
        assert model is not None  # it has the head
        head: LaverHead = model.heads[self.type]  # type: ignore[assignment]
        picked, mask = images_unasked(states.sampler, states.tokens, batch.visual.image_mask)
        at = batch.text.images_at
        words = states.embed(batch.text.ids[:1, :at]).expand(len(picked), -1, -1)
        picked = (picked * model.embedding_scale).to(words.dtype)
        hidden = draw_masks(mask, self.mask_ratio)
        seen = self._attention(mask, at).to(picked.device) if self.both_ways else None
        with torch.no_grad():
            teacher = head.teacher(
                model.language_model, torch.cat([words, picked], dim=1), seen, self.layer
            )[:, at:]
        shown = torch.where(
            hidden.to(picked.device)[..., None], head.mask_vector.to(picked.dtype), picked
        )
        student = head.student(
            model.language_model, torch.cat([words, shown], dim=1), seen, self.layer
        )[:, at:]
        real, hidden = (each.to(student.device) for each in (mask, hidden))
        rebuilt = masked_loss(
            student,
            teacher - head.centre,
            hidden,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        aligned = gram_loss(student, teacher, real, clipped=self.gram == "clipped")
        if torch.is_grad_enabled():
            head.note(teacher, real)
        of_studies = self.reconstruction * rebuilt + self.alignment * aligned
        return of_studies[batch.text.study_index.to(of_studies.device)].mean()

    def _attention(self, mask: "Tensor", at: int) -> "Tensor":
        """(B, 1, at + T, at + T), what is added to scores: images see each other, all else back."""
        import torch
        import torch.nn.functional as F

        length = at + mask.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        seen[at:, at:] = True
        real = F.pad(mask.cpu(), (at, 0), value=True)
        allowed = seen[None] & (real[:, None, :] | torch.eye(length, dtype=torch.bool))
        none = torch.zeros(allowed.shape)
        return none.masked_fill(~allowed, torch.finfo(none.dtype).min)[:, None]


def draw_masks(mask: "torch.Tensor", ratio: float) -> "torch.Tensor":
    """Hide a share of each row's places: bool (B, T), one at least and nothing of padding."""
    import torch

    real = mask.cpu()
    order = torch.rand(real.shape).masked_fill(~real, 2.0).argsort(dim=1).argsort(dim=1)
    count = (real.sum(dim=1, keepdim=True) * ratio).round().clamp(min=1)
    return (order < count) & real
