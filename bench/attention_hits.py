"""How often the attention score, told a study's whole text, finds an image that shows the finding.

Run after `sonoray train` or `sonoray ablate`, with their options:
`.venv/bin/python bench/attention_hits.py --config evidence --seed 0 --seed 1 --seed 2`

In training the attention score reads question and answer and teaches the feature score, which needs
no text. `sonoray evaluate` says how often it is right when told one question's answer; here it is
told the longest text of the study (the report), the most that it can know. Beside it the feature
score of the same model. Studies that have images with and without the finding count, those of the
test split. Figures in docs/results.md; one core, 10 seconds a model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llava_ultra.batch import collate_features, collate_texts
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.parallel import place
from sonoray_jobs.outputs.find import find_training, locate, open_stores
from sonoray_jobs.road.config import RoadConfig, load_road
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource
from sonoray_jobs.training.restore import load_trained

BATCH = 16


def main() -> None:
    """Print both hit rates of each seed's model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--config", default="evidence")
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seed", action="append", type=int, help="training seeds; default 0")
    given = parser.parse_args()
    workspace = Workspace.open(given.workspace)
    for seed in given.seed or [0]:
        road = place(load_road(given.config, [*given.overrides, f"train.seed={seed}"]))
        run_id, attention, feature = hit_rates(workspace, road, given.dataset)
        rates = f"attention {share(attention)}, feature {share(feature)}"
        print(f"seed {seed} (run {run_id}): {rates} of {len(attention)} studies", flush=True)


def share(hits: list[bool]) -> str:
    """The share of True, to three digits."""
    return f"{sum(hits) / len(hits):.3f}"


def hit_rates(
    workspace: Workspace, road: RoadConfig, dataset: str
) -> tuple[str, list[bool], list[bool]]:
    """The training's run, and whether each study's pick shows the finding, by both scores."""
    trained = find_training(workspace, road, dataset)
    model, language = load_trained(locate(workspace, road, dataset, trained))
    model.eval()
    stores = open_stores(workspace, road, dataset)
    folder = workspace.dataset(dataset).path
    reader = FeatureReader(FeatureSource(dataset=folder, stores=stores))
    studies = [study for study in iter_studies(folder, split="test") if is_judged(study)]
    attention, feature = [], []
    for start in range(0, len(studies), BATCH):
        batch = studies[start : start + BATCH]
        visual = collate_features(reader.read_studies([study.images for study in batch]))
        texts = [max(study.turns, key=lambda turn: len(turn.answer)) for study in batch]
        text = collate_texts(
            language.tokenizer,
            [(row, turn.question, turn.answer) for row, turn in enumerate(texts)],
            max_tokens=road.model.language.context_length,
        )
        with torch.no_grad():
            tokens = model.fuse(visual.clip, visual.sam)
            told = model.sampler.attention_scores(
                tokens, visual.image_mask, text.study_index, model.embed(text.ids), text.mask
            )
            alone = model.sampler.feature_scores(tokens)
        alone = alone.masked_fill(~visual.image_mask, -torch.inf)
        attention += picks_show(batch, told)
        feature += picks_show(batch, alone)
    return trained.run_id, attention, feature


def picks_show(studies: Sequence[Study], scores: Tensor) -> list[bool]:
    """Whether the best image by scores (N, K) shows the finding, of each of N studies."""
    best = scores.argmax(dim=1).tolist()
    return [shows(study, position) for study, position in zip(studies, best, strict=True)]


def is_judged(study: Study) -> bool:
    """Whether some of its images, by their labels, show the finding."""
    return any(shows(study, position) for position in range(len(study.images)))


def shows(study: Study, position: int) -> bool:
    """Whether an image shows the finding."""
    return study.images[position].labels.get("shows_finding") == "1"


if __name__ == "__main__":
    main()
