"""One request from its bytes to its answer's beginning, whatever carries vision and engine.

The deployment gives it handles to the other two deployments; a test may give it the classes
themselves. Every wait is under the request's one deadline, and the answer's first event is awaited
before the HTTP answer starts, so that a study or a prompt that is refused gets its proper status
also when the client asked for a stream.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sonoray_serve.asking.asked_first import ask_first, is_report, with_answers
from sonoray_serve.asking.studies import (
    AskedStudy,
    KnownStudies,
    Seen,
    stored_study_name,
    study_name,
)
from sonoray_serve.clinic.answer_ids import new_answer_id
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.question import Question, read_question, read_study
from sonoray_serve.http.reply import Answer, describe_answer, describe_study
from sonoray_serve.intake.encoder import StudyEncoder, Take
from sonoray_serve.intake.material import Material, SentImages, StoredStudy
from sonoray_serve.intake.study_server import PLACE, StudyServer
from sonoray_serve.intake.uses import image_uses, is_lasting
from sonoray_serve.messages import (
    EncodedStudy,
    EnginePort,
    Event,
    Failed,
    KnownStudy,
    ModelCard,
    Started,
    VisionPort,
)
from sonoray_serve.pictures.study_pictures import Picture, StudyPictures, thumbnail
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.routing.students import (
    Named,
    StudentsQuestion,
    find_model,
    find_named,
    for_student,
    students_answer,
    with_students,
)
from sonoray_serve.settings import Limits
from sonoray_serve.shadow.candidate import Copy, Shadow, watched
from sonoray_serve.shapes import answers, api
from sonoray_serve.shapes.forms import ChatForm, Form, Head
from sonoray_serve.shapes.text_form import TextForm
from sonoray_serve.shapes.vector import study_vector, to_base64

SMALL_BODY_BYTES = 64_000
"""Below it a body is parsed at once: that takes less than the way to a thread and back."""


@dataclass(kw_only=True, slots=True)
class _Prepared:
    """What of a request's pixels outlives them."""

    copy: Copy | None = None
    """Of the request, for a candidate."""
    students: StudentsQuestion | None = None
    """The question, where the model's student has learned it."""
    wants_thumbnails: bool = False
    thumbnails: Sequence[str] = ()

    def take(self, pictures: Sequence[Picture]) -> None:
        """Take what is needed of the decoded pictures."""
        if self.wants_thumbnails:
            self.thumbnails = [thumbnail(each.pixels) for each in pictures]
        if self.copy is not None:
            self.copy.images = [each.pixels for each in pictures]


class Chat:
    """Answers requests about studies with the models that it is offered."""

    def __init__(
        self,
        *,
        vision: VisionPort,
        engine: EnginePort,
        models: Mapping[str, ModelCard],
        limits: Limits,
        pictures: StudyPictures | None = None,
        shadow: Shadow | None = None,
        server: StudyServer | None = None,
        encoder: StudyEncoder | None = None,
        student_budget: float | None = None,
    ) -> None:
        """Answer with what these give.

        Args:
            vision: encodes studies.
            engine: answers.
            models: by the name that requests use.
            limits: the service's.
            pictures: decodes images.
            shadow: tries a candidate.
            server: has the studies that requests name by UID.
            encoder: shared with others that encode; one of its own where there are none.
            student_budget: see `ServeConfig.student_budget`.
        """
        self._vision = vision
        self._engine = engine
        self._encoder = encoder or StudyEncoder(vision, limits=limits)
        self._models = dict(models)
        self._limits = limits
        self._pictures = pictures or StudyPictures(limits)
        self._shadow = shadow
        self._server = server or StudyServer("", limits=limits)
        self._known = KnownStudies()
        self._student_budget = student_budget

    @property
    def named(self) -> Mapping[str, ModelCard]:
        """What a request may name as its model: models, and students by the model's card."""
        return with_students(self._models)

    @property
    def models(self) -> Mapping[str, ModelCard]:
        """What is offered, by name."""
        return self._models

    @property
    def shadow_counts(self) -> Mapping[str, int] | None:
        """Copies for a candidate by their outcome; None where none is tried."""
        return None if self._shadow is None else self._shadow.counts

    @property
    def server(self) -> StudyServer:
        """Has the studies that requests name by UID."""
        return self._server

    def offer(self, models: Mapping[str, ModelCard]) -> None:
        """Serve other models from now on; requests that have begun go on with theirs."""
        self._models = dict(models)

    async def is_ready(self) -> bool:
        """Whether both other deployments answer, with the same model."""
        engine, vision = await asyncio.gather(self._engine.ready(), self._vision.ready())
        return engine == vision

    async def begin(
        self,
        body: Awaitable[bytes],
        deadline: Deadline,
        *,
        is_chat: bool = True,
        key: str = "",
        opens_studies: bool = False,
    ) -> Answer:
        """Take a request as far as the answer's first event.

        Args:
            body: the body as it arrives. No caller holds it, so its megabytes are free again
                before the request waits for the engine.
            deadline: when the request's time is over.
            is_chat: whether it is a conversation, or a plain text to complete.
            key: digest of the key that asks; empty where the service has none.
            opens_studies: whether it may name a study of the DICOMweb server.

        Raises:
            ApiError: it is refused, or could not be served in time.
        """
        form: Form = ChatForm() if is_chat else TextForm()
        told = _Prepared()
        try:
            async with deadline.scope():
                model, question, study = await self._prepare(
                    body, told, is_chat=is_chat, opens_studies=opens_studies
                )
                answer_id = new_answer_id(form.prefix, model.card.digest, key)
                asked: list[tuple[str, str]] = []
                said = students_answer(
                    model, told.students, study.seen.opinion, self._student_budget
                )
                if said is not None:
                    model, events = model.student, said.events(model.card.digest)
                    if told.copy is not None:  # a candidate is compared with the model
                        told.copy.drop()
                else:
                    events, asked = await _ask_model(
                        model, question, study, told.copy, answer_id, deadline
                    )
                started = await anext(events)
            if isinstance(started, Failed):
                raise ApiError(started.problem, question.place, started.limit, started.detail)
        except BaseException:
            if told.copy is not None:
                told.copy.drop()
            raise
        assert isinstance(started, Started)
        study.release()
        if study.name:
            self._known.add(study.name, study.seen)
        return Answer(
            form=form,
            head=Head(
                id=answer_id,
                created=int(time.time()),
                model=model.name,
                has_logprobs=question.num_likeliest is not None,
            ),
            as_stream=question.stream,
            include_usage=question.include_usage,
            num_choices=question.num_choices,
            options=question.options,
            tools=question.tools,
            calibration=model.calibration,
            sonoray=describe_answer(
                model, started, study.seen, image_uses(study.seen, told.thumbnails), question, asked
            ),
            num_prompt_tokens=started.num_prompt_tokens,
            events=events,
            deadline=deadline,
        )

    async def embed(self, body: Awaitable[bytes], deadline: Deadline) -> answers.EmbeddingList:
        """Give the vector of a study.

        Raises:
            ApiError: it is refused, or could not be served in time.
        """
        async with deadline.scope():
            model, request, images = await asyncio.to_thread(self._read_embedding, await body)
            sent = SentImages(images=images, pictures=self._pictures)
            study, seen = await self._encoder.encode(sent, model.card, "input")
        vector, shares = study_vector(study.tokens, study.feature_scores)
        as_text = request.encoding_format == "base64"
        num_tokens = study.tokens.shape[0] * study.tokens.shape[1]
        return answers.EmbeddingList(
            data=[answers.Embedding(embedding=to_base64(vector) if as_text else vector.tolist())],
            model=model.name,
            usage=answers.EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
            sonoray=describe_study(
                model,
                [
                    each.model_copy(update={"score": share, "selected": True})
                    for each, share in zip(image_uses(seen), shares, strict=True)
                ],
                study.digest,
            ),
        )

    async def _prepare(
        self, body: Awaitable[bytes], told: "_Prepared", *, is_chat: bool, opens_studies: bool
    ) -> tuple[Named, Question, AskedStudy]:
        data = await body
        if len(data) < SMALL_BODY_BYTES:
            read = self._read(data, is_chat)
        else:
            read = await asyncio.to_thread(self._read, data, is_chat)
        del data
        model, question, images, name = read
        card = model.card
        if card.student is not None:
            has_study = bool(images) or question.stored is not None
            told.students = _for_student(model, question, has_study=has_study)
        material: Material
        if question.stored is not None:
            material, name = await self._stored(question, card, opens_studies=opens_studies)
        elif images:
            material = SentImages(images=images, pictures=self._pictures)
        else:
            nothing = Seen(is_transparent=())
            return model, question, AskedStudy(self._engine, _no_study(card), nothing)
        del images

        async def encode(take: Take | None = None) -> tuple[EncodedStudy, Seen]:
            study, seen = await self._encoder.encode(material, card, question.study_place, take)
            return replace(study, name=name if is_lasting(seen) else b""), seen

        if self._shadow is not None:
            told.copy = self._shadow.copy(card)
        told.wants_thumbnails = question.thumbnails
        needs_pixels = told.copy is not None or told.wants_thumbnails
        if not needs_pixels and (seen := self._known.find(name)):
            known = KnownStudy(name=name, digest=card.digest)
            return model, question, AskedStudy(self._engine, known, seen, encode=encode)
        study, seen = await encode(told.take if needs_pixels else None)
        return model, question, AskedStudy(self._engine, study, seen)

    async def _stored(
        self, question: Question, card: ModelCard, *, opens_studies: bool
    ) -> tuple[StoredStudy, bytes]:
        """A study that is named by its UID, and what it is called here."""
        assert question.stored is not None
        if not opens_studies:
            raise ApiError(Problem.KEY_NOT_FOR_STUDIES, PLACE)
        listed = await self._server.find(question.stored, self._encoder.max_images(card))
        material = StoredStudy(listed=listed, server=self._server, pictures=self._pictures)
        return material, stored_study_name(listed.uids, card.digest)

    def _read(self, body: bytes, is_chat: bool) -> tuple[Named, Question, tuple[bytes, ...], bytes]:
        """Parse, check and name the study; off the event loop: a body may be tens of megabytes."""
        marks = self._limits.max_marks
        if is_chat:
            request = api.parse_request(api.ChatRequest, body, marks)
        else:
            request = api.parse_request(api.CompletionRequest, body, marks).as_chat()
        model = find_named(self._models, request.model)
        place = "messages" if is_chat else "prompt"
        question, images = read_question(request, self._limits, model.card, place=place)
        return model, question, images, study_name(images, model.card.digest)

    def _read_embedding(self, body: bytes) -> tuple[Named, api.EmbeddingRequest, tuple[bytes, ...]]:
        request = api.parse_request(api.EmbeddingRequest, body, self._limits.max_marks)
        model = find_model(self._models, request.model)
        urls = [request.input] if isinstance(request.input, str) else request.input
        places = [(f"input[{position}]", url) for position, url in enumerate(urls)]
        return model, request, read_study(places, "input", self._limits, model.card)


def _no_study(card: ModelCard) -> EncodedStudy:
    """What stands for the study of a question without images."""
    return EncodedStudy(
        tokens=np.zeros((0, 1, card.width), dtype=np.float32),
        feature_scores=np.zeros(0, dtype=np.float32),
        digest=card.digest,
    )


def _for_student(model: Named, question: Question, *, has_study: bool) -> StudentsQuestion | None:
    """The question as the model's student takes it; None where it is the model's.

    Raises:
        ApiError: 400; it is put to the student itself, which did not learn it.
    """
    assert model.card.student is not None
    try:
        return for_student(
            question.messages,
            question.options,
            model.card.student,
            has_study=has_study,
            place=question.place,
        )
    except ApiError:
        if model.is_student:
            raise
        return None


async def _ask_model(
    model: Named,
    question: Question,
    study: AskedStudy,
    copy: Copy | None,
    answer_id: str,
    deadline: Deadline,
) -> tuple[AsyncGenerator[Event, None], list[tuple[str, str]]]:
    """The model's events, and what it was asked before."""
    messages, protocol = question.messages, model.card.protocol
    asked: list[tuple[str, str]] = []
    is_plain = question.options is None and question.tools is None
    if is_plain and is_report(messages, protocol):
        asked = await ask_first(study, messages, protocol, deadline.left_s)
        messages = with_answers(messages, asked)
    sampling = question.sampling(deadline.left_s)
    events = study.generate(messages, sampling)
    if copy is not None:
        copy.answer_id, copy.sampling, copy.messages = answer_id, sampling, question.messages
        events = watched(events, copy)
    return events, asked
