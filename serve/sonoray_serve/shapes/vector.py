"""A study as one vector: what `/v1/embeddings` answers.

The fused tokens of each image are averaged, the images are averaged by the shares that the
sampler's feature score gives them, and the result has length 1, so that a dot product of two
studies is their cosine.
"""

import base64

import numpy as np
import numpy.typing as npt


def study_vector(
    tokens: npt.NDArray[np.float32], feature_scores: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The vector (D,) of fused tokens (K, P, D) with scores (K,), and the images' shares."""
    parts = np.exp(feature_scores - feature_scores.max())
    shares = parts / parts.sum()
    mean = shares @ tokens.mean(axis=1)
    vector = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return vector.astype(np.float32), [float(share) for share in shares]


def to_base64(vector: npt.NDArray[np.float32]) -> str:
    """A vector as OpenAI's clients ask for it: little-endian float32 in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
