"""A training step beside an older build, a plain loop and HF Trainer: time, memory, losses.

Run: `python bench/train_step.py [--base CHECKOUT] [--workspace FOLDER] [--rounds 5] [--steps 8]
[--only NAME ...] [--results FOLDER]`.

Every variant runs in a fresh process (`bench/train/case.py`), in turn with the others, with one
thread, on the same batches and the same weights; the base with the environment of its own checkout.
Ratios are formed within a round, of the medians of the steps, by wall time and by CPU time, which
other work on the machine disturbs less. Cases:

- `shared`: a step of SmolLM2-135M's shape, four questions a study, beside the same build with a row
  for each question; picks that are learned and alike, and picks that are not learned;
- `evidence`: the evidence road's model, 16 studies a step, three of their turns, with float32
  products as they are and rounded (`train.matmul_precision`). With `--workspace`, the studies,
  features and language model of a finished tiny road in it; otherwise random features and texts of
  the phantom's lengths. The losses of the steps are compared;
- `smollm`: SmolLM2-135M's shape with random weights, 8 studies with three questions, one of them
  answered by a report of 80 tokens; `--image-tokens` of each picked image stand before them (36, or
  256 as in the preset `base`), in float32 and with `train.precision = "bfloat16"`, which the base
  has not: it is in float32 both times;
- `memory`: tensors alive at once in such a step (weights are left out), at once and in parts;
- `engine`: the worker's step through DeepSpeed beside the plain loop of the same model, batch and
  sharing (model, backward, clip, AdamW; no Ray in either);
- `trainer`: HF Trainer on the same questions as padded rows;
- `sam`: one image of 1,024 px in the preset `paper`'s SAM: memory beside the weights, features.

Without `--base` the ratios to it are left out, and with one round it takes two minutes. Results of
cases that are not run again (`--only`) stay in the file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CASE = ROOT / "bench" / "train" / "case.py"
COUNTING = ROOT / "model" / "llava_ultra" / "cost" / "counting.py"
CASES = ("shared", "evidence", "smollm", "memory", "engine", "trainer", "sam")
CHANNELS = {"clip": 96, "sam": 256}
WARM = 1
"""Steps of a process that are not counted."""
FEW = 2
"""Most counted steps of a process with SmolLM2's shape, whose step takes up to a minute."""

Found = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="checkout of an older build with its .venv")
    parser.add_argument("--workspace", type=Path, help="of a finished tiny road")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[36])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    begin = time.perf_counter()
    asked = {"rounds": given.rounds, "steps": given.steps, "image tokens": given.image_tokens}
    found: Found = {"asked": asked, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            found[name] = []
            for row in MEASURES[name](given, Path(folder)):
                found[name].append(row)
                print(json.dumps({name: row}), flush=True)
    found["took_s"] = time.perf_counter() - begin
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        path = given.results / "train_step.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")


def machine() -> Found:
    """What the figures depend on."""
    sys.path.insert(0, str(ROOT / "bench" / "data"))
    from record import machine as described

    found: Found = described()
    return found


def few(given: argparse.Namespace) -> int:
    """Counted steps of SmolLM2's shape."""
    return int(min(given.steps, FEW))


def run(checkout: Path, case: str, *arguments: object) -> Found:
    """Run a case in a process of a checkout."""
    python = checkout / ".venv" / "bin" / "python"
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(python), str(CASE), case, *map(str, arguments)],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    printed: Found = json.loads(done.stdout.splitlines()[-1])
    return printed


def in_turn(
    rounds: int, variants: dict[str, tuple[Path, Sequence[object]]]
) -> dict[str, list[Found]]:
    """Each variant once a round, in turn."""
    made: dict[str, list[Found]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, (checkout, arguments) in variants.items():
            made[name].append(run(checkout, *arguments))
            print(f"round {number}: {name}", file=sys.stderr)
    return made


def compare(made: dict[str, list[Found]], name: str, other: str) -> Found:
    """How often faster `name` is than `other`: medians of the rounds, smallest and largest."""
    row: Found = {"faster": name, "slower": other}
    for clock in ("wall_s", "cpu_s"):
        ratios = [
            statistics.median(b[clock][WARM:]) / statistics.median(a[clock][WARM:])
            for a, b in zip(made[name], made[other], strict=True)
        ]
        row[clock] = [round(v, 3) for v in (statistics.median(ratios), min(ratios), max(ratios))]
        for each in (name, other):
            steps = statistics.median(statistics.median(r[clock][WARM:]) for r in made[each])
            row[f"{each} {clock} a step"] = round(steps, 4)
    first, second = (made[each][0].get("losses", []) for each in (name, other))
    if first and second:
        pairs = list(zip(first, second, strict=True))
        row["first loss differs by"] = abs(pairs[0][0] - pairs[0][1])
        row["losses differ by at most"] = max(abs(a - b) / b for a, b in pairs)
        row["losses"] = [[round(value, 4) for value in pair] for pair in pairs]
    return row


def shared(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Images read once for four questions beside a row for each, in time and memory."""
    for tokens in given.image_tokens:
        for sampling in ("alike", "first"):
            inputs = folder / f"shared-{tokens}-{sampling}"
            write_random(inputs, few(given) + WARM, studies=4, tokens=tokens, answers=(3, 3, 3, 40))
            common = [
                "smollm",
                "--input",
                inputs,
                "--precision",
                "highest",
                "--image-tokens",
                tokens,
            ]
            common += ["--sampling", sampling]
            ways = {way: (ROOT, [*common, "--way", way]) for way in ("plain", "rows")}
            row = compare(in_turn(given.rounds, ways), "plain", "rows")
            peaks = {
                way: run(ROOT, *arguments, "--memory", COUNTING)["peak_bytes"]
                for way, (_, arguments) in ways.items()
            }
            yield {"image tokens": tokens, "sampling": sampling, "peak_bytes": peaks} | row


def evidence(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """The evidence road's step beside the base's."""
    inputs = folder / "evidence"
    language: list[object] = []
    if given.workspace:
        (own,) = given.workspace.glob("stages/bootstrap-language-*")
        language = ["--language", own]
        write_real(inputs, given.workspace, own, given.steps + WARM)
    else:
        write_random(
            inputs, given.steps + WARM, studies=16, tokens=36, answers=(3, 3, 40), vocabulary=1500
        )
    for precision in ("highest", "medium"):
        arguments = ["evidence", "--input", inputs, *language, "--precision", precision]
        variants = {"new": (ROOT, arguments)}
        if given.base:
            variants["base"] = (given.base, arguments)
        made = in_turn(given.rounds, variants)
        told = compare(made, "new", "base" if given.base else "new")
        yield {"matmul_precision": precision} | told


def smollm(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """A decoder of SmolLM2-135M's shape beside the base's."""
    for tokens in given.image_tokens:
        inputs = folder / f"smollm-{tokens}"
        write_random(inputs, few(given) + WARM, studies=8, tokens=tokens, answers=(3, 3, 80))
        arguments = [
            "smollm",
            "--input",
            inputs,
            "--precision",
            "highest",
            "--image-tokens",
            tokens,
        ]
        half = [*arguments, "--products", "bfloat16"]
        variants = {"new": (ROOT, arguments), "new, bfloat16": (ROOT, half)}
        if given.base:
            variants["base"] = (given.base, arguments)
        made = in_turn(given.rounds, variants)
        for name in ("new", "new, bfloat16"):
            told = compare(made, name, "base" if given.base else "new")
            yield {"image tokens": tokens} | told


def memory(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Bytes of tensors alive at once in a step of the 135M shape."""
    for tokens in given.image_tokens:
        inputs = folder / f"memory-{tokens}"
        write_random(inputs, 2, studies=8, tokens=tokens, answers=(3, 3, 80))
        arguments = ["smollm", "--input", inputs, "--image-tokens", tokens, "--memory", COUNTING]
        ways: dict[str, list[object]] = {
            "at once": [],
            "4 studies at a time": ["--micro-studies", 4],
            "2 studies at a time": ["--micro-studies", 2],
            "at once, activations anew": ["--checkpoint"],
        }
        base = run(given.base, *arguments)["peak_bytes"] if given.base else None
        for way, more in ways.items():
            peak = run(ROOT, *arguments, *more)["peak_bytes"]
            yield {"image tokens": tokens, "way": way, "peak_bytes": peak} | (
                {"base": base, "ratio": round(peak / base, 3)} if base else {}
            )


def engine(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """The worker's step through DeepSpeed beside the plain loop."""
    inputs = folder / "engine"
    write_random(
        inputs, given.steps + WARM, studies=16, tokens=36, answers=(3, 3, 40), vocabulary=1500
    )
    ways = {
        way: (ROOT, ["evidence", "--input", inputs, "--way", way]) for way in ("plain", "engine")
    }
    yield compare(in_turn(given.rounds, ways), "plain", "engine")


def trainer(given: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """The plain loop beside HF Trainer's padded rows."""
    inputs = folder / "trainer"
    write_random(inputs, few(given) + WARM, studies=8, tokens=36, answers=(3, 3, 80))
    common = ["smollm", "--input", inputs, "--precision", "highest", "--way"]
    ways = {way: (ROOT, [*common, way]) for way in ("plain", "trainer")}
    yield compare(in_turn(given.rounds, ways), "plain", "trainer")


def sam(given: argparse.Namespace, _: Path) -> Iterator[Found]:
    """Memory of one image of 1,024 px."""
    own = run(ROOT, "sam")
    if not given.base:
        yield own
        return
    base = run(given.base, "sam")
    yield {"new": own, "base": base, "ratio": round(own["peak_bytes"] / base["peak_bytes"], 3)}


def write_random(
    folder: Path,
    steps: int,
    *,
    studies: int,
    tokens: int,
    answers: Sequence[int],
    vocabulary: int = 49_152,
) -> None:
    """Random features and ids: per study a question for each of these lengths of an answer."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(steps):
        rows = [(study, 20, answer) for study in range(studies) for answer in answers]
        longest = max(question + answer for _, question, answer in rows)
        ids = generator.integers(3, vocabulary, (len(rows), longest))
        ids[:, 0] = 1
        labels, mask = np.full_like(ids, -100), np.zeros(ids.shape, dtype=bool)
        for row, (_, question, answer) in enumerate(rows):
            labels[row, question : question + answer] = ids[row, question : question + answer]
            mask[row, : question + answer] = True
        counts = np.full(studies, 3)
        shape = (counts.sum(), tokens)
        np.savez(
            folder / f"batch-{number:03}.npz",
            clip=generator.standard_normal((*shape, CHANNELS["clip"]), dtype=np.float32),
            sam=generator.standard_normal((*shape, CHANNELS["sam"]), dtype=np.float32),
            counts=counts,
            ids=ids,
            labels=labels,
            mask=mask,
            study_index=np.array([study for study, _, _ in rows]),
        )


def write_real(folder: Path, workspace: Path, language: Path, steps: int) -> None:
    """Batches of a finished tiny road: its studies, three turns of each, its stored features."""
    from llava_ultra.batch import collate_texts
    from llava_ultra.language.decoder import load_language
    from sonoray.errors import DataError
    from sonoray.study.contract import iter_studies
    from sonoray_jobs.outputs.stores import stores_of
    from sonoray_jobs.road.config import load_road

    road = load_road("tiny")
    (dataset,) = workspace.glob("stages/ingest-phantom-*")
    names = [path.name.partition("-")[0] for path in (workspace / "features").iterdir()]
    tokenizer = load_language(language).tokenizer
    studies = [study for study in iter_studies(dataset) if study.split == "train"]
    stores = {}
    for clip, sam_name in ((names[0], names[1]), (names[1], names[0])):
        with suppress(DataError):  # the other way round
            stores = stores_of(
                str(workspace / "features"),
                road.model,
                road.embed,
                {"clip": clip, "sam": sam_name},
            )
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(studies))
    for number in range(steps):
        chosen = [studies[place] for place in order[number * 16 : number * 16 + 16]]
        images = [image.image_id for study in chosen for image in study.images]
        rows = [
            (place, turn.question, turn.answer)
            for place, study in enumerate(chosen)
            for turn in [study.turns[(place + k) % len(study.turns)] for k in range(3)]
        ]
        text = collate_texts(tokenizer, rows, max_tokens=512)
        np.savez(
            folder / f"batch-{number:03}.npz",
            clip=stores["clip"].read(images),
            sam=stores["sam"].read(images),
            counts=np.array([len(study.images) for study in chosen]),
            ids=text.ids.numpy(),
            labels=text.labels.numpy(),
            mask=text.mask.numpy(),
            study_index=text.study_index.numpy(),
        )


MEASURES = {
    "shared": shared,
    "evidence": evidence,
    "smollm": smollm,
    "memory": memory,
    "engine": engine,
    "trainer": trainer,
    "sam": sam,
}

if __name__ == "__main__":
    main()
