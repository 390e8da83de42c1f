"""What a plain classifier reaches: a small CNN trained on one closed question's answers alone.

Run after `sonoray ingest`, with its options:
`.venv/bin/python bench/plain_classifier.py --dataset busbra --topic pathology`

Eight 3 x 3 convolutions, four of stride 2, mean and maximum over the image, one linear layer: no
language model, no masks, no other question. It learns from the training patients' images (those
that show the finding, where a dataset says so), augmented as the towers' are; a study's answer is
the mean of its images' log-probabilities. It says whether the detour over language is worth its
cost, and how much an image of this size tells at all. Figures in docs/results.md; one core, 30
epochs over 700 images of 128 px in about two minutes.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor, nn

from llava_ultra.parameters.precision import matmul_precision
from llava_ultra.towers.pixels import normalise, random_views, to_canvases
from sonoray.errors import DataError
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_images
from sonoray.workspace import Workspace

WIDTHS = (16, 24, 32, 32, 64, 64, 96, 96)
PEAK_RATE = 3e-3


@dataclass(frozen=True)
class Examples:
    """Images that a question is about: canvases uint8 (N, S, S, 3), answers, owning study."""

    canvases: np.ndarray
    answers: list[str]
    owner: np.ndarray


class Network(nn.Module):
    """Grey images (N, 1, S, S) to the logits of K answers (N, K)."""

    def __init__(self, num_answers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for place, width in enumerate(WIDTHS):
            stride = 1 + (place % 2 == 0)
            layers += [
                nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.layers = nn.Sequential(*layers)
        self.answer = nn.Linear(2 * before, num_answers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify."""
        features = self.layers(pixels)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        logits: Tensor = self.answer(pooled)
        return logits


def main() -> None:
    """Print accuracy and AUC on the test patients, for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--dataset", default="busbra")
    parser.add_argument("--topic", default="pathology")
    parser.add_argument("--size", type=int, default=128, help="side of the images, pixels")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--most", type=int, default=2000, help="training images at most")
    parser.add_argument("--mirror", action="store_true", help="not where a text names a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        folder = Workspace.open(given.workspace).dataset(given.dataset).path
    except DataError as error:
        print(f"nothing to learn from: {error}")
        return
    train = read(folder, "train", given.topic, given.size, given.most)
    test = read(folder, "test", given.topic, given.size)
    names = sorted(set(train.answers))
    for seed in given.seeds:
        started = time.perf_counter()
        network = learn(train, names, given.epochs, seed, mirror=given.mirror)
        print(
            f"{given.topic}, seed {seed}: {judge(network, test, names)} "
            f"({len(train.answers)} images, {time.perf_counter() - started:.0f} s)",
            flush=True,
        )


def read(folder: Path, split: str, topic: str, size: int, most: int | None = None) -> Examples:
    """Decode the images that the question is about, at most `most` of them."""
    ids: list[str] = []
    answers: list[str] = []
    owner: list[int] = []
    for number, study in enumerate(iter_studies(folder, split=split)):
        for answer in answers_of(study, topic):
            shows = [image for image in study.images if image.labels.get("shows_finding") == "1"]
            chosen = [image.image_id for image in shows or study.images]
            ids += chosen
            answers += [answer] * len(chosen)
            owner += [number] * len(chosen)
    if not ids:
        raise SystemExit(f"no {split} study is asked about {topic!r}")
    ids, answers, owner = ids[:most], answers[:most], owner[:most]
    decoded = read_images(folder, ids)
    canvases = to_canvases([decoded[image_id][0] for image_id in ids], size)
    return Examples(canvases, answers, np.unique(owner, return_inverse=True)[1])


def answers_of(study: Study, topic: str) -> Iterator[str]:
    """The true answer to the question; nothing where it is not asked."""
    return (turn.answer for turn in study.turns if turn.topic == topic and turn.options)


def learn(
    train: Examples, names: Sequence[str], epochs: int, seed: int, *, mirror: bool
) -> Network:
    """Train from scratch: AdamW, one cycle of the learning rate."""
    torch.manual_seed(seed)
    network = Network(len(names))
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor([names.index(answer) for answer in train.answers])
    batch = min(32, len(truth))
    per_epoch = len(truth) // batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        order = torch.randperm(len(truth), generator=generator)
        for chosen in order[: per_epoch * batch].view(per_epoch, batch):
            pixels = normalise(train.canvases[chosen.numpy()])
            views, _ = random_views(pixels, generator, mirror=mirror)
            with matmul_precision("medium", "cpu"):
                loss = F.cross_entropy(network(views[:, :1].contiguous()), truth[chosen])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            rate.step()
    return network.eval()


@torch.no_grad()
def judge(network: Network, test: Examples, names: Sequence[str]) -> str:
    """Accuracy over studies, and AUC where there are two answers."""
    logs = torch.cat(
        [
            network(normalise(test.canvases[at : at + 64])[:, :1]).log_softmax(dim=1)
            for at in range(0, len(test.canvases), 64)
        ]
    ).numpy()
    mean = np.stack([np.bincount(test.owner, column) for column in logs.T], axis=1)
    mean /= np.bincount(test.owner)[:, None]
    first = np.unique(test.owner, return_index=True)[1]
    truth = np.array([names.index(test.answers[place]) for place in first])
    shown = f"{len(truth)} test studies, accuracy {accuracy_score(truth, mean.argmax(axis=1)):.3f}"
    if len(names) == 2:
        shown += f", AUC {roc_auc_score(truth, mean[:, 1] - mean[:, 0]):.3f}"
    return shown


if __name__ == "__main__":
    main()
