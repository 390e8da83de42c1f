import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CohereConfig, CohereForCausalLM, LlamaConfig, LlamaForCausalLM

from llava_ultra.reading import answers
from llava_ultra.reading.answers import answer_log_probs, token_log_probs
from llava_ultra.reading.decoder_input import Sequence

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 50,
}
VOCABULARY = 7


class Head(nn.Linear):
    """Notes how many logits it computes at once."""

    def forward(self, states):
        logits = super().forward(states)
        self.computed.append(logits.numel())
        return logits


@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "learning"])
def test_chunks_give_the_log_probabilities_and_gradients_of_all_logits_at_once(learns, monkeypatch):
    torch.manual_seed(0)
    head = Head(5, VOCABULARY, dtype=torch.float64).requires_grad_(learns)
    states = torch.randn(10, 5, dtype=torch.float64, requires_grad=True)
    seen: list[int] = []
    targets, weights = torch.randint(VOCABULARY, (10,)), torch.randn(10)
    called = []
    head.register_forward_hook(lambda *_: called.append(1))

    def run():
        head.computed = seen
        seen.clear()
        called.clear()
        states.grad = None
        head.zero_grad()
        found = token_log_probs(head, states, targets, vocabulary=VOCABULARY)
        (found * weights).sum().backward()
        return found.detach(), states.grad, head.weight.grad

    whole = run()
    assert seen == [10 * VOCABULARY]
    expected = head(states).float().log_softmax(dim=-1)[torch.arange(10), targets]
    torch.testing.assert_close(whole[0], expected.detach())
    monkeypatch.setattr(answers, "MAX_LOGITS", 3 * VOCABULARY)
    chunked = run()
    # each chunk once forward and once for its gradient, and one token that decides nothing
    assert sorted(seen) == sorted(2 * [3 * VOCABULARY] * 3 + 2 * [VOCABULARY] + [VOCABULARY])
    assert len(called) == 1
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-7)


def test_a_vocabulary_beyond_the_limit_is_scored_token_by_token(monkeypatch):
    monkeypatch.setattr(answers, "MAX_LOGITS", VOCABULARY - 1)
    head, states = nn.Linear(5, VOCABULARY), torch.randn(3, 5)
    found = token_log_probs(head, states, torch.tensor([0, 1, 2]), vocabulary=VOCABULARY)
    expected = -F.cross_entropy(head(states), torch.tensor([0, 1, 2]), reduction="none")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("model", "reads"),
    [
        (LlamaForCausalLM(LlamaConfig(**SIZES)), 1),
        (CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.5)), 2),
    ],
    ids=["plain", "scaled"],
)
def test_what_a_decoder_does_to_its_logits_afterwards_is_done(model, reads):
    """A decoder that scales them is found out once, and then asked itself."""
    model.eval()
    embeds = torch.randn(2, 6, 32)
    sequence = Sequence(
        embeds=embeds,
        arguments={},
        prefixes=None,
        rows=torch.tensor([0, 0, 1]),
        places=torch.tensor([2, 3, 5]),
        sources=torch.tensor([1, 2, 10]),
    )
    targets = torch.tensor([4, 5, 6])
    expected = model(inputs_embeds=embeds).logits.flatten(0, 1)[sequence.sources]
    expected = expected.log_softmax(dim=-1)[torch.arange(3), targets]
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    for number in range(1, 3):
        found = answer_log_probs(model, sequence, targets)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert len(calls) == reads + number - 1
