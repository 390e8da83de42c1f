import pytest
import torch

from llava_ultra.batch import TextBatch
from llava_ultra.connector.scores import Scores
from llava_ultra.objectives.grounding import (
    grounding_similarity,
    longest_texts,
    queries_and_keys,
)
from llava_ultra.recognition.losses import info_nce

WIDTH, TOKENS = 8, 3


def build():
    torch.manual_seed(0)
    return Scores(width=WIDTH, word_weights="information")


def studies(*counts):
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return torch.randn(*mask.shape, TOKENS, WIDTH, requires_grad=True), mask


def test_each_study_with_a_text_is_asked_by_the_first_of_its_longest():
    lengths = torch.tensor([2, 5, 3, 5, 4])
    mask = torch.arange(5) < lengths[:, None]
    ids = torch.zeros(5, 5, dtype=torch.int64)
    text = TextBatch(ids=ids, labels=ids, mask=mask, study_index=torch.tensor([4, 1, 4, 1, 0]))
    asked, rows = longest_texts(text)
    assert asked.tolist() == [0, 1, 4]
    assert rows.tolist() == [4, 1, 2]


def test_grounding_learns_which_image_a_text_belongs_to():
    torch.manual_seed(0)
    scores = Scores(width=WIDTH, word_weights="information")
    concepts = torch.randn(6, WIDTH) * 2
    words = torch.randn(6, WIDTH)[:, None]  # unlike the concepts: the match has to be learned
    images, text_mask = torch.ones(6, 4, dtype=torch.bool), torch.ones(6, 1, dtype=torch.bool)

    def draw():  # one place of one image of each study shows its concept, all else is new each time
        tokens, shows = torch.randn(6, 4, TOKENS, WIDTH), torch.randint(4, (6,))
        tokens[torch.arange(6), shows, 1] = concepts
        return tokens, shows

    optimizer = torch.optim.Adam(scores.parameters(), lr=0.01)
    for _ in range(400):
        tokens, _ = draw()
        loss = info_nce(
            grounding_similarity([queries_and_keys(scores, tokens, images, words, text_mask)]) / 0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hits = []
    for _ in range(20):
        tokens, shows = draw()
        told = scores.attention(tokens, images, torch.arange(6), words, text_mask)
        hits.append((told.argmax(1) == shows).float().mean())
    assert torch.stack(hits).mean() > 0.8  # chance is 0.25


def test_padding_takes_no_part_in_grounding():
    scores, (tokens, mask) = build(), studies(2, 4)
    text, text_mask = torch.randn(2, 3, WIDTH), torch.ones(2, 3, dtype=torch.bool)
    plain = grounding_similarity([queries_and_keys(scores, tokens, mask, text, text_mask)])
    padded = tokens.detach().clone()
    padded[0, 2:] = 50.0
    assert torch.allclose(
        plain, grounding_similarity([queries_and_keys(scores, padded, mask, text, text_mask)])
    )
    longer = torch.cat([text, torch.full((2, 2, WIDTH), 50.0)], dim=1)
    unread = torch.cat([text_mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    assert torch.allclose(
        plain, grounding_similarity([queries_and_keys(scores, tokens, mask, longer, unread)])
    )


def test_grounding_is_the_equation_in_the_docstring():
    scores, (tokens, mask) = build(), studies(2, 4)
    text, text_mask = torch.randn(2, 3, WIDTH), torch.tensor([[True, True, False], [True] * 3])
    found = grounding_similarity([queries_and_keys(scores, tokens, mask, text, text_mask)]).detach()
    for i in range(2):
        query = scores.query(text[i, text_mask[i]]).detach()
        for j in range(2):
            key = scores.key(tokens[j, mask[j]]).detach()
            similarity = torch.einsum("ld,kpd->lkp", query, key) / WIDTH**0.5
            places = similarity.exp().mean(dim=2).log().mean(dim=0)
            similarity = float(places.exp().mean().log())
            assert found[i, j] == pytest.approx(similarity, abs=1e-5)
