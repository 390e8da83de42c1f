"""More descriptions of a bank's classes, written by a served model about studies of them.

GMAT (arXiv 2508.01293) has agents write descriptions of a class by aspect. Here a running service
is the agent: for each class it is shown training studies of it and asked, in each of several roles,
for one aspect. An answer is kept only where it says something new, is no answer of the training to
another question (a small model gives those where it was taught nothing else), and names nothing
that the class excludes: none of its `excludes`, and no name or alias of another class. What is kept
goes, behind the bank's own descriptions, into a new bank file; what was dropped is counted by
reason.

A class without a training study stays as it is: nothing is written of what was never seen.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_ultra.recognition.bank import BankClass, ClassBank
from llava_ultra.recognition.bank_file import load_bank
from llava_ultra.recognition.bank_toml import to_toml
from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_whole
from sonoray.study.choosing.held_out import is_held_out
from sonoray.study.contract import Study, Task, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.sent_pictures import study_pictures
from sonoray_jobs.service.service_client import Reply, ask, read_key

ROLES: Mapping[str, Mapping[str, str]] = {
    "morphology": {
        "zh": "请只描述病灶的形态和边缘。",
        "en": "Describe only the shape and the margin of the lesion.",
    },
    "texture": {
        "zh": "请只描述病灶的内部回声和钙化。",
        "en": "Describe only the echoes inside the lesion and any calcification.",
    },
    "context": {
        "zh": "请只描述病灶周围和后方的表现。",
        "en": "Describe only what is seen around the lesion and behind it.",
    },
}
"""What each role is asked, by language of the bank."""

_CUT = "length"
"""How a service says that an answer lacks its end."""


@dataclass(kw_only=True)
class Written:
    """What became of the answers."""

    path: Path
    model: str = ""
    kept: dict[str, list[str]] = field(default_factory=dict)
    """By class."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By reason."""
    unseen: list[str] = field(default_factory=list)
    """Classes without a training study."""

    def lines(self) -> list[str]:
        """What a person reads."""
        number = sum(map(len, self.kept.values()))
        lines = [f"{number} descriptions written by {self.model or 'nobody'}"]
        lines += [f"  {name}: {text}" for name, texts in self.kept.items() for text in texts]
        lines += [f"dropped, {reason}: {count}" for reason, count in self.dropped.items()]
        if self.unseen:
            lines.append(f"without a training study, left as they are: {', '.join(self.unseen)}")
        return [*lines, f"bank: {self.path}; read it before it is used"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": str(self.path),
            "model": self.model,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "unseen": self.unseen,
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    classes: str,
    out: Path,
    studies: int = 2,
    roles: Sequence[str] = tuple(ROLES),
    url: str,
    api_key_file: Path | None = None,
) -> Written:
    """Ask a service for descriptions of a bank's classes, and write a bank with them.

    Args:
        workspace: has the dataset.
        road: `train.hold_out` keeps classes away.
        dataset: whose training studies are shown.
        classes: a packaged bank by name, or a file.
        out: the new bank, a .toml file that does not exist.
        studies: most studies of a class that are shown.
        roles: some of `ROLES`.
        url: base URL of the service.
        api_key_file: key file; by default the environment's key.

    Raises:
        ConfigError: a role is unknown, the bank is in a language without wordings, or the file
            is there or has another suffix.
        DataError: no training study is of a class.
        ServingError: the service cannot be reached or refuses.
        ValueError: the bank cannot be read.
    """
    bank = load_bank(classes)
    _check(bank, out, roles)
    shown, learned = _examples(workspace, road, dataset, bank, studies)
    key = read_key(api_key_file)

    def answer(study: Study, question: str) -> Reply:
        pictures = study_pictures(workspace, dataset, study.study_id)
        return ask(question, pictures, url=url, api_key=key)

    written = gather(bank, shown, roles, answer, out, learned)
    write_whole(out, to_toml(extended(bank, written)))
    return written


def gather(
    bank: ClassBank,
    shown: Mapping[str, Sequence[Study]],
    roles: Sequence[str],
    answer: Callable[[Study, str], Reply],
    out: Path,
    learned: Set[str] = frozenset(),
) -> Written:
    """Ask about every study in every role, and judge the answers.

    Args:
        bank: the classes.
        shown: studies by class.
        roles: some of `ROLES`.
        answer: asks the service.
        out: where the bank will lie.
        learned: answers of the training to other questions than for a report.
    """
    from sonoray.cluster.progress import progress

    written = Written(path=out, unseen=[name for name in bank.names if not shown.get(name)])
    known = {text.strip() for _, text in bank.texts()}
    wanted = [
        (each, ROLES[role][bank.language], study)
        for each in bank.classes
        for role in roles
        for study in shown.get(each.name, ())
    ]
    for each, question, study in progress(wanted, "ask for descriptions"):
        reply = answer(study, question)
        written.model = reply.model
        text = reply.answer.strip()
        reason = refusal(bank, each, text, known, learned)
        if reply.finish_reason == _CUT:
            reason = "cut at its end"
        if reason:
            written.dropped[reason] += 1
            continue
        known.add(text)
        written.kept.setdefault(each.name, []).append(text)
    return written


def refusal(
    bank: ClassBank, of: BankClass, text: str, known: Set[str], learned: Set[str] = frozenset()
) -> str:
    """Why an answer is not kept as a description of a class; empty where it is.

    Args:
        bank: the classes.
        of: the class.
        text: the answer.
        known: descriptions that there are, of any class.
        learned: answers of the training to other questions.
    """
    if not text:
        return "empty"
    if "？" in text or "?" in text:
        return "asks something"
    if text in known:
        return "said before"
    if text in learned:
        return "answers another question"
    if any(word in text for word in of.excludes):
        return "names what the class excludes"
    others = [each for each in bank.classes if each is not of]
    names = {name for each in others for name in (each.name, *each.aliases)}
    if any(name in text for name in names):
        return "names another class"
    return ""


def extended(bank: ClassBank, written: Written) -> ClassBank:
    """The bank with what was written behind its own descriptions."""
    values = bank.model_dump()
    values["source"] = f"{bank.source}; others written by {written.model}".removeprefix("; ")
    for each in values["classes"]:
        each["descriptions"] = (*each["descriptions"], *written.kept.get(each["name"], ()))
    return ClassBank.model_validate(values)


def _check(bank: ClassBank, out: Path, roles: Sequence[str]) -> None:
    if unknown := [role for role in roles if role not in ROLES]:
        raise ConfigError(f"--role {unknown[0]} is unknown; use some of {', '.join(ROLES)}")
    languages = next(iter(ROLES.values()))
    if bank.language not in languages:
        raise ConfigError(
            f"bank {bank.name!r} is in {bank.language!r}; roles are worded in "
            f"{', '.join(languages)}"
        )
    if out.suffix != ".toml" or out.exists():
        why = "is there already" if out.exists() else "does not end in .toml"
        raise ConfigError(f"--out {str(out)!r} {why}; name a new .toml file")


def _examples(
    workspace: Workspace, road: RoadConfig, dataset: str, bank: ClassBank, most: int
) -> tuple[dict[str, list[Study]], set[str]]:
    """The first training studies of each class, and all answers to others than report questions.

    None is of a class that is held out.
    """
    found: dict[str, list[Study]] = {}
    learned: set[str] = set()
    for study in iter_studies(workspace.dataset(dataset).path, split="train", complete=False):
        if not study.images or is_held_out(study, road.train.hold_out):
            continue
        for turn in study.turns:
            if turn.task is not Task.REPORT:
                learned.update((turn.answer, *turn.options))
        numbers = bank.classes_of(study.labels)
        if len(numbers) == 1:  # of several, nobody knows which one an answer is about
            own = found.setdefault(bank.names[numbers[0]], [])
            if len(own) < most:
                own.append(study)
    if not found:
        raise DataError(
            f"no training study of {dataset!r} is of a class of bank {bank.name!r} "
            f"({', '.join(bank.labels)}); give another bank or dataset"
        )
    return found, learned
