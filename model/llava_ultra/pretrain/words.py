"""Which words of a caption an image is asked to name.

A bag of words is the weakest use of a text, and enough to make an image encoder learn what the text
is about (Joulin et al., arXiv 1511.02251). Words are the tokenizer's tokens: single characters in
Chinese, of which two or three make a finding.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava_ultra.language.chat import encode_text

LEAST_SHARE = 0.01
"""Words of fewer captions than this, or missing in fewer, tell too little."""


def bag_of_words(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Mark which of the V words that tell captions apart stand in each: (N, V), float32, 0 or 1.

    Raises:
        ValueError: no word does.
    """
    bags = [set(encode_text(tokenizer, caption)) for caption in captions]
    counts = Counter(token for bag in bags for token in bag)
    least = max(1, round(LEAST_SHARE * len(bags)))
    words = [word for word, count in sorted(counts.items()) if least <= count <= len(bags) - least]
    if not words:
        raise ValueError(
            f"no word tells the {len(captions)} captions apart; set bootstrap.sam.word_weight = 0"
        )
    marks = torch.zeros(len(bags), len(words))
    place = {word: column for column, word in enumerate(words)}
    for row, bag in zip(marks, bags, strict=True):
        row[[place[word] for word in bag if word in place]] = 1
    return marks
