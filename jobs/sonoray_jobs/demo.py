"""Demo: the whole road on phantom studies, in one Ray session, on the real components.

It calls the same jobs as the commands do, in their order, and ends by asking the served model three
questions about a test study with OpenAI's client. Every step is content-addressed: the second run
reuses what has not changed. The service listens on a free loopback port with a key made for this
run; `--keep` leaves it up.
"""

import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.study.contract import Study, Task, iter_studies
from sonoray.study.prompt import with_site_cue
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.release import export
from sonoray_jobs.results import Result
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service import service_client
from sonoray_jobs.service.listening import free_port
from sonoray_jobs.service.sent_pictures import Picture, study_pictures
from sonoray_jobs.service.serve import new_api_key, serving
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training import train

logger = logging.getLogger(__name__)

DATASET = "phantom"
NUM_QUESTIONS = 3

STEPS: Mapping[str, Callable[..., Result]] = {
    "ingest": ingest.run,
    "bootstrap": bootstrap.run,
    "embed": embed.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "export": export.run,
}
"""The road, in its order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrated:
    """Everything the demo shows at its end."""

    results: Mapping[str, Any]
    """What each step returned, by its name."""
    replies: Sequence[service_client.Reply]
    truths: Sequence[str]
    seconds: dict[str, float]
    mlflow: str
    """How to open MLflow."""
    workspace: Workspace
    pictures: Sequence[Path]
    """Files with the images of the study that is asked about."""
    kept: bool
    """Whether the service stayed up; the report was shown then, before it stopped."""

    def lines(self) -> list[str]:
        """What a person reads."""
        return ["the service has stopped"] if self.kept else self.report()

    def report(self) -> list[str]:
        """Metrics, answers, times and what to do next."""
        evaluated = self.results["evaluate"]
        closed = evaluated.summary["all_closed"]
        accuracy, constant = (closed[key]["value"] for key in ("accuracy", "constant_accuracy"))
        answers: list[str] = []
        for reply, truth in zip(self.replies, self.truths, strict=True):
            used = ", ".join(
                f"{number} ({image.score:.0%})"
                for number, image in enumerate(reply.images, start=1)
                if image.selected
            )
            scores = " ".join(f"{image.score:.2f}" for image in reply.images)
            answers += [
                f"  问: {reply.question}",
                f"  答: {reply.answer}",
                f"  真: {truth}",
                f"  used image {used} of {len(reply.images)}; scores {scores}",
                "",
            ]
        notice = self.replies[0].notice
        return [
            *evaluated.lines(),
            "",
            f"closed questions: accuracy {accuracy:.3f}, constant answer {constant:.3f}",
            "",
            "Three questions to the served model, over HTTP:",
            *answers,
            notice,
            "",
            "seconds: " + ", ".join(f"{step} {took:.0f}" for step, took in self.seconds.items()),
            "",
            "What next, ready to paste:",
            *self._next_steps(),
        ]

    def _next_steps(self) -> list[str]:
        """Commands that work as they stand, in the folder in which the demo ran."""
        activate = Path(sys.prefix, "bin", "activate")
        where, model = shlex.quote(str(self.workspace.root)), self.results["export"].uri
        return [
            *([f"  source {shlex.quote(str(activate))}"] if activate.is_file() else []),
            "  # serve the model until Ctrl-C, and ask it about a study from another terminal",
            f"  sonoray serve --model {model} --workspace {where} --insecure-local",
            f"  {self.question_command}",
            "  # look at the runs, their curves and the registered model, and compare them",
            f"  {self.mlflow}",
            "  # your own archive: docs/sources.md says what each source expects",
            f"  sonoray ingest dicom ARCHIVE --name mine --workspace {where}",
        ]

    @property
    def question_command(self) -> str:
        """The last question on the command line, about the same pictures."""
        return shlex.join(
            ["sonoray", "ask", *map(str, self.pictures), "--question", self.replies[-1].question]
        )

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "evaluation": self.results["evaluate"].to_json(),
            "replies": [reply.to_json() for reply in self.replies],
            "truths": list(self.truths),
            "seconds": self.seconds,
            "mlflow": self.mlflow,
        }


def run(
    *, workspace: Workspace, road: RoadConfig, address: str | None = None, keep: bool = False
) -> Demonstrated:
    """Run every step and ask the served model.

    Raises:
        SonoError: what the failing step raises.
    """
    from sonoray.cluster.session import ray_session
    from sonoray.tracking.connection import open_store

    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    common: dict[str, Any] = {"workspace": workspace, "road": road, "dataset": DATASET}
    start = time.monotonic()
    with ray_session(address):  # all steps use it
        seconds["start"] = time.monotonic() - start
        for name, job in STEPS.items():
            logger.info("== %s", name)
            results[name] = job(**common)
            seconds[name] = time.monotonic() - start - sum(seconds.values())
            if name != "evaluate":  # its tables stand in the report
                for line in results[name].lines():
                    logger.info("%s", line)
        study = demo_study(workspace)
        if road.train.site_cue:  # as it was trained
            study = with_site_cue(study)
        turns = demo_turns(study)
        pictures = study_pictures(workspace, DATASET, study.study_id)
        key = new_api_key()
        with serving(
            workspace=workspace,
            config=road.serve,
            model=results["export"].uri,
            port=free_port(),
            api_keys=[key],
        ) as service:
            replies = [
                service_client.ask(turn.question, pictures, url=service.url, api_key=key)
                for turn in turns
            ]
            seconds["serve"] = time.monotonic() - start - sum(seconds.values())
            shown = Demonstrated(
                kept=keep,
                results=results,
                replies=replies,
                truths=[turn.answer for turn in turns],
                seconds=seconds,
                mlflow=open_store(workspace).how_to_open,
                workspace=workspace,
                pictures=write_pictures(workspace, pictures),
            )
            if keep:
                _keep(shown, service.url, key)
    return shown


def demo_study(workspace: Workspace) -> Study:
    """The study that is asked about: the first test study with a finding that asks enough."""
    studies = list(iter_studies(workspace.dataset(DATASET).path, split="test"))
    with_finding = (study for study in studies if study.labels.get("finding") == "1")
    return next(with_finding, studies[0])


def write_pictures(workspace: Workspace, pictures: Sequence[Picture]) -> list[Path]:
    """Write a study's images beside the stages, so that anyone can ask about them again."""
    folder = workspace.root / "demo-study"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number, _ in enumerate(pictures, start=1)]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(picture.data)
    return paths


def demo_turns(study: Study) -> list[Any]:
    """Three questions: the report and two closed ones, as far as the study has them."""
    report = [turn for turn in study.turns if turn.task is Task.REPORT]
    closed = [turn for turn in study.turns if turn.task is Task.CLOSED]
    by_interest = sorted(closed, key=lambda turn: turn.topic != "pathology")
    return [*by_interest[: NUM_QUESTIONS - 1], *report][:NUM_QUESTIONS]


def _keep(shown: Demonstrated, url: str, key: str) -> None:
    """Show the report, say how to reach the service and leave it up until Ctrl-C."""
    file = shown.workspace.root / "demo.key"
    try:
        file.touch(mode=0o600)
        file.write_text(key + "\n", encoding="utf-8")
        for line in shown.report():
            logger.info("%s", line)
        logger.info("the service is up at %s; its key is in %s; Ctrl-C stops it", url, file)
        logger.info("  %s --url %s --api-key-file %s", shown.question_command, url, file)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    finally:
        file.unlink(missing_ok=True)
