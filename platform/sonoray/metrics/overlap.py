"""How much of a text's wording returns in an answer: BLEU, ROUGE, METEOR and CIDEr.

All take tokens (`tokens`), so that one code serves characters and words, and all are functions of
answers' weights (`bootstrap.Metric`): corpus BLEU is a ratio of weighted sums, the others are means
over answers. BLEU, ROUGE-L and CIDEr equal nlg-eval's (Sharma et al., arXiv:1706.09799), which are
those of the COCO caption evaluation (Chen et al., arXiv:1504.00325):

- BLEU-n (Papineni et al., ACL 2002): corpus level, closest reference length, no smoothing;
- ROUGE-1, ROUGE-2 (Lin, ACL workshop 2004): F1 of the n-grams, best reference;
- ROUGE-L (the same): `(1 + b^2) P R / (R + b^2 P)` with b = 1.2, where P and R are each the best
  over the references;
- METEOR (Lavie and Agarwal, ACL 2007) by NLTK, alpha 0.9, beta 3, gamma 0.5: exact matches, then
  equal Porter stems (which leave Chinese as it is), no synonyms. The published figures come from
  the Java program METEOR 1.5, which has other weights, tells function words apart and matches
  WordNet synonyms and paraphrases; it knows neither for Chinese, and the two do not compare;
- CIDEr (Vedantam et al., CVPR 2015), which is its variant CIDEr-D here as there: clipped tf-idf,
  n = 1 to 4, Gaussian length penalty of sigma 6, times 10. Document frequencies come from the
  references of all answers at hand, so that a value belongs to its test set, and a draw of the
  bootstrap keeps them. One answer alone, or truths that are all the same, have no frequencies that
  could weigh anything: CIDEr is undefined there (NaN), where nlg-eval says 0 of a perfect answer.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sonoray.metrics.resampling import Floats, Metric, mean_metric

Tokens = Sequence[str]
References = Sequence[Sequence[Tokens]]
"""For each answer its references, one or more."""

OVERLAP_METRICS = (
    *(f"bleu_{order}" for order in range(1, 5)),
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "meteor",
    "cider",
)
"""Names of all measures, in the order of reports."""

_MAX_ORDER = 4
_ROUGE_L_BETA = 1.2
_CIDER_SIGMA = 6.0


def overlap_metrics(references: References, answers: Sequence[Tokens]) -> dict[str, Metric]:
    """Return every measure of `OVERLAP_METRICS` as a function of the answers' weights."""
    means = {
        "rouge_1": [rouge_n(refs, answer, 1) for refs, answer in _pairs(references, answers)],
        "rouge_2": [rouge_n(refs, answer, 2) for refs, answer in _pairs(references, answers)],
        "rouge_l": [rouge_l(refs, answer) for refs, answer in _pairs(references, answers)],
        "meteor": [meteor(refs, answer) for refs, answer in _pairs(references, answers)],
        "cider": cider(references, answers),
    }
    bleu = {
        f"bleu_{order}": metric for order, metric in enumerate(bleu_metrics(references, answers), 1)
    }
    return bleu | {name: mean_metric(np.array(values)) for name, values in means.items()}


def bleu_metrics(references: References, answers: Sequence[Tokens]) -> list[Metric]:
    """BLEU-1 to BLEU-4 of the answers taken as one corpus."""
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    orders = range(1, _MAX_ORDER + 1)
    pairs = _pairs(references, answers)
    matched = np.array(
        [[modified_precision(refs, answer, n).numerator for n in orders] for refs, answer in pairs],
        dtype=np.float64,
    )
    total = np.array([[max(0, len(answer) - n + 1) for n in orders] for answer in answers], float)
    wanted = np.array([closest_ref_length(refs, len(answer)) for refs, answer in pairs], float)

    def up_to(order: int) -> Metric:
        def metric(weights: Floats) -> Floats:
            given, asked = weights @ total[:, 0], weights @ wanted
            with np.errstate(divide="ignore", invalid="ignore"):
                precisions = (weights @ matched[:, :order]) / (weights @ total[:, :order])
                log_mean = np.log(np.nan_to_num(precisions)).mean(axis=1)
                brevity = np.minimum(0.0, 1 - asked / given)
                score = np.where(given > 0, np.exp(log_mean + brevity), 0.0)
            return np.where(weights.sum(axis=1) > 0, score, np.nan)

        return metric

    return [up_to(order) for order in orders]


def rouge_n(references: Sequence[Tokens], answer: Tokens, order: int) -> float:
    """F1 of the n-grams counted with repetition, with the best reference; 0 where none fits."""
    given = _ngrams(answer, order)
    best = 0.0
    for reference in references:
        wanted = _ngrams(reference, order)
        total = wanted.total() + given.total()
        best = max(best, 2 * (wanted & given).total() / total if total else 0.0)
    return best


def rouge_l(references: Sequence[Tokens], answer: Tokens) -> float:
    """F of the longest common subsequence, recall weighted by 1.2 squared."""
    common = [(lcs_length(reference, answer), len(reference)) for reference in references]
    precision = max(length / len(answer) if answer else 0.0 for length, _ in common)
    recall = max(length / size if size else 0.0 for length, size in common)
    if not precision or not recall:
        return 0.0
    square = _ROUGE_L_BETA**2
    return (1 + square) * precision * recall / (recall + square * precision)


def lcs_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyroe, AWOCA 2004): a row of the table is one integer, a step a few operations.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


def meteor(references: Sequence[Tokens], answer: Tokens) -> float:
    """METEOR with exact and stem matches, best reference; see the module's docstring."""
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score(references, answer, wordnet=_NoSynonyms()))


def cider(references: References, answers: Sequence[Tokens]) -> list[float]:
    """CIDEr-D of each answer; NaN of all where no word tells one reference from another."""
    wanted = [[_orders(reference) for reference in refs] for refs in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for counts in wanted:
        frequency.update({gram for one in counts for order in one for gram in order})
    rarest = math.log(len(references)) if references else 0.0
    if all(count >= len(references) for count in frequency.values()):
        return [math.nan] * len(references)

    def vectors(counts: list[Counter[tuple[str, ...]]]) -> list[dict[tuple[str, ...], float]]:
        return [
            {
                gram: count * (rarest - math.log(max(1, frequency[gram])))
                for gram, count in order.items()
            }
            for order in counts
        ]

    scores = []
    for counts, answer in zip(wanted, answers, strict=True):
        orders = _orders(answer)
        given = vectors(orders)
        total = 0.0
        for one in counts:
            gap = orders[1].total() - one[1].total()  # bigrams: the length that COCO's code takes
            penalty = math.exp(-(gap**2) / (2 * _CIDER_SIGMA**2))
            total += penalty * float(np.mean(list(map(_clipped_cosine, given, vectors(one)))))
        scores.append(10 * total / len(counts))
    return scores


def _clipped_cosine(
    given: dict[tuple[str, ...], float], wanted: dict[tuple[str, ...], float]
) -> float:
    norms = math.hypot(*given.values()) * math.hypot(*wanted.values())
    shared = sum(
        min(value, wanted[gram]) * wanted[gram] for gram, value in given.items() if gram in wanted
    )
    return shared / norms if norms else 0.0


class _NoSynonyms:
    """Stands where NLTK wants WordNet, which would be a download and knows no Chinese."""

    def synsets(self, word: str) -> tuple[()]:
        """Return nothing: no word has a synonym."""
        return ()


def _ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _orders(tokens: Tokens) -> list[Counter[tuple[str, ...]]]:
    return [_ngrams(tokens, order) for order in range(1, _MAX_ORDER + 1)]


def _pairs(
    references: References, answers: Sequence[Tokens]
) -> list[tuple[Sequence[Tokens], Tokens]]:
    return list(zip(references, answers, strict=True))
