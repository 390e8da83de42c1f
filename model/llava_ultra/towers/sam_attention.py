"""SAM's attention without its matrix of scores, for grids that are too large to hold it.

segment_anything adds to every score what the query sees in the row and in the column of the key,
`s_qk = q . k / sqrt(d) + q . R_h[y_q - y_k] + q . R_w[x_q - x_k]`, and keeps the whole matrix, up
to three times: 3.4 GB for one image of 1,024 pixels in ViT-L's global blocks. Here the queries come
in chunks of grid rows. Of each chunk only the second and third term are written down, as the bias
of torch's fused attention, and a chunk is computed anew in a backward pass.

Small grids keep the library's own arithmetic, to the bit: every window (196 tokens), and the
global blocks of the presets that a CPU trains (at most 576).

Axes: N images, T = H*W tokens, E width, A heads, d = E / A.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LEAST_TOKENS = 1025
"""Tokens from which the matrix of scores is avoided."""
CHUNK_VALUES = 2**24
"""Values of a chunk's bias (67 MB in float32), or those of one row of the grid."""


class ChunkedAttention(nn.Module):
    """An `Attention` of segment_anything, its weights under the same names."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, states: Tensor) -> Tensor:
        """Attend within each image: (N, H, W, E) to (N, H, W, E)."""
        images, height, width, _ = states.shape
        heads = self.qkv(states).view(images, height * width, 3, self.num_heads, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (N, A, T, d)
        queries = queries.reshape(*queries.shape[:2], height, width, -1)
        of_rows = get_rel_pos(height, height, self.rel_pos_h).to(queries.dtype)  # (H, H, d)
        of_columns = get_rel_pos(width, width, self.rel_pos_w).to(queries.dtype)  # (W, W, d)
        rows = max(1, CHUNK_VALUES // (images * self.num_heads * width * height * width))
        attended = []
        for start in range(0, height, rows):
            given = (queries[:, :, start : start + rows], keys, values)
            near = (of_rows[start : start + rows], of_columns)
            if torch.is_grad_enabled():
                attended.append(checkpoint(self._attend, *given, *near, use_reentrant=False))
            else:
                attended.append(self._attend(*given, *near))
        joined = torch.cat(attended, dim=2).transpose(1, 2).flatten(2)  # (N, T, E)
        projected: Tensor = self.proj(joined.view(images, height, width, -1))
        return projected

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, of_rows: Tensor, of_columns: Tensor
    ) -> Tensor:
        """What the queries of R rows of the grid get.

        Args:
            queries: (N, A, R, W, d).
            keys: (N, A, T, d).
            values: (N, A, T, d).
            of_rows: (R, H, d), the table of rows at the distances of these rows from all.
            of_columns: (W, W, d), the table of columns.

        Returns:
            (N, A, R*W, d).
        """
        by_row = torch.einsum("narwd,rhd->narwh", queries, of_rows)
        by_column = torch.einsum("narwd,wvd->narwv", queries, of_columns)
        bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
        return F.scaled_dot_product_attention(
            queries.flatten(2, 3), keys, values, attn_mask=bias, scale=self.scale
        )


def spare_scores(encoder: ImageEncoderViT, grid: int) -> bool:
    """Let the global blocks of an image encoder attend in chunks where its grid is large.

    Args:
        encoder: segment_anything's; its blocks' attention is replaced, with the same weights.
        grid: tokens along one side.

    Returns:
        Whether any was replaced.
    """
    if grid * grid < LEAST_TOKENS:
        return False
    whole = [block for block in encoder.blocks if block.window_size == 0]
    for block in whole:
        block.attn = ChunkedAttention(block.attn)
    return bool(whole)
