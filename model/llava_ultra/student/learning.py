"""What a student is taught, what it loses, and how long it learns.

    loss = a CE(truth) + b T^2 KL(model's options at T || student's) + c MSE(states)
           + d KL(sampler's images || student's)

each the mean over the questions that are asked. How many rounds are best is found on a fifth of the
patients, by the cross-entropy of their true answers, or the whole loss where `a` is 0; then it
learns from all of them for as long.

Axes: S studies, K images, F features, T topics, O options, D width of states.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from llava_ultra.student.network import Opinion, Student, StudentShape
from llava_ultra.student.student_config import StudentConfig

LEFT_OUT = 0.2
"""Share of the patients that say how long to learn."""
_LEAST_PATIENTS = 10
"""Fewer have none to spare: the student learns for all its rounds."""
_IMPOSSIBLE = -1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """Questions of S studies, and what the model said to them."""

    topics: Mapping[str, tuple[str, ...]]
    patients: Sequence[str]
    images: Tensor
    """(S, K, F) float32."""
    mask: Tensor
    """(S, K) bool."""
    asked: Tensor
    """(S, T) bool."""
    allowed: Tensor
    """(S, T, O) bool: the options of each question."""
    truth: Tensor
    """(S, T) int64, number of the true option; anything where nothing is asked."""
    told: Tensor
    """(S, T, O) float32: the model's log-likelihood of each option."""
    states: Tensor
    """(S, T, D) float32: the decoder's state in front of its answer, standardised."""
    shares: Tensor
    """(S, T, K) float32: the sampler's score of each image; sums to 1."""

    def of(self, rows: Tensor) -> "Lessons":
        """Some of the studies."""
        chosen = {
            each.name: getattr(self, each.name)[rows]
            for each in fields(self)
            if isinstance(getattr(self, each.name), Tensor)
        }
        return replace(self, **chosen, patients=[self.patients[row] for row in rows.tolist()])


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """A student that has learned."""

    student: Student
    epochs: int
    """Rounds that were best."""
    history: Sequence[float]
    """What the left-out patients were judged by after each round; empty where none were."""
    left_out: Tensor | None
    """Which studies (S,) bool are of these patients."""
    other: Student | None
    """A student that has not seen them, after its best round: what it says of them is what the
    student can be expected to say of new patients."""


def learn(lessons: Lessons, settings: StudentConfig) -> Learned:
    """Teach a student.

    Args:
        lessons: training studies.
        settings: how.
    """
    with torch.random.fork_rng(devices=()):
        history: list[float] = []
        other: Student | None = None
        epochs = settings.epochs
        left_out = choose_left_out(lessons.patients, settings.seed)
        if left_out is not None:
            judged = lessons.of(torch.where(left_out)[0])
            best: dict[str, Tensor] = {}
            for other in _rounds(lessons.of(torch.where(~left_out)[0]), settings):
                history.append(_surprise(other, judged, settings))
                if history[-1] == min(history):
                    best = {name: each.clone() for name, each in other.state_dict().items()}
                if len(history) == settings.epochs:
                    break
            assert other is not None
            other.load_state_dict(best)
            epochs = 1 + history.index(min(history))
        student = next(islice(_rounds(lessons, settings), epochs - 1, None))
    return Learned(student=student, epochs=epochs, history=history, left_out=left_out, other=other)


def choose_left_out(patients: Sequence[str], seed: int) -> Tensor | None:
    """Which studies (S,) are of the patients that say how long to learn; None where few are."""
    known = sorted(set(patients))
    if len(known) < _LEAST_PATIENTS:
        return None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(known), generator=generator)[: round(LEFT_OUT * len(known))]
    taken = {known[place] for place in order.tolist()}
    return torch.tensor([patient in taken for patient in patients])


def _rounds(lessons: Lessons, settings: StudentConfig) -> Iterator[Student]:
    """One student, in evaluation mode, after each round; it learns on when asked for more."""
    torch.manual_seed(settings.seed)
    shape = StudentShape(
        features=lessons.images.shape[-1],
        hidden=settings.hidden,
        topics=dict(lessons.topics),
        state_width=lessons.states.shape[-1],
    )
    student = Student(shape, settings.dropout)
    student.fit_features(lessons.images[lessons.mask])
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    while True:
        student.train()
        order = torch.randperm(len(lessons.images))
        for rows in torch.split(order, settings.studies_per_step):
            part = lessons.of(rows)
            loss = loss_of(student(part.images, part.mask, settings.noise), part, settings)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield student.eval()


@torch.no_grad()
def _surprise(student: Student, lessons: Lessons, settings: StudentConfig) -> float:
    """Mean cross-entropy of the true answers; the whole loss where these are not learned."""
    alone = StudentConfig(truth=1, probabilities=0, states=0, images=0)
    judged_by = alone if settings.truth else settings
    return float(loss_of(student(lessons.images, lessons.mask), lessons, judged_by))


def loss_of(opinion: Opinion, lessons: Lessons, settings: StudentConfig) -> Tensor:
    """The loss (), see the module's docstring."""
    asked = lessons.asked
    logits = opinion.logits.masked_fill(~lessons.allowed, _IMPOSSIBLE)[asked]
    told = lessons.told.masked_fill(~lessons.allowed, _IMPOSSIBLE)[asked]
    loss = settings.truth * functional.cross_entropy(logits, lessons.truth[asked])
    if settings.probabilities:
        heat = settings.temperature
        apart = functional.kl_div(
            (logits / heat).log_softmax(dim=-1),
            (told / heat).log_softmax(dim=-1),
            log_target=True,
            reduction="batchmean",
        )
        loss = loss + settings.probabilities * heat**2 * apart
    if settings.states and opinion.states is not None:
        apart = functional.mse_loss(opinion.states[asked], lessons.states[asked])
        loss = loss + settings.states * apart
    if settings.images:
        real = lessons.mask[:, None].expand_as(lessons.shares)[asked]
        looks = opinion.image_logits[asked].log_softmax(dim=-1).masked_fill(~real, 0)
        shares = lessons.shares[asked]
        apart = (torch.xlogy(shares, shares) - shares * looks).sum(dim=-1).mean()
        loss = loss + settings.images * apart
    return loss
