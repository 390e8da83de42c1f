"""A client of a running service, with OpenAI's own: a question about the images of a study.

This is the smallest example of a client: nothing here is special to SonoRay but the `sonoray`
object that an answer carries beside OpenAI's fields. A service on this machine is reached directly,
whatever proxy the environment names: a patient's images must not take a detour.
"""

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sonoray.errors import DataError, ServingError
from sonoray.images.webp_header import is_webp
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_serve.keys.auth import is_loopback, read_api_keys
from sonoray_serve.pictures.dicom_pictures import is_dicom

if TYPE_CHECKING:
    from openai import OpenAI

KEY_VARIABLE = "SONORAY_API_KEY"
"""Environment variable with the API key, where no key file is given."""

TIMEOUT_S = 150.0
"""How long to wait for an answer, where nothing else is said."""
_MEDIA_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8": "image/jpeg",
    b"BM": "image/bmp",
}
_DICOM = "application/dicom"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of the study that is asked about."""

    name: str
    """What to call it in the answer: a path or a source reference."""
    data: bytes
    """The encoded image."""


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


def study_pictures(workspace: Workspace, dataset: str, study_id: str) -> list[Picture]:
    """The images of an ingested study, in its order.

    Raises:
        DataError: there is no such dataset or study.
    """
    import pyarrow.parquet as pq

    folder = workspace.dataset(dataset).path
    study = next((each for each in iter_studies(folder) if each.study_id == study_id), None)
    if study is None:
        raise DataError(
            f"dataset {dataset!r} has no study {study_id!r}; check --study and --dataset"
        )
    data: dict[str, bytes] = {}
    for uri in {image.uri for image in study.images}:
        wanted = [image.image_id for image in study.images if image.uri == uri]
        table = pq.read_table(
            folder / uri, columns=["image_id", "png"], filters=[("image_id", "in", wanted)]
        )
        data.update((row["image_id"], row["png"]) for row in table.to_pylist())
    return [
        Picture(name=image.source_ref or image.image_id[:12], data=data[image.image_id])
        for image in study.images
    ]


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
    import openai

    content = [{"type": "text", "text": question}, *map(_image_part, pictures)]
    with _client(url, api_key, timeout_s) as client:
        try:
            completion: Any = client.chat.completions.create(
                model=model or next(iter(client.models.list())).id,
                messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
                max_tokens=openai.omit if max_tokens is None else max_tokens,
                extra_body={} if study_uid is None else {"sonoray": {"study": study_uid}},
            )
        except openai.APITimeoutError:  # a connection error too, to OpenAI's client
            raise ServingError(
                f"{url!r} has not answered within {timeout_s:g} s; see that service's log, or ask "
                "again once it has less to do"
            ) from None
        except openai.APIConnectionError as error:
            # the class is that of the HTTP client that openai brings, whichever it is
            if type(error.__cause__).__name__ != "ConnectError":
                raise ServingError(
                    f"the connection to {url!r} broke before the answer came; ask again"
                ) from None
            raise ServingError(
                f"no service answers at {url!r}; start one with: sonoray serve, or check --url"
            ) from None
        except openai.APIStatusError as error:
            reason = _own_words(error)
            raise ServingError(f"{url!r} refused ({error.status_code}): {reason}") from None
    return _to_reply(question, pictures, completion)


def _to_reply(question: str, pictures: Sequence[Picture], completion: Any) -> Reply:  # noqa: ANN401
    extra = (completion.model_extra or {}).get("sonoray")
    if extra is None or completion.usage is None:
        raise ServingError("the answer has no images' scores: this is no SonoRay service")
    choice = completion.choices[0]
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
    )


def _client(url: str, api_key: str, timeout_s: float) -> "OpenAI":
    import openai

    local = is_loopback(urlsplit(url).hostname or "")
    return openai.OpenAI(
        base_url=url,
        api_key=api_key,
        timeout=timeout_s,
        max_retries=0,  # a second try would double the wait, and the work of a busy service
        http_client=openai.DefaultHttpxClient(trust_env=not local),
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


def _own_words(error: Any) -> str:  # noqa: ANN401 - openai's error classes
    """The service's own sentence, without the client's dump around it."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)
