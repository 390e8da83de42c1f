from collections.abc import Callable

import numpy as np
import pytest

from llava_ultra.export.assistant import Assistant, Prompt
from llava_ultra.testing import tiny_artifact, tiny_image

QUESTION = [{"role": "user", "content": "病灶是良性还是恶性?"}]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact")
    tiny_artifact(path)
    return path


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    return [tiny_image(seed) for seed in range(3)]


@pytest.fixture(scope="session")
def answer(images) -> Callable[[Assistant], tuple[Prompt, str]]:
    def answer(assistant: Assistant) -> tuple[Prompt, str]:
        prompt = assistant.prepare(assistant.encode(images), QUESTION)
        return prompt, "".join(assistant.stream(prompt, max_tokens=20))

    return answer
