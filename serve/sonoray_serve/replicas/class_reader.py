"""Classes that the engine's model has read, and studies held against them.

A request names its classes in its own words; reading them takes a pass of the decoder over each
text, so what was read is kept for the next request with the same classes. It runs in the thread
that owns decoder and tokenizer (`sonoray_serve.schedule.worker`), between two steps of the answers:
the tokenizer is not to be used by two threads, and which adapter the decoder has is one thread's
affair.
"""

import logging
from typing import TYPE_CHECKING

from llava_ultra.recognition.bank import ClassBank
from sonoray.config.canonical import content_hash
from sonoray_serve.messages import ClassShares, EncodedStudy, Failed
from sonoray_serve.problems import Problem, contained
from sonoray_serve.replicas.kept import Kept

if TYPE_CHECKING:
    from llava_ultra.decoding.class_scores import KnownClasses
    from llava_ultra.export.assistant import Answerer

logger = logging.getLogger(__name__)

_KEPT_BYTES = 64_000_000


class ClassReader:
    """Reads classes and studies with an exported model."""

    def __init__(self, answerer: "Answerer", digest: str) -> None:
        self._answerer = answerer
        self._digest = digest
        self._kept: Kept[KnownClasses] = Kept(max_bytes=_KEPT_BYTES)

    @contained(logger)
    def score(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Shares of the bank's classes in a study."""
        import torch

        from llava_ultra.decoding.class_scores import score_classes

        model = self._answerer.model
        if study.digest != self._digest:
            return Failed(problem=Problem.UNAVAILABLE)
        if model.recognition is None:
            return Failed(problem=Problem.NOT_TRAINED_TO_RECOGNISE)
        try:
            classes = self._read(bank)
        except ValueError:  # the tokenizer's word for a character that it lacks
            detail = "the model has no token for some of their characters"
            return Failed(problem=Problem.CLASSES_NOT_ACCEPTED, detail=detail)
        tokens = torch.tensor(study.tokens)[None].to(model.embedding_scale.device)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        scores = score_classes(model, self._answerer.tokenizer, classes, tokens, mask, ["request"])
        shares = tuple(scores[0].double().softmax(dim=0).tolist())
        return ClassShares(shares=shares, digest=self._digest)

    def _read(self, bank: ClassBank) -> "KnownClasses":
        from llava_ultra.decoding.class_scores import read_classes

        key = bytes.fromhex(content_hash(bank.model_dump(mode="json")))
        found = self._kept.get(key)
        if found is None:
            found = read_classes(self._answerer.model, self._answerer.tokenizer, bank)
            size = 2 * found.globals_.vectors.nbytes
            self._kept.put(key, found, size_bytes=size)
        return found
