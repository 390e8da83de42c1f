"""What a consultation may cost. Nothing is asked whose cost might pass a cap.

Calls are counted before they are made, also those that fail. What a call costs in tokens is known
only afterwards, so it must fit by its bound: the context of the model, or, once one call about the
same images is known, that call's prompt, a token for each byte of the new text, and the longest
answer. A byte is the smallest piece that a tokenizer has, and the known prompt covers the images
and the form of a conversation.
"""

from dataclasses import dataclass

from sonoray.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class Budget:
    """Caps, and what was spent."""

    max_calls: int
    max_tokens: int | None = None
    """Of prompts and answers together; None knows no end."""
    calls: int = 0
    tokens: int = 0

    def fits(self, *bounds: int) -> bool:
        """Whether these calls may all be made.

        Args:
            bounds: the most tokens of each.
        """
        if self.calls + len(bounds) > self.max_calls:
            return False
        return self.max_tokens is None or self.tokens + sum(bounds) <= self.max_tokens

    @property
    def is_passed(self) -> bool:
        """Whether more was spent than a cap allows: the service counted what it cannot have."""
        return self.max_tokens is not None and self.tokens > self.max_tokens

    def begin(self) -> None:
        """Count a call that is about to be made."""
        assert self.calls < self.max_calls  # `fits` was asked
        self.calls += 1

    def spend(self, tokens: int) -> None:
        """Count what it cost."""
        self.tokens += tokens


def check_caps(max_calls: int, max_tokens: int | None, context_length: int) -> None:
    """Refuse caps that leave no call.

    Args:
        max_calls: calls a question.
        max_tokens: tokens a question; None knows no end.
        context_length: most tokens of one call.

    Raises:
        ConfigError: they do.
    """
    if max_calls < 1:
        raise ConfigError(
            f"--max-calls {max_calls} leaves no call; give at least 1, and about 12 for all roles"
        )
    if max_tokens is not None and max_tokens < context_length:
        raise ConfigError(
            f"--max-tokens {max_tokens} is less than the {context_length} tokens that one call of "
            "this model may take; give more, or leave it out"
        )
