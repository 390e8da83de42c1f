"""The server that a user would write around an exported model: FastAPI, one answer at a time.

`python bench/serving/naive.py FOLDER PORT`; `bench/serving/beside_naive.py` starts it. It takes the
same requests as the service (images as data: URLs, streamed or whole) and gives the same texts.
"""

import asyncio
import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from llava_ultra.export.assistant import load_assistant


def create(folder: Path) -> FastAPI:
    """Load the model and make the application."""
    assistant, lock, app = load_assistant(folder), threading.Lock(), FastAPI()

    def pieces(body: dict[str, Any]) -> Iterator[str]:
        content = body["messages"][-1]["content"]
        images = [
            read_image(part["image_url"]["url"]) for part in content if part["type"] == "image_url"
        ]
        text = "\n".join(part["text"] for part in content if part["type"] == "text")
        with lock:
            visual = assistant.encode(images)
            prompt = assistant.prepare(visual, [{"role": "user", "content": text}])
            yield from assistant.stream(prompt, max_tokens=body["max_tokens"])

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if not body.get("stream"):
            text = await asyncio.to_thread(lambda: "".join(pieces(body)))
            return JSONResponse({"choices": [{"message": {"content": text}}]})

        def events() -> Iterator[bytes]:  # in Starlette's 40 threads
            for piece in pieces(body):
                chunk = {"choices": [{"delta": {"content": piece}}]}
                yield f"data: {json.dumps(chunk)}\n\n".encode()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def read_image(url: str) -> np.ndarray:
    """Decode a data: URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


if __name__ == "__main__":
    uvicorn.run(create(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")
