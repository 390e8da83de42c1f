"""The grounding objective: each study's longest text must find its own study in the step.

Multiple-instance InfoNCE. The answer loss alone moves the attention score too slowly, because at
first no picked image helps the decoder. Texts i and studies j of the whole step are compared by

`S_ij = max-like_k mean_l max-like_p q_il . k_jkp / sqrt(D)`,

where max-like is log-mean-exp: one matching image, and in it one matching place, is enough; and S
is divided by a temperature. Queries and keys are those of the attention score.

The step is spread over workers, and the loss is that of the whole step: workers exchange the texts'
queries, which are few (some hundred numbers of width D a text, where a study has P a picture), each
compares all texts with its own studies, and the columns are put together.

Axes: B studies with a text, K images, P tokens, D width, L text tokens, T real text tokens.
"""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.objectives.objective import Need, StepObjective

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from llava_ultra.batch import Batch, TextBatch
    from llava_ultra.connector.scores import Scores
    from llava_ultra.objectives.states import Fused, StepPart


class GroundingObjective(StepObjective):
    """InfoNCE of the step's studies and their longest texts, the answer included."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    type: Literal["grounding"] = "grounding"
    weight: float = Field(default=0.2, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    """Divides the similarities of texts and studies. They are means over a text's tokens and differ
    by little: at 1 the attention score learned half as fast (docs/results.md)."""

    def part(self, batch: "Batch", fused: "Fused") -> "StepPart":
        """Queries of each study's longest text, and keys of its images."""
        studies, rows = longest_texts(batch.text)
        tokens, text, images = fused.tokens, batch.text, batch.visual.image_mask
        scores = fused.sampler.scores
        assert scores is not None  # they are among the needs
        return queries_and_keys(
            scores,
            tokens[studies.to(tokens.device)],
            images[studies.to(images.device)],
            fused.embed(text.ids[rows]).to(tokens.dtype),
            text.mask[rows],
        )

    def compare(self, parts: "Sequence[StepPart]") -> "Tensor":
        """InfoNCE () over the studies of all workers; collective, the same on each of them."""
        from llava_ultra.recognition.losses import info_nce

        return info_nce(grounding_similarity(parts) / self.temperature)


def longest_texts(text: "TextBatch") -> tuple["Tensor", "Tensor"]:
    """The studies (B,) that have a text in this batch, ascending, and each one's longest row (B,).

    Of rows of equal length the first one counts.
    """
    import torch

    lengths = text.mask.sum(dim=1).tolist()
    longest: dict[int, int] = {}
    for row, study in enumerate(text.study_index.tolist()):
        if study not in longest or lengths[row] > lengths[longest[study]]:
            longest[study] = row
    studies = sorted(longest)
    device = text.ids.device
    return (
        torch.tensor(studies, dtype=torch.int64, device=device),
        torch.tensor([longest[s] for s in studies], dtype=torch.int64, device=device),
    )


def queries_and_keys(
    scores: "Scores", tokens: "Tensor", image_mask: "Tensor", text: "Tensor", text_mask: "Tensor"
) -> "StepPart":
    """What texts and studies are compared by.

    Args:
        scores: has the queries and keys.
        tokens: (B, K, P, D) fused tokens.
        image_mask: (B, K) bool.
        text: (B, L, D), the embedded text of each study.
        text_mask: (B, L) bool.

    Returns:
        Vectors: queries (T, D) of the real words, keys (I, P, D) of the real images. Counts: words
        of each text (B,), images of each study (B,).
    """
    from llava_ultra.objectives.states import StepPart

    # Padding is left out before anything is computed: of the pairs of a text token and a place,
    # the largest tensor of a training step, it makes two thirds.
    images, words = _places(image_mask, tokens.device), _places(text_mask, tokens.device)
    return StepPart(
        vectors=(scores.queries(text[words]), scores.keys(tokens[images])),
        counts=(text_mask.sum(dim=1), image_mask.sum(dim=1)),
    )


def grounding_similarity(parts: "Sequence[StepPart]") -> "Tensor":
    """Similarity of every text of the step to every study of it; see the module's docstring.

    Args:
        parts: of this worker, as `queries_and_keys` makes them.

    Returns:
        (B', B'), texts by studies, B' those of all workers.
    """
    import torch
    import torch.nn.functional as F

    from llava_ultra.objectives.ranks import gather_rows

    own_queries, keys = (torch.cat([part.vectors[n] for part in parts]) for n in (0, 1))
    own_lengths, num_images = (torch.cat([part.counts[n] for part in parts]) for n in (0, 1))
    device, num_tokens = keys.device, keys.shape[1]
    queries = gather_rows(own_queries)  # (T, D), T of all workers
    # exact in float32 below 16 million tokens
    lengths = gather_rows(own_lengths.float()).long().cpu()
    logits = queries @ keys.flatten(0, 1).T  # (T, I*P)
    best_place = logits.view(len(logits), len(keys), num_tokens).logsumexp(dim=-1)  # (T, I)
    owner = torch.arange(len(lengths)).repeat_interleave(lengths).to(device)
    of_text = F.one_hot(owner, len(lengths)).T.to(best_place.dtype)  # (B', T)
    sums = of_text @ best_place
    per_image = sums / of_text.sum(dim=1, keepdim=True).clamp(min=1) - math.log(num_tokens)
    most = max(num_images.tolist(), default=1)
    image_mask = torch.arange(most) < num_images.cpu()[:, None]
    visible = keys.new_full((*image_mask.shape, len(lengths)), -torch.inf)
    visible = visible.index_put(_places(image_mask, device), per_image.T)  # (B, K, B')
    of_studies = visible.logsumexp(dim=1) - num_images.to(keys)[:, None].log()  # (B, B')
    return gather_rows(of_studies).T


def _places(mask: "Tensor", device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """Row and column of each True of a mask (R, C), as indices on a device."""
    rows, columns = mask.nonzero(as_tuple=True)
    return rows.to(device), columns.to(device)
