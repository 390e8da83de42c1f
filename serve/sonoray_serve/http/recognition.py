"""`POST /v1/recognize`: images and classes in, a share of each class out.

```
{"model": "...", "images": ["data:image/png;base64,..."], "bank": "breast-zh"}
{"model": "...", "study": "1.2.840....", "bank": "breast-zh"}
{"model": "...", "images": [...], "prompt": "显示{class}。",
 "classes": [{"name": "囊肿", "descriptions": ["无回声区，后方回声增强。"]}, {"name": "实性结节"}]}
```

Shares of a request's classes sum to 1. Where the service was started with the calibration that
`sonoray recognize` writes, and is asked about that bank, each class has a probability with its
interval too. Keys, caps on bytes, pixels and images, and the deadline are those of the chat.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.bank_file import load_bank, packaged_banks
from sonoray.config.explain import describe_error
from sonoray.errors import ConfigError
from sonoray.metrics.recognition.platt import Curve
from sonoray_serve.asking.studies import Seen
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.question import read_uids
from sonoray_serve.intake.encoder import StudyEncoder
from sonoray_serve.intake.material import Material, SentImages, StoredStudy
from sonoray_serve.intake.study_server import AskedUids, StudyServer
from sonoray_serve.intake.uses import LACKS, lacks_pictures
from sonoray_serve.messages import ClassShares, Failed, ModelCard, RecognizePort
from sonoray_serve.pictures.data_urls import read_data_url
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.routing.students import find_model
from sonoray_serve.settings import MAX_ITEMS, Limits
from sonoray_serve.shapes.api import Uid, parse_request


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AskedClass(_Request):
    """A class, and how it looks."""

    name: str = Field(min_length=1)
    descriptions: list[str] = Field(default=[], max_length=MAX_ITEMS)


class RecognizeRequest(_Request):
    """Body of `POST /v1/recognize`."""

    model: str
    images: list[str] = Field(default=[], max_length=MAX_ITEMS)
    """One study, as `data:` URLs."""
    study: Uid | None = None
    """Study Instance UID of a study of the service's DICOMweb server, in place of images."""
    instances: Annotated[list[Uid], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    """SOP Instance UIDs of that study, where not all of it is meant."""
    bank: str | None = None
    """A packaged bank by name, in place of `classes`."""
    classes: list[AskedClass] = Field(default=[], max_length=MAX_ITEMS)
    prompt: str | None = None
    """Sentence of a class without descriptions, with {class} in it."""


class RecognizedClass(BaseModel):
    """What is said of a class."""

    name: str
    share: float
    """Among the request's classes; they sum to 1."""
    probability: float | None = None
    """Calibrated on validation studies; absent where the service has no calibration of it."""
    low: float | None = None
    high: float | None = None
    """Interval of the probability, 95 %: how sure the calibration is."""


class Recognition(BaseModel):
    """The answer, likeliest class first."""

    object: Literal["recognition"] = "recognition"
    model: str
    classes: list[RecognizedClass]
    is_calibrated: bool
    digest: str
    """Sha256 of the served model's manifest."""
    notice: str
    left_out: dict[str, int] = Field(default={}, exclude_if=lambda value: not value)
    """Of a study that was fetched by its UID: objects that gave no picture, by reason."""
    remarks: list[str] = Field(default=[], exclude_if=lambda value: not value)
    """What a reader must know of this answer, one line each."""


READING = {"against": "trained", "pooling": "trained", "readout": "trained"}
"""How classes are read here, in the settings of `sonoray recognize`: its defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The curves of a bank, as `sonoray recognize` wrote them."""

    bank: ClassBank
    curves: Mapping[str, Curve | None]
    training: str
    """Of whose models it holds."""

    @classmethod
    def read(cls, path: str, card: ModelCard | None) -> "Calibration | None":
        """Read the file; None where there is none.

        Args:
            path: of the file; empty for none.
            card: of the service's one model; None where it has several, of which the file counts
                for those of its training.

        Raises:
            ConfigError: it cannot be read, or belongs to another training or way of reading.
        """
        if not path:
            return None
        try:
            values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            bank = ClassBank.model_validate(values["bank"])
            curves = {
                name: None if curve is None else Curve(**curve)
                for name, curve in values["curves"].items()
            }
            training = str(values["training"])
            reading = dict(values["reading"])
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"serve.calibration {path!r} is no calibration.json of sonoray recognize "
                f"({type(error).__name__}); give that file, or leave it empty"
            ) from None
        if others := [f"recognize.{k}={v}" for k, v in reading.items() if v != READING.get(k)]:
            raise ConfigError(
                f"serve.calibration {path!r} is of {' '.join(others)}, by which the service does "
                "not read; run sonoray recognize without it"
            )
        if card is not None and training != card.training:
            raise ConfigError(
                f"serve.calibration {path!r} is of training {training!r}, the served model of "
                f"{card.training!r}; run sonoray recognize with --run {card.training}"
            )
        return cls(bank=bank, curves=curves, training=training)


class Recognitions:
    """Answers recognition requests with the models that are offered at the time."""

    def __init__(
        self,
        *,
        encoder: StudyEncoder,
        engine: RecognizePort,
        models: Callable[[], Mapping[str, ModelCard]],
        limits: Limits,
        calibration: Calibration | None = None,
        pictures: StudyPictures | None = None,
        server: StudyServer | None = None,
    ) -> None:
        self._encoder = encoder
        self._server = server or StudyServer("", limits=limits)
        self._engine = engine
        self._models = models
        self._limits = limits
        self._calibration = calibration
        self._pictures = pictures or StudyPictures(limits)

    async def answer(
        self, body: Awaitable[bytes], deadline: Deadline, *, opens_studies: bool = False
    ) -> Recognition:
        """Answer one request.

        Args:
            body: the body as it arrives.
            deadline: when the request's time is over.
            opens_studies: whether it may name a study of the DICOMweb server.

        Raises:
            ApiError: it is refused, or could not be served in time.
        """
        async with deadline.scope():
            model, card, bank, material = await asyncio.to_thread(self._read, await body)
            place = "images"
            if isinstance(material, AskedUids):
                if not opens_studies:
                    raise ApiError(Problem.KEY_NOT_FOR_STUDIES, material.place)
                place = material.place
                listed = await self._server.find(material, self._encoder.max_images(card))
                material = StoredStudy(listed=listed, server=self._server, pictures=self._pictures)
            study, seen = await self._encoder.encode(material, card, place)
            found = await self._engine.recognize(study, bank)
        if isinstance(found, Failed):
            raise ApiError(found.problem, "classes", detail=found.detail)
        return self._describe(model, card, bank, found, seen)

    def _read(self, body: bytes) -> tuple[str, ModelCard, ClassBank, AskedUids | Material]:
        request = parse_request(RecognizeRequest, body, self._limits.max_marks)
        card = find_model(self._models(), request.model).card
        if request.study is not None or request.instances is not None:
            if request.images:
                raise ApiError(Problem.STUDY_AND_IMAGES, "study")
            uids = read_uids(request.study, request.instances, "study")
            return request.model, card, read_bank(request, self._limits), uids
        if not request.images:
            raise ApiError(Problem.NO_STUDY_NAMED, "images")
        max_images = self._encoder.max_images(card)
        if len(request.images) > max_images:
            raise ApiError(Problem.TOO_MANY_IMAGES, "images", max_images)
        images = tuple(
            read_data_url(url, f"images[{number}]", self._limits)
            for number, url in enumerate(request.images)
        )
        sent = SentImages(images=images, pictures=self._pictures)
        return request.model, card, read_bank(request, self._limits), sent

    def _describe(
        self, model: str, card: ModelCard, bank: ClassBank, found: ClassShares, seen: Seen
    ) -> Recognition:
        calibration = self._calibration
        known = (
            calibration is not None
            and calibration.training == card.training
            and _said(calibration.bank) == _said(bank)
        )
        classes = [
            RecognizedClass(
                name=name,
                share=share,
                **(_calibrated(calibration.curves[name], share) if known and calibration else {}),
            )
            for name, share in zip(bank.names, found.shares, strict=True)
        ]
        return Recognition(
            model=model,
            classes=sorted(classes, key=_likelihood, reverse=True),
            is_calibrated=known,
            digest=found.digest,
            notice=card.notice,
            left_out=dict(seen.left_out),
            remarks=[LACKS] if lacks_pictures(seen) else [],
        )


def read_bank(request: RecognizeRequest, limits: Limits) -> ClassBank:
    """The classes that a request asks about.

    Raises:
        ApiError: they are fewer than two, repeat each other, or are too many or too long.
    """
    if (request.bank is None) == (not request.classes):
        detail = "give either bank, the name of a packaged one, or classes, two of them at least"
        raise ApiError(Problem.CLASSES_NOT_ACCEPTED, "classes", detail=detail)
    if request.bank is not None:
        if request.bank not in packaged_banks():  # never a file of this machine
            detail = f"packaged banks are {', '.join(packaged_banks())}"
            raise ApiError(Problem.CLASSES_NOT_ACCEPTED, "bank", detail=detail)
        return load_bank(request.bank)
    values: dict[str, Any] = {"classes": [each.model_dump() for each in request.classes]}
    if request.prompt is not None:
        values["prompt"] = request.prompt
    try:
        bank = ClassBank.model_validate(values)
    except ValidationError as error:
        detail = describe_error(ClassBank, error.errors()[0])
        raise ApiError(Problem.CLASSES_NOT_ACCEPTED, "classes", detail=detail) from None
    if sum(len(text) for _, text in bank.texts()) > limits.max_prompt_chars:
        raise ApiError(Problem.PROMPT_TOO_LONG, "classes", limits.max_prompt_chars)
    return bank


def _likelihood(found: RecognizedClass) -> float:
    """What the answer is sorted by: the probability where there is one."""
    return found.share if found.probability is None else found.probability


def _said(bank: ClassBank) -> list[tuple[str, str]]:
    """What the model is told of the classes: their names and texts."""
    return [(each.name, text) for each, text in bank.texts()]


def _calibrated(curve: Curve | None, share: float) -> dict[str, float]:
    """Probability and interval of a share; nothing where the class has no curve."""
    if curve is None:
        return {}
    kept = min(max(share, 1e-12), 1 - 1e-12)
    odds = np.array([np.log(kept) - np.log1p(-kept)])
    values: Sequence[float] = [float(each[0]) for each in curve.probabilities(odds)]
    return dict(zip(("probability", "low", "high"), values, strict=True))
