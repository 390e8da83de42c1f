"""A client of a running service, with OpenAI's own: a question about the images of a study.

This is the smallest example of a client: nothing here is special to SonoRay but the `sonoray`
object that an answer carries beside OpenAI's fields. The way to the service is
`sonoray_jobs.service.connection`.
"""

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from sonoray.errors import DataError, ServingError
from sonoray.images.webp_header import is_webp
from sonoray_jobs.service.connection import TIMEOUT_S, Connection, connected, plainly
from sonoray_jobs.service.sent_pictures import Picture
from sonoray_serve.keys.auth import read_api_keys
from sonoray_serve.pictures.dicom_pictures import is_dicom

KEY_VARIABLE = "SONORAY_API_KEY"
"""Environment variable with the API key, where no key file is given."""

_MEDIA_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8": "image/jpeg",
    b"BM": "image/bmp",
}
_DICOM = "application/dicom"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUse:
    """What became of one image."""

    name: str
    score: float
    """Share of the sampler's attention; the scores of a study sum to 1."""
    selected: bool
    """Whether the language model saw it."""
    transparent: bool = False
    """Whether some of its pixels were transparent: the model was shown it over black."""


def use_name(use: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """What an answer's image is called: its picture's name, or its UID in a stored study.

    Args:
        use: the image, as the service tells it.
        pictures: that were sent.
    """
    name = str(use.get("instance") or pictures[use["part"]].name)
    return name + (f"#{use['frame']}" if use["frame"] else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The service's answer."""

    question: str
    answer: str
    finish_reason: str
    """`stop`, or `length` where the answer was cut."""
    images: tuple[ImageUse, ...]
    notice: str
    model: str
    digest: str
    """Sha256 of the served model's manifest."""
    prompt_tokens: int
    completion_tokens: int
    asked_first: tuple[tuple[str, str], ...] = ()
    """Closed questions that the model was asked before, with its answers: a report follows them."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Objects of a stored study that gave no picture, by reason."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Of a closed question: the log-likelihood of each option."""
    answered_by: str = "model"
    """`model`, or `student` where the service had it answer."""

    def lines(self) -> list[str]:
        """What a person reads."""
        cut = " [cut]" if self.finish_reason == "length" else ""
        return [
            *(f"first: {question} {answer}" for question, answer in self.asked_first),
            f"Q: {self.question}",
            f"A: {self.answer}{cut}",
            *(
                [
                    f"  (cut at {self.completion_tokens} tokens: the answer may lack its end; "
                    "raise serve.limits.default_tokens of the service)"
                ]
                if cut
                else []
            ),
            *(
                f"  {'*' if image.selected else ' '} {image.score:6.1%}  {image.name}"
                + (" (its transparent pixels shown over black)" if image.transparent else "")
                for image in self.images
            ),
            "  (* = seen by the language model, with its share of the score)",
            *(f"  left out: {reason} {count}" for reason, count in self.left_out.items()),
            self.notice,
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return dataclasses.asdict(self)


def ask(
    question: str,
    pictures: Sequence[Picture],
    *,
    url: str,
    api_key: str,
    study_uid: str | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Reply:
    """Ask one question about the study that `pictures` make.

    Args:
        question: the question.
        pictures: the study; none where its UID is given.
        url: base URL of the service, ending in `/v1`.
        api_key: the key; a service without keys ignores it.
        study_uid: Study Instance UID of a study of the service's DICOMweb server.
        model: name of the model; by default the first that the service lists.
        max_tokens: longest answer; by default the service's own.
        timeout_s: how long to wait for it.

    Raises:
        DataError: a picture is of no known format.
        ServingError: the service cannot be reached or refuses; with its own reason.
    """
    with connected(url, api_key, timeout_s) as connection:
        return put(
            connection,
            question,
            pictures,
            model=model,
            max_tokens=max_tokens,
            extra={} if study_uid is None else {"study": study_uid},
        )


def put(
    connection: Connection,
    question: str,
    pictures: Sequence[Picture],
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Reply:
    """Put one question to a connected service.

    Args:
        connection: the service.
        question: the question.
        pictures: the study.
        model: name of the model; by default the first that the service lists.
        max_tokens: longest answer; by default the service's own.
        temperature: 0 takes the likeliest token each time.
        seed: of the draws at a temperature above 0.
        extra: the request's object `sonoray`, as `{"options": [...]}` of a closed question.

    Raises:
        DataError: a picture is of no known format.
        ServingError: the service cannot be reached or refuses; with its own reason.
    """
    import openai

    message = user_message(question, pictures)  # first: a picture may be none
    with plainly(connection):
        completion: Any = connection.client.chat.completions.create(
            model=model or next(iter(connection.client.models.list())).id,
            messages=[message],  # type: ignore[list-item]
            max_tokens=openai.omit if max_tokens is None else max_tokens,
            temperature=temperature or openai.omit,
            seed=openai.omit if seed is None else seed,
            extra_body={"sonoray": dict(extra)} if extra else {},
        )
    return _to_reply(question, pictures, completion)


def user_message(question: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    """A question about a study as a user's message.

    Raises:
        DataError: a picture is of no known format.
    """
    content = [{"type": "text", "text": question}, *map(_image_part, pictures)]
    return {"role": "user", "content": content}


def study_vector(
    connection: Connection, pictures: Sequence[Picture], *, model: str
) -> tuple[list[float], int]:
    """The vector of a study, of length 1, and the tokens that it cost.

    Args:
        connection: the service.
        pictures: the study.
        model: name of the model.

    Raises:
        DataError: a picture is of no known format.
        ServingError: the service cannot be reached, refuses, or answers no vector.
    """
    urls = [_image_part(picture)["image_url"]["url"] for picture in pictures]
    with plainly(connection):
        found: Any = connection.client.embeddings.create(
            model=model, input=urls, encoding_format="float"
        )
    try:
        vector, tokens = found.data[0].embedding, int(found.usage.total_tokens)
        is_one = bool(vector) and isfinite(sum(vector))
    except (AttributeError, IndexError, TypeError):
        is_one = False
    if not is_one:
        raise ServingError(
            f"{connection.url!r} gives no vector of a study: this is no SonoRay service"
        )
    return vector, tokens


def _to_reply(question: str, pictures: Sequence[Picture], completion: Any) -> Reply:  # noqa: ANN401
    extra = (getattr(completion, "model_extra", None) or {}).get("sonoray")
    if extra is None or completion.usage is None or not completion.choices:
        raise ServingError("the answer has no images' scores: this is no SonoRay service")
    try:
        return _read(question, pictures, completion, extra)
    except (AttributeError, KeyError, TypeError) as error:
        raise ServingError(
            f"the answer lacks {error}, which every SonoRay service gives: this is none"
        ) from None


def _read(
    question: str,
    pictures: Sequence[Picture],
    completion: Any,  # noqa: ANN401
    extra: Mapping[str, Any],
) -> Reply:
    choice = completion.choices[0]
    closed = extra.get("closed") or {"options": ()}
    return Reply(
        question=question,
        answer=choice.message.content or "",
        finish_reason=choice.finish_reason,
        images=tuple(
            ImageUse(
                name=use_name(use, pictures),
                score=use["score"],
                selected=use["selected"],
                transparent=use["transparent"],
            )
            for use in extra["images"]
        ),
        notice=extra["notice"],
        model=extra["model"],
        digest=extra["digest"],
        prompt_tokens=completion.usage.prompt_tokens,
        completion_tokens=completion.usage.completion_tokens,
        asked_first=tuple(
            (each["question"], each["answer"]) for each in extra.get("asked_first", ())
        ),
        left_out=extra.get("left_out", {}),
        options={each["text"]: each["log_likelihood"] for each in closed["options"]},
        answered_by=extra.get("answered_by", "model"),
    )


def read_key(file: Path | None) -> str:
    """The API key of a file, or of the environment where none is given."""
    if file is not None:
        return read_api_keys(file)[0]
    return os.environ.get(KEY_VARIABLE) or "none"


def _image_part(picture: Picture) -> dict[str, Any]:
    kinds = [kind for magic, kind in _MEDIA_TYPES.items() if picture.data.startswith(magic)]
    if is_webp(picture.data):
        kinds = ["image/webp"]
    if is_dicom(picture.data):
        kinds = [_DICOM]
    if not kinds:
        raise DataError(
            f"image {picture.name!r} is no PNG, JPEG, WebP, BMP or DICOM object; convert it, or "
            "ingest it first"
        )
    encoded = base64.b64encode(picture.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kinds[0]};base64,{encoded}"}}
