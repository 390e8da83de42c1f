"""What a model must answer before a running service is given it: the golden questions.

They are asked through the very replicas that will serve the model, and its answers are held to
those of the same model loaded here.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import ServingError
from sonoray_serve.app import APP_NAME

if TYPE_CHECKING:
    from llava_ultra.export.assistant import Assistant

GOLDEN_QUESTIONS = ("病灶是良性还是恶性?", "请描述超声所见。", "Is the lesion benign or malignant?")
"""What a model must answer before it takes over, about studies of one and of three images."""

GOLDEN_TOKENS = 24
"""Longest answer to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A model that may be served."""

    folder: Path
    digest: str


def answer_golden(found: Found) -> None:
    """Ask a model the golden questions through the replicas that have it.

    Raises:
        ServingError: it does not answer, or not what it answers when it is loaded alone.
    """
    from llava_ultra.export.assistant import load_assistant

    assistant = load_assistant(found.folder)
    strict = assistant.model.precision == "float32"  # rounding may turn a bfloat16 answer
    for num_images in (1, min(3, assistant.max_images)):
        images = golden_study(num_images)
        for question in GOLDEN_QUESTIONS:
            if assistant.site_cue:
                from sonoray.study.prompt import SITE_CUE

                question = SITE_CUE.format(site="乳腺") + question
            served = _ask(images, question, found.digest)
            expected = _alone(assistant, images, question)
            if not served.strip() or (strict and served != expected):
                raise ServingError(
                    f"model {found.digest[:12]} answers a golden question otherwise than alone: "
                    f"{served[:40]!r} instead of {expected[:40]!r}; see the engine's log"
                )


def golden_study(num_images: int) -> list[Any]:
    """Greyscale gradients with a dark disc, uint8 (96, 128): the same in every version."""
    import numpy as np

    rows, columns = np.mgrid[0:96, 0:128]
    return [
        np.where(
            (rows - 40 - 6 * number) ** 2 + (columns - 60) ** 2 < 300, 25, (rows + columns) % 200
        ).astype(np.uint8)
        for number in range(num_images)
    ]


def _alone(assistant: "Assistant", images: list[Any], question: str) -> str:
    prompt = assistant.prepare(assistant.encode(images), [{"role": "user", "content": question}])
    return "".join(assistant.stream(prompt, max_tokens=GOLDEN_TOKENS))


def _ask(images: list[Any], question: str, digest: str) -> str:
    from ray import serve

    from sonoray_serve.http.ingress import RemoteEngine, RemoteVision
    from sonoray_serve.messages import Failed, Piece, Sampling
    from sonoray_serve.problems import ApiError

    sampling = Sampling(
        max_tokens=GOLDEN_TOKENS,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        stop=(),
        timeout_s=60.0,
        stream=False,
    )

    async def answer() -> str:
        vision = RemoteVision(serve.get_deployment_handle("vision", APP_NAME))
        engine = RemoteEngine(serve.get_deployment_handle("engine", APP_NAME))
        study = await vision.encode(images, digest)
        if isinstance(study, Failed):
            raise ServingError(f"model {digest[:12]} is not there: {study.problem.code}")
        text = ""
        messages = [{"role": "user", "content": question}]
        async for event in engine.generate(study, messages, sampling):
            if isinstance(event, Failed):
                raise ServingError(f"model {digest[:12]} does not answer: {event.problem.code}")
            if isinstance(event, Piece):
                text += event.text
        return text

    try:
        return asyncio.run(answer())
    except ApiError as error:
        raise ServingError(f"model {digest[:12]} does not answer: {error}") from None
