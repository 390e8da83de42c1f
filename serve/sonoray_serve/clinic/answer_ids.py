"""An answer's id: random, with the model's name in it, and a code that only its own key matches.

So feedback on an answer is taken from the key that got it and from no other, on every replica, and
nothing is kept for that: no replica has to know which answers the others have given. The code is an
HMAC under the digest of the caller's key, which no client is told.
"""

import hmac
import uuid

_RANDOM, _MODEL, _CODE = 24, 12, 16
"""Characters of each part, all hex: 96 bits, the beginning of the model's digest, 64 bits."""


def new_answer_id(prefix: str, model_digest: str, key_digest: str) -> str:
    """Name an answer.

    Args:
        prefix: as OpenAI's API has it, `chatcmpl`.
        model_digest: of the model that answers.
        key_digest: of the key that asked; empty where the service has none.
    """
    start = f"{prefix}-{uuid.uuid4().hex[:_RANDOM]}{model_digest[:_MODEL]:0<{_MODEL}}"
    return start + _code(start, key_digest)


def find_model(answer_id: str, key_digest: str) -> str | None:
    """The beginning of the digest of the model that gave an answer; None if not to this key."""
    start, code = answer_id[:-_CODE], answer_id[-_CODE:]
    if not answer_id.isascii() or len(start) < _RANDOM + _MODEL:
        return None
    return start[-_MODEL:] if hmac.compare_digest(code, _code(start, key_digest)) else None


def _code(start: str, key_digest: str) -> str:
    return hmac.new(key_digest.encode(), start.encode(), "sha256").hexdigest()[:_CODE]
