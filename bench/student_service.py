"""The served student beside its model, over HTTP: time of a request, accuracy, the router's share.

`python bench/student_service.py --workspace WORKSPACE --dataset DATASET --model FOLDER
[--budget 0.01] [--write NAME]`, where FOLDER was exported with `sonoray export --student`.

- accuracy: the first closed question of each topic of each test study that the student has learned
  is put to the model, to the student, and to the model's name with the budget. Both are held
  against the model on the same questions; intervals draw patients;
- time: the same question about the same study goes to model and student, one after the other, the
  order changing from study to study. `new`: each request brings pictures that the service has never
  seen (other bytes of the same pixels, and no encoded image is kept), so that the towers run.
  `known`: a further question about a study that was asked about before. Medians over studies; the
  ratio is formed within a round, and its median over rounds is shown.
"""

import argparse
import http.client
import io
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from targets import Row, write_rows

from llava_ultra.student.student_card import StudentCard, read_card
from sonoray.images.decode import encode_png
from sonoray.metrics import AnswerRecord, Bootstrap, compare_all_closed
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_images
from sonoray.study.prompt import split_site
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.questions import closed_studies
from sonoray_jobs.service.listening import free_port
from sonoray_jobs.service.serve import serving
from sonoray_serve.http.testing import to_data_url
from sonoray_serve.settings import ServeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A closed question about a study, with its pictures as PNG."""

    study: Study
    topic: str
    question: str
    options: tuple[str, ...]
    truth: str
    pictures: tuple[bytes, ...]


class Client:
    """One connection to a service."""

    def __init__(self, url: str, model: str) -> None:
        place = url.removeprefix("http://").removesuffix("/v1")
        self._connection = http.client.HTTPConnection(place)
        self._model = model

    def ask(
        self, asked: Asked, ending: str = "", *, mark: str = ""
    ) -> tuple[dict[str, Any], float]:
        """The answer, and the seconds that it took; `mark` makes pictures of other bytes."""
        pictures = [marked(each, mark) if mark else each for each in asked.pictures]
        content = [
            {"type": "text", "text": asked.question},
            *({"type": "image_url", "image_url": {"url": to_data_url(each)}} for each in pictures),
        ]
        body = {
            "model": self._model + ending,
            "messages": [{"role": "user", "content": content}],
            "sonoray": {"options": list(asked.options)},
        }
        data = json.dumps(body).encode()
        begun = time.perf_counter()
        self._connection.request(
            "POST", "/v1/chat/completions", data, {"Content-Type": "application/json"}
        )
        answer = json.loads(self._connection.getresponse().read())
        took_s = time.perf_counter() - begun
        if "error" in answer:
            raise SystemExit(f"the service refuses: {answer['error']['message']}")
        return answer, took_s


def marked(png: bytes, mark: str) -> bytes:
    """The same picture as another file."""
    told, file = PngImagePlugin.PngInfo(), io.BytesIO()
    told.add_text("mark", mark)
    Image.open(io.BytesIO(png)).save(file, "PNG", pnginfo=told)
    return file.getvalue()


def questions(workspace: Workspace, dataset: str, card: StudentCard) -> list[Asked]:
    """What the student has learned of the test studies."""
    folder = workspace.dataset(dataset).path
    found = []
    for study in closed_studies(list(iter_studies(folder, split="test"))):
        names = [image.image_id for image in study.images]
        pictures = read_images(folder, names)
        pngs = tuple(encode_png(pictures[name][0]) for name in names)
        topics = set()
        for turn in study.turns:
            topic = card.topic_of(split_site(turn.question)[1], turn.options)
            if not turn.options or topic is None or topic in topics:
                continue
            topics.add(topic)
            found.append(
                Asked(
                    study=study,
                    topic=topic,
                    question=turn.question,
                    options=tuple(turn.options),
                    truth=turn.answer,
                    pictures=pngs,
                )
            )
    return found


@contextmanager
def service(workspace: Workspace, model: Path, budget: float | None = None) -> Iterator[Client]:
    """A service of its own, without keys, on loopback."""
    config = ServeConfig(encoded_image_bytes=0, feedback="none", student_budget=budget)
    with serving(
        workspace=workspace, model=str(model), config=config, port=free_port(), insecure_local=True
    ) as up:
        yield Client(up.url, up.model)


def record(asked: Asked, answer: dict[str, Any]) -> AnswerRecord:
    """The answer as it is judged."""
    options = answer["sonoray"]["closed"]["options"]
    return AnswerRecord(
        study_id=asked.study.study_id,
        patient_key=asked.study.patient_key,
        topic=asked.topic,
        truth=asked.truth,
        answer=answer["choices"][0]["message"]["content"],
        options=asked.options,
        option_scores={each["text"]: each["log_likelihood"] for each in options},
    )


def compared(name: str, model: Sequence[AnswerRecord], other: Sequence[AnswerRecord]) -> float:
    """Print accuracy beside the model's; return the difference."""
    whole = compare_all_closed(model, other, bootstrap=Bootstrap())
    assert whole is not None
    found = whole.differences["accuracy"]
    print(
        f"{name}: {found.second:.3f}, {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] of "
        f"the model's {found.first:.3f}, {len(model)} questions",
        flush=True,
    )
    return found.value


def timed(
    client: Client, asked: Sequence[Asked], rounds: int, *, is_new: bool
) -> tuple[float, float, float]:
    """Median seconds of model and student, and the ratio of medians, the median over rounds."""
    sides: dict[str, list[float]] = {"": [], ":student": []}
    ratios = []
    if not is_new:
        for each in asked:
            client.ask(each)
    for number in range(rounds):
        own: dict[str, list[float]] = {"": [], ":student": []}
        for place, each in enumerate(asked):
            for ending in sorted(own, reverse=bool((place + number) % 2)):
                mark = f"{number} {place} {ending}" if is_new else ""
                own[ending].append(client.ask(each, ending, mark=mark)[1])
        ratios.append(statistics.median(own[":student"]) / statistics.median(own[""]))
        for ending, values in own.items():
            sides[ending] += values
    model_s, student_s = (statistics.median(sides[each]) for each in ("", ":student"))
    return model_s, student_s, statistics.median(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", type=Path, required=True, help="exported folder with a student")
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--questions", type=int, default=0, help="of the first ones alone; 0: all")
    parser.add_argument("--studies", type=int, default=32, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", metavar="NAME", help="rows of bench/results/targets.json")
    options = parser.parse_args()
    workspace = Workspace.open(options.workspace, create=False)
    asked = questions(workspace, options.dataset, read_card(options.model / "student"))
    asked = asked[: options.questions or len(asked)]
    first = list({each.study.study_id: each for each in reversed(asked)}.values())
    first = first[::-1][: options.studies]
    ratios = {}
    with service(workspace, options.model) as client:
        for is_new in (True, False):
            timed(client, first[:4], 1, is_new=is_new)  # warm
            model_s, student_s, ratio = timed(client, first, options.rounds, is_new=is_new)
            name = "new" if is_new else "known"
            ratios[name] = ratio
            print(
                f"{name}: model {model_s * 1000:.1f} ms, student {student_s * 1000:.1f} ms, ratio "
                f"{ratio:.3f}; medians of {len(first)} studies x {options.rounds} rounds",
                flush=True,
            )
        model = [record(each, client.ask(each)[0]) for each in asked]
        student = [record(each, client.ask(each, ":student")[0]) for each in asked]
    lost = {"student": -compared("student", model, student)}
    with service(workspace, options.model, options.budget) as client:
        answers = [client.ask(each)[0] for each in asked]
    by = [answer["sonoray"]["answered_by"] for answer in answers]
    both = [record(each, answer) for each, answer in zip(asked, answers, strict=True)]
    share = by.count("student") / len(by)
    print(f"budget {options.budget:g}: the student answers {share:.3f} of the questions")
    lost["both"] = -compared("both", model, both)
    if options.write:
        write(options, ratios, lost)


def write(options: argparse.Namespace, ratios: dict[str, float], lost: dict[str, float]) -> None:
    """Put the rows into the table of targets."""
    unit = f"ratio of wall times over HTTP, median of {options.rounds} rounds"
    served = f"served student on {options.write}: time of a request beside the model's"
    routed = f"model and student within a budget of {options.budget:g} on {options.write}"
    found = [
        (f"{served}, new study", 0.05, ratios["new"], unit),
        (f"{served}, study known", 0.05, ratios["known"], unit),
        (f"{routed}: accuracy below the model's", 0.02, lost["both"], "test split, over HTTP"),
    ]
    rows = [
        Row(name=name, wanted=wanted, better="lower", measured=measured, unit=told)
        for name, wanted, measured, told in found
    ]
    write_rows(
        rows,
        f"python bench/student_service.py --dataset {options.dataset} --model MODEL "
        f"--budget {options.budget:g}",
    )


if __name__ == "__main__":
    main()
