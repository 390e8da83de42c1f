"""Students beside their model: accuracy of several seeds and losses, and the time of both.

Run: `python bench/student.py --workspace WORKSPACE --run RUN [--run RUN ...] [--write NAME]`, after
`sonoray distil` of each run, which leaves what the model said of the studies.

- accuracy: students of `--seeds` seeds learn from what the model said, with true answers alone,
  with its probabilities too, with its states too, and with all losses. Each is held against the
  model on the same questions; the interval of the mean over runs and seeds draws patients;
- time: model and student answer all closed questions of the same studies, from features that were
  read before, in one process on one thread, one after the other in each round. CPU times are
  compared within a round; the median over rounds is shown.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from targets import Row, write_rows

from llava_ultra.student.learning import learn
from llava_ultra.student.network import Student, pad_images
from llava_ultra.student.student_config import StudentConfig
from sonoray.metrics import AnswerRecord, Bootstrap, compare_all_closed, compare_answers
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.answer import AnswerActor
from sonoray_jobs.evaluation.questions import closed_studies
from sonoray_jobs.evaluation.student.lessons import (
    make_lessons,
    model_records,
    student_records,
    topics_of,
)
from sonoray_jobs.evaluation.student.teaching import pool_study, read_taught, unmarked
from sonoray_jobs.outputs.find import Made
from sonoray_jobs.outputs.named_runs import find_run
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.towers.feature_source import FeatureReader, feature_source
from sonoray_jobs.training.restore import load_trained

ALONE = {"probabilities": 0.0, "states": 0.0, "images": 0.0}
VARIANTS: Mapping[str, Mapping[str, float]] = {
    "truth": ALONE,
    "truth, probabilities": {**ALONE, "probabilities": 1.0},
    "truth, states": {**ALONE, "states": 0.4},
    "all": {},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", metavar="NAME", help="rows of bench/results/targets.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workspace = Workspace.open(options.workspace, create=False)
    runs = [find_run(workspace, name) for name in options.run]
    taught = [read_taught(find_taught(workspace, made)) for made in runs]
    positive = runs[0].road.evaluate.positive_options
    found = {}
    for name, values in VARIANTS.items():
        settings = StudentConfig.model_validate(values)
        found[name] = judged(name, taught, settings, options.seeds, positive)
    ratio = times(workspace, runs[0], taught[0], options.studies, options.rounds)
    if options.write:
        write(options.write, found["all"], ratio, options)


def find_taught(workspace: Workspace, made: Made) -> Path:
    """What the newest `sonoray distil` of a run was taught."""
    found = [
        path.parent
        for path in workspace.stages.glob(f"teach-{made.dataset}-*/manifest.json")
        if json.loads(path.read_text(encoding="utf-8"))["inputs"][1] == made.trained.name
    ]
    if not found:
        raise SystemExit(f"run first: sonoray distil --run {made.trained.name}")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def judged(
    name: str,
    taught: Sequence[Sequence[Mapping[str, Any]]],
    settings: StudentConfig,
    seeds: int,
    positive: Mapping[str, str],
) -> float:
    """Print the mean difference of students over runs and seeds; return it, in accuracy."""
    model: list[AnswerRecord] = []
    student: list[AnswerRecord] = []
    each = []
    for rows in taught:
        train = [row for row in rows if row["split"] == "train"]
        asked = [row for row in rows if row["split"] == "test"]
        lessons = make_lessons(train)
        theirs = model_records(asked, topics_of(train))
        for seed in range(seeds):
            learned = learn(lessons, settings.model_copy(update={"seed": seed}))
            ours, _ = student_records(learned.student, asked)
            model += theirs
            student += ours
            right = sum(one.answer == one.truth for one in ours) / len(ours)
            each.append(f"{right:.3f}")
    bootstrap = Bootstrap()
    whole = compare_all_closed(model, student, bootstrap=bootstrap)
    assert whole is not None
    of_all = whole.differences["accuracy"]
    print(
        f"{name}: model {of_all.first:.3f}, student {of_all.second:.3f} ({', '.join(each)}), "
        f"{of_all.value:+.3f} [{of_all.low:+.3f}, {of_all.high:+.3f}]"
    )
    known = {record.topic for record in model}
    options = {topic: option for topic, option in positive.items() if topic in known}
    for topic in compare_answers(model, student, positive=options, bootstrap=bootstrap):
        parts = []
        for metric in ("accuracy", "auc"):
            if (own := topic.differences.get(metric)) is not None:
                parts.append(
                    f"{metric} {own.first:.3f}, {own.second:.3f}, {own.value:+.3f} "
                    f"[{own.low:+.3f}, {own.high:+.3f}]"
                )
        print(f"  {topic.topic}: {'; '.join(parts)}")
    return of_all.value


def times(
    workspace: Workspace,
    made: Made,
    rows: Sequence[Mapping[str, Any]],
    studies: int,
    rounds: int,
) -> float:
    """Print the CPU time of both for the closed questions of some studies; return the ratio."""
    road = made.road
    asked = closed_studies(list(iter_studies(made.output.path, split="test")))[:studies]
    asked = [unmarked(study) for study in asked]
    source = feature_source(
        road.embed,
        model=road.model,
        dataset=made.output.path,
        folders={tower: made.parts[tower].path for tower in TOWERS},
        stores=made.stores(workspace),
        device="cpu",
    )
    source = replace(source, views=None)
    model, language = load_trained(made.located)
    actor = AnswerActor(
        lambda: (model, language), road.evaluate, source, "cpu", answers_freely=False
    )
    features = FeatureReader(source).read_studies([study.images for study in asked])
    size = road.evaluate.batch_size
    train = [row for row in rows if row["split"] == "train"]
    quick = StudentConfig(epochs=1)
    student: Student = learn(make_lessons(train), quick).student

    def ask() -> None:
        for start in range(0, len(asked), size):
            part = slice(start, start + size)
            actor.answer(asked[part], features[part])

    @torch.no_grad()
    def opine() -> None:
        for start in range(0, len(asked), size):
            pooled = [pool_study(each) for each in features[start : start + size]]
            student(*pad_images(pooled))

    ask()
    opine()
    measured = [(cpu_time(ask), cpu_time(opine)) for _ in range(rounds)]
    ratio = statistics.median(own / theirs for theirs, own in measured)
    theirs, own = (
        statistics.median(side) / len(asked) * 1000 for side in zip(*measured, strict=True)
    )
    print(f"CPU time a study: model {theirs:.2f} ms, student {own:.3f} ms, ratio {ratio:.4f}")
    return ratio


def cpu_time(run: Callable[[], None]) -> float:
    """CPU seconds of a call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def write(name: str, minus_model: float, ratio: float, options: argparse.Namespace) -> None:
    """Put the rows into the table of targets."""
    rows = [
        Row(
            name=f"student on {name}: accuracy of closed questions below the model's",
            wanted=0.02,
            better="lower",
            measured=-minus_model,
            unit=f"mean of {len(options.run)} runs x {options.seeds} seeds",
        ),
        Row(
            name=f"student on {name}: time beside the model's, closed questions from stored "
            "features",
            wanted=0.05,
            better="lower",
            measured=ratio,
            unit=f"ratio of CPU times, median of {options.rounds}",
        ),
    ]
    runs = " ".join(f"--run {run}" for run in options.run)
    write_rows(rows, f"python bench/student.py {runs}")


if __name__ == "__main__":
    main()
