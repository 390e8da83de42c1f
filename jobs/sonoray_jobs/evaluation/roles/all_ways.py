"""Closed questions, answered by roles and by the same model alone, and all of it on disk."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json, write_whole
from sonoray.metrics import Bootstrap
from sonoray.study.contract import Study, Task, Turn
from sonoray.study.prompt import FOLLOW_UP
from sonoray_jobs.evaluation.questions import training_answers
from sonoray_jobs.evaluation.roles.alone import answer_once, vote
from sonoray_jobs.evaluation.roles.budget import Budget, check_caps
from sonoray_jobs.evaluation.roles.calls import Calls, Case, Endpoint, Step
from sonoray_jobs.evaluation.roles.consult_report import (
    AGAINST,
    ONE,
    ROLES,
    SELF_CONSISTENCY,
    Outcome,
    Way,
    accuracy_table,
    cost_table,
    judge,
)
from sonoray_jobs.evaluation.roles.consultation import consult
from sonoray_jobs.evaluation.roles.memory import Memory
from sonoray_jobs.evaluation.roles.wordings import ROLES as MEMBERS
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.sent_pictures import pictures_of

logger = logging.getLogger(__name__)

TRACE, REPORT = "trace.jsonl", ("consult.md", "consult-report.json")
_ANSWERS = "answers.parquet"


@dataclass(frozen=True, slots=True)
class Caps:
    """What may be spent on a question, and who takes part."""

    max_calls: int
    max_tokens: int | None
    roles: tuple[str, ...]
    against: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what is unknown.

        Raises:
            ConfigError: a role or another way is.
        """
        for option, given, known in (
            ("--role", self.roles, MEMBERS),
            ("--against", self.against, AGAINST),
        ):
            if unknown := [each for each in given if each not in known]:
                raise ConfigError(f"{option} {unknown[0]!r} is unknown; use some of "
                                  f"{', '.join(known)}")  # fmt: skip
        check_caps(self.max_calls, self.max_tokens, 1)


def closed_turns(study: Study) -> list[Turn]:
    """Closed questions of a study that need nothing said before."""
    return [
        turn
        for turn in study.turns
        if turn.task is Task.CLOSED and turn.topic != FOLLOW_UP and turn.answer in turn.options
    ]


def drawn_studies(studies: Sequence[Study], most: int, seed: int) -> list[Study]:
    """Some studies with closed questions, the same for the same seed, in their order."""
    asked = [study for study in studies if closed_turns(study)]
    if not asked:
        raise DataError(
            "no closed question is asked, and this counts right options; ingest questions with "
            "options, or name their topics with --set evaluate.topics"
        )
    chosen = Random(seed).sample(range(len(asked)), min(most, len(asked)))  # noqa: S311
    return [asked[at] for at in sorted(chosen)]


def begin_calls(
    endpoint: Endpoint, case: Case, caps: Caps, road: RoadConfig, max_calls: int | None = None
) -> Calls:
    """The calls of a question, none of which was made yet.

    Args:
        endpoint: whom they go to.
        case: the question.
        caps: what may be spent.
        road: section `consult` says how is answered.
        max_calls: where it is another number than the cap.
    """
    budget = Budget(max_calls=max_calls or caps.max_calls, max_tokens=caps.max_tokens)
    return Calls(
        service=endpoint,
        case=case,
        budget=budget,
        max_tokens=road.consult.statement_tokens,
        heat=road.consult.temperature,
        seed=road.consult.seed,
    )


def compare(
    folder: Path,
    road: RoadConfig,
    dataset: Path,
    studies: Sequence[Study],
    endpoint: Endpoint,
    caps: Caps,
    memory: Memory | None,
) -> dict[str, Any]:
    """Ask every question in every way, judge, and write it all into `folder`.

    Returns:
        The content of the report.
    """
    from sonoray.cluster.progress import progress

    questions = [(study, turn) for study in studies for turn in closed_turns(study)]
    logger.info(
        "%d closed questions of %d studies, at most %d calls each by the roles",
        len(questions),
        len(studies),
        caps.max_calls,
    )
    outcomes: list[Outcome] = []
    trace: list[tuple[str, str, Step]] = []
    for study, turn in progress(questions, "consult"):
        outcome, steps = _ask(road, dataset, study, turn, endpoint, caps, memory)
        outcomes.append(outcome)
        trace += steps
    learned = training_answers(dataset, road)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    values = judge(outcomes, learned, bootstrap)
    write_trace(folder, trace)
    _write_answers(folder / _ANSWERS, outcomes)
    markdown, as_json = (folder / name for name in REPORT)
    tables = (*accuracy_table(values).markdown(), "", *cost_table(values).markdown())
    markdown.write_text("\n".join(tables) + "\n", encoding="utf-8")
    write_json(as_json, values)
    return values


def _ask(
    road: RoadConfig,
    dataset: Path,
    study: Study,
    turn: Turn,
    endpoint: Endpoint,
    caps: Caps,
    memory: Memory | None,
) -> tuple[Outcome, "list[tuple[str, str, Step]]"]:
    """One question in every way; self-consistency with as many calls as the roles made."""
    case = Case(
        question=turn.question,
        options=turn.options,
        pictures=tuple(pictures_of(dataset, study)),
        subject=f"{study.study_id} {turn.topic}",
        patient_key=study.patient_key,
    )
    ways: dict[str, Way] = {}
    trace: list[tuple[str, str, Step]] = []

    def note(way: str, calls: Calls, begun: float, answer: str, num_unread: int = 0) -> None:
        ways[way] = Way(
            answer=answer,
            calls=calls.budget.calls,
            tokens=calls.budget.tokens,
            seconds=perf_counter() - begun,
            num_unread=num_unread,
        )
        trace.extend((case.subject, way, step) for step in calls.steps)

    if ONE in caps.against:  # first: whoever comes first has the images encoded
        calls, begun = begin_calls(endpoint, case, caps, road, 1), perf_counter()
        note(ONE, calls, begun, answer_once(calls))
    calls, begun = begin_calls(endpoint, case, caps, road), perf_counter()
    verdict = consult(calls, road.consult, caps.roles, memory)
    note(ROLES, calls, begun, verdict.answer)
    if SELF_CONSISTENCY in caps.against:
        used = calls.budget.calls
        calls, begun = begin_calls(endpoint, case, caps, road, used), perf_counter()
        note(SELF_CONSISTENCY, calls, begun, *vote(calls, used))
    outcome = Outcome(
        study_id=study.study_id,
        patient_key=study.patient_key,
        topic=turn.topic,
        truth=turn.answer,
        options=turn.options,
        verdict=verdict,
        ways={way: ways[way] for way in (*caps.against, ROLES)},
    )
    return outcome, trace


def write_trace(folder: Path, trace: Sequence[tuple[str, str, Step]]) -> None:
    """Write one line per call: its subject, its way, and what it was."""
    lines = (
        json.dumps({"subject": subject, "way": way, **step.to_json()}, ensure_ascii=False)
        for subject, way, step in trace
    )
    write_whole(folder / TRACE, "".join(f"{line}\n" for line in lines))


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """What `write_trace` wrote; a line ends at a line feed alone, since texts may hold U+2028."""
    with (folder / TRACE).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write_answers(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one row per question and way."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "study_id": each.study_id,
            "topic": each.topic,
            "truth": each.truth,
            "way": name,
            **asdict(way),
        }
        for each in outcomes
        for name, way in each.ways.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
