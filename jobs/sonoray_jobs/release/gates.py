"""The gates in front of an alias: what a version must have before `promote` lets others meet it.

- **files**: MLflow still has them (`mlflow gc` leaves versions without files).
- **digests**: the model loads, and every part is the one that its manifest names.
- **card**: the model says what it learned from, what it reaches and where it fails (`model_card`).
- **test**: on the questions that both answered, it is not worse than the version that the alias
  names now. The interval of the paired difference must lie above `-promote.margin`: a test that is
  too small to tell does not pass.

Both internal tests lie in the exported folders (`outputs.model_record`), so that two models can be
compared long after their workspaces are gone. Questions are paired by study and topic: a dataset
that grew between both trainings leaves those that both test splits have.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import CheckpointError
from sonoray.metrics import AnswerRecord, Bootstrap, TopicComparison, compare_all_closed
from sonoray_jobs.outputs.model_record import read_record
from sonoray_jobs.release.model_card import CARD, lacking_sections

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store
    from sonoray.tracking.registry import RegisteredVersion
    from sonoray.workspace import Workspace

LEAST_QUESTIONS = 20
"""Questions that both must have answered; fewer say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One check of a version, and what it found."""

    name: str
    passed: bool
    told: str
    """What was found and, where it did not pass, what to do."""
    is_technical: bool = False
    """Whether nobody may overrule it: the model could not be served."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "passed": self.passed, "told": self.told}


def check_gates(
    store: "Store",
    workspace: "Workspace",
    candidate: "RegisteredVersion",
    current: "RegisteredVersion | None",
    *,
    margin: float,
    bootstrap: Bootstrap,
) -> list[Gate]:
    """Check a version; what the files cannot show is not asked of them.

    Args:
        store: its registry.
        workspace: keeps what has to be downloaded.
        candidate: the version that is to be named.
        current: the version that the alias names now; None where it names none.
        margin: by how much the candidate's accuracy may be worse, at most.
        bootstrap: how the difference is resampled.

    Raises:
        TrackingError: the store fails.
    """
    from sonoray.tracking.registry import resolve_model

    try:
        folder = resolve_model(store, candidate.uri, workspace.models)
    except CheckpointError as error:
        return [Gate(name="files", passed=False, told=str(error), is_technical=True)]
    gates = [
        Gate(name="files", passed=True, told=f"manifest {candidate.digest[:12]}, as registered")
    ]
    gates += [check_digests(folder), check_card(folder)]
    if current is None:
        told = "no version has the alias yet, so there is none to compare with"
        return [*gates, Gate(name="test", passed=True, told=told)]
    try:
        other = resolve_model(store, current.uri, workspace.models)
    except CheckpointError as error:
        told = f"the present version cannot be compared with: {error}"
        return [*gates, Gate(name="test", passed=False, told=told)]
    return [*gates, check_test(folder, other, margin=margin, bootstrap=bootstrap)]


def check_digests(folder: Path) -> Gate:
    """Load the model on the CPU, which compares every part with the manifest."""
    from safetensors import SafetensorError

    from llava_ultra.export.assistant import load_assistant

    try:
        digests: Mapping[str, str] = load_assistant(folder).manifest["digests"]
    except (ValueError, OSError, SafetensorError) as error:
        return Gate(name="digests", passed=False, told=f"{error}", is_technical=True)
    return Gate(name="digests", passed=True, told=f"{', '.join(digests)} as in the manifest")


def check_card(folder: Path) -> Gate:
    """Read the model card."""
    try:
        lacking = lacking_sections((folder / CARD).read_text(encoding="utf-8"))
    except OSError:
        told = f"there is no {CARD}; export it again with this version"
        return Gate(name="card", passed=False, told=told)
    if lacking:
        told = f"{CARD} says nothing of {', '.join(lacking)}; run sonoray evaluate, then export"
        return Gate(name="card", passed=False, told=told)
    return Gate(name="card", passed=True, told=f"{CARD} is complete")


def check_test(folder: Path, other: Path, *, margin: float, bootstrap: Bootstrap) -> Gate:
    """Compare two exported models on the questions that both answered.

    Args:
        folder: of the candidate.
        other: of the present version.
        margin: how much lower its accuracy may be.
        bootstrap: how the difference is resampled.
    """
    try:
        own, present = (_internal_test(each) for each in (folder, other))
    except CheckpointError as error:
        return Gate(name="test", passed=False, told=str(error))
    for answers, which in ((own, "this version"), (present, "the present version")):
        if not answers:
            told = (
                f"{which} was exported without closed answers to its test split; run sonoray "
                "evaluate, then sonoray export, and promote that version"
            )
            return Gate(name="test", passed=False, told=told)
    found = compare_models(present, own, bootstrap=bootstrap)
    if found is None or found.num_questions < LEAST_QUESTIONS:
        shared = 0 if found is None else found.num_questions
        told = (
            f"both answered {shared} equal questions ({len(own)} and {len(present)} in all), and "
            f"{LEAST_QUESTIONS} are needed: they were tested on other studies"
        )
        return Gate(name="test", passed=False, told=told)
    change = found.differences["accuracy"]
    interval = "no interval"
    if change.low is not None and change.high is not None:
        interval = f"[{change.low:+.3f}, {change.high:+.3f}]"
    told = (
        f"accuracy {change.second:.3f} against {change.first:.3f} on {found.num_questions} equal "
        f"questions of {found.num_patients} patients: difference {change.value:+.3f} {interval}"
    )
    if change.low is not None and change.low >= -margin:
        return Gate(name="test", passed=True, told=told)
    return Gate(name="test", passed=False, told=f"{told}, not above -{margin:g} (promote.margin)")


def compare_models(
    first: Sequence[AnswerRecord], second: Sequence[AnswerRecord], *, bootstrap: Bootstrap
) -> TopicComparison | None:
    """Compare two internal tests on the questions that both hold; None where there is none.

    Args:
        first: as `outputs.model_record` reads them.
        second: of the other model; differences are second minus first.
        bootstrap: how the difference is resampled.
    """
    ours, theirs = _by_question(first), _by_question(second)
    both = [question for question in ours if question in theirs]
    one = [ours[question] for question in both]
    # patients are numbered within each test: those of the first count for both
    other = [replace(theirs[question], patient_key=ours[question].patient_key) for question in both]
    return compare_all_closed(one, other, bootstrap=bootstrap)


def _by_question(
    answers: Sequence[AnswerRecord],
) -> dict[tuple[str, str, str, frozenset[str], int], AnswerRecord]:
    """Answers by study, topic, truth, options, and how often the study has had them before."""
    seen: Counter[tuple[str, str, str, frozenset[str]]] = Counter()
    found = {}
    for answer in answers:
        key = (answer.study_id, answer.topic, answer.truth, frozenset(answer.options))
        found[*key, seen[key]] = answer
        seen[key] += 1
    return found


def _internal_test(folder: Path) -> Sequence[AnswerRecord]:
    from llava_ultra.export.manifest import read_artifact_manifest

    try:
        manifest = read_artifact_manifest(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return read_record(folder, manifest).internal_test
