"""Who answers a closed question: the model, or the student that it was exported with.

`NAME:student` is the student itself: a question that it did not learn is refused, and never put to
the model instead. Under the plain name it answers where `serve.student_budget` lets it: where it is
as sure as the routing asks for that `sonoray distil` found on patients that neither had seen. All
else is the model's. Whatever its wording, a question is known to the student by its topic: it reads
no text, so that what was said before would not reach it, and such a question is the model's too.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from llava_ultra.student.student_card import StudentCard, scores_of
from sonoray.study.prompt import split_site
from sonoray_serve.messages import (
    Calibration,
    Event,
    Finished,
    ModelCard,
    Opinion,
    Started,
    Weighed,
)
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.shapes.choices import Options, softmax

ENDING = ":student"
"""Of the name of a model, for its student."""


def with_students(models: Mapping[str, ModelCard]) -> dict[str, ModelCard]:
    """What a request may name: models, and their students, with the card of the model."""
    students = {name + ENDING: card for name, card in models.items() if card.student is not None}
    return {**models, **students}


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What a request named, as it was then: a model, or its student."""

    name: str
    card: ModelCard
    is_student: bool = False

    @property
    def student(self) -> "Named":
        """The student of this model."""
        if self.is_student:
            return self
        return Named(name=self.name + ENDING, card=self.card, is_student=True)

    @property
    def calibration(self) -> Calibration | None:
        """How its probabilities are made; None where nobody has found out."""
        if not self.is_student:
            return self.card.calibration
        assert self.card.student is not None
        found = self.card.student.calibration
        return Calibration(**found) if found else None


def find_named(models: Mapping[str, ModelCard], name: str) -> Named:
    """The model or the student of a name.

    Raises:
        ApiError: 404; there is none.
    """
    if (card := models.get(name)) is not None:
        return Named(name=name, card=card)
    card = models.get(name.removesuffix(ENDING)) if name.endswith(ENDING) else None
    if card is None or card.student is None:
        raise ApiError(Problem.MODEL_NOT_FOUND, "model")
    return Named(name=name, card=card, is_student=True)


def find_model(models: Mapping[str, ModelCard], name: str) -> Named:
    """The model of a name, for what a student cannot do.

    Raises:
        ApiError: there is none (404), or it is a student (400).
    """
    found = find_named(models, name)
    if found.is_student:
        raise ApiError(Problem.NOT_OF_A_STUDENT, "model")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentsQuestion:
    """A closed question that a student has learned."""

    card: StudentCard
    topic: str
    options: tuple[str, ...]

    def answer(self, opinion: Opinion) -> "StudentsAnswer":
        """What the student says."""
        place = list(self.card.topics).index(self.topic)
        known = self.card.topics[self.topic]
        scores = scores_of(opinion.logits[place, : len(known)], known, self.options)
        return StudentsAnswer(
            log_likelihoods=tuple(scores[option] for option in self.options),
            looks=tuple(float(share) for share in opinion.looks[place]),
            temperature=self.card.calibration.get("temperature", 1.0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentsAnswer:
    """What a student says to a question."""

    log_likelihoods: tuple[float, ...]
    """Of the options."""
    looks: tuple[float, ...]
    """(K,): share of each image in what it looked at."""
    temperature: float

    @property
    def confidence(self) -> float:
        """Probability of its answer among the options, calibrated."""
        return max(softmax([value / self.temperature for value in self.log_likelihoods]))

    async def events(self, digest: str) -> AsyncGenerator[Event, None]:
        """The answer as an engine would give it; no token is read or written."""
        images = tuple(range(len(self.looks)))
        yield Started(num_prompt_tokens=0, scores=self.looks, selected=images, digest=digest)
        yield Weighed(log_likelihoods=self.log_likelihoods)
        yield Finished(reason="stop", num_tokens=0)


def students_answer(
    named: Named, asked: StudentsQuestion | None, opinion: Opinion | None, budget: float | None
) -> StudentsAnswer | None:
    """What the student says where it is the one to answer; None where the model is.

    Args:
        named: who is asked.
        asked: the question, where the student has learned it.
        opinion: of the study.
        budget: of accuracy, within which the student may answer for the model; None for never.
    """
    if asked is None or opinion is None:
        return None
    answer = asked.answer(opinion)
    if named.is_student:
        return answer
    least = None if budget is None else asked.card.least_confidence(budget)
    return answer if least is not None and answer.confidence >= least else None


def for_student(
    messages: Sequence[Mapping[str, str]],
    options: Options | None,
    card: StudentCard,
    *,
    has_study: bool,
    place: str,
) -> StudentsQuestion:
    """The question as the student takes it.

    Args:
        messages: `role` and `content`; the last one asks.
        options: of a closed question.
        card: of the student.
        has_study: whether there are images.
        place: the parameter that the messages came in.

    Raises:
        ApiError: 400; it did not learn to answer it.
    """
    if options is None:
        detail = "it has no options; name them in sonoray.options or response_format"
        raise ApiError(Problem.NOT_THE_STUDENTS, "sonoray.options", detail=detail)
    if len(messages) > 1:
        detail = "other messages stand before it; send the question alone"
        raise ApiError(Problem.NOT_THE_STUDENTS, place, detail=detail)
    if not has_study:
        raise ApiError(Problem.NOT_THE_STUDENTS, place, detail="it comes without images")
    _, text = split_site(messages[-1]["content"])
    topic = card.topic_of(text, options.texts)
    if topic is None:
        raise ApiError(Problem.NOT_THE_STUDENTS, place, detail=_learned(card, text))
    return StudentsQuestion(card=card, topic=topic, options=options.texts)


def _learned(card: StudentCard, text: str) -> str:
    """What a student would answer, in words of its own card: nothing of a request is repeated."""
    for topic, wordings in card.questions.items():
        if text.strip() in wordings:
            return f"an option is none of its own: {', '.join(card.topics[topic])}"
    examples = ", ".join(wordings[0] for wordings in card.questions.values() if wordings)
    return f"it learned other questions: {examples}"
