"""How an answer is written as OpenAI's older plain completion; see `sonoray_serve.shapes.forms`."""

from collections.abc import Sequence

from pydantic import BaseModel

from sonoray_serve.messages import Finished, Piece
from sonoray_serve.shapes import answers
from sonoray_serve.shapes.forms import Head, Told
from sonoray_serve.shapes.tool_shapes import CallMade


class TextForm:
    """`/v1/completions`."""

    prefix = "cmpl"

    def whole(
        self, head: Head, told: Sequence[Told], usage: answers.Usage, sonoray: answers.SonoRay
    ) -> BaseModel:
        """See `Form`."""
        choices = [
            answers.CompletionChoice(
                index=index,
                text=each.text,
                finish_reason=each.end.reason if each.end else "stop",
            )
            for index, each in enumerate(told)
        ]
        return _completion(head, *choices, usage=usage, sonoray=sonoray)

    def opening(self, head: Head, choice: int) -> list[bytes]:
        """See `Form`; a plain completion has no role to tell."""
        return []

    def piece(self, head: Head, piece: Piece) -> bytes:
        """See `Form`."""
        choice = answers.CompletionChoice(index=piece.choice, text=piece.text)
        return answers.to_chunk(_completion(head, choice))

    def call(self, head: Head, call: CallMade) -> bytes:
        """See `Form`; a plain completion offers no tools."""
        raise AssertionError

    def end(self, head: Head, end: Finished, sonoray: answers.SonoRay | None) -> bytes:
        """See `Form`."""
        choice = answers.CompletionChoice(index=end.choice, text="", finish_reason=end.reason)
        return answers.to_chunk(_completion(head, choice, sonoray=sonoray))

    def counts(self, head: Head, usage: answers.Usage, sonoray: answers.SonoRay) -> bytes:
        """See `Form`."""
        return answers.to_chunk(_completion(head, usage=usage, sonoray=sonoray))


def _completion(
    head: Head,
    *choices: answers.CompletionChoice,
    usage: answers.Usage | None = None,
    sonoray: answers.SonoRay | None = None,
) -> answers.Completion:
    return answers.Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=list(choices),
        usage=usage,
        sonoray=sonoray,
    )
