"""How often the attention score, told a study's whole text, finds an image that shows the finding.

Run after `sonoray train` or `sonoray ablate`, with their options:
`.venv/bin/python bench/attention_hits.py --config evidence --seed 0 --seed 1 --seed 2`

In training the attention score reads question and answer and teaches the feature score, which needs
no text. `sonoray evaluate` says how often it is right when told one question's answer; here it is
told the longest text of the study (the report), the most that it can know. Beside it the feature
score of the same model. A pick of the test split counts as in an evaluation
(`sonoray.metrics.picks`). Figures in docs/results.md; one core, 10 seconds a model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llava_ultra.batch import collate_features, collate_texts
from llava_ultra.config import SamplingConfig, images_kept
from sonoray.metrics import Bootstrap
from sonoray.metrics.picks import Pick, hit_rate
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.parallel import place
from sonoray_jobs.evaluation.answer import showing_of
from sonoray_jobs.outputs.find import find_made, open_stores
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
        num_judged = sum(pick.is_judged for pick in attention)
        print(f"seed {seed} (run {run_id}): {rates} of {num_judged} studies", flush=True)


def share(picks: list[Pick]) -> str:
    """The share of the judged picks that show the finding, to three digits."""
    rate = hit_rate(picks, Bootstrap())
    return "-" if rate is None else f"{rate.value:.3f}"


def hit_rates(
    workspace: Workspace, road: RoadConfig, dataset: str
) -> tuple[str, list[Pick], list[Pick]]:
    """The training's run, and each study's pick by both scores."""
    made = find_made(workspace, road, dataset)
    model, language = load_trained(made.located)
    model.eval()
    stores = open_stores(workspace, road, dataset)
    folder = workspace.dataset(dataset).path
    reader = FeatureReader(FeatureSource(dataset=folder, stores=stores))
    studies = list(iter_studies(folder, split="test"))
    attention: list[Pick] = []
    feature: list[Pick] = []
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
            tokens = model.fuse_studies(visual)
            told = model.sampler.attention_scores(
                tokens, visual.image_mask, text.study_index, model.embed(text.ids), text.mask
            )
            alone = model.sampler.feature_scores(tokens)
        alone = alone.masked_fill(~visual.image_mask, -torch.inf)
        attention += picks_of(batch, told, road.model.sampling)
        feature += picks_of(batch, alone, road.model.sampling)
    return made.trained.run_id, attention, feature


def picks_of(studies: Sequence[Study], scores: Tensor, sampling: SamplingConfig) -> list[Pick]:
    """The pick of each of N studies by scores (N, K)."""
    best = scores.argmax(dim=1).tolist()
    return [
        Pick(
            patient_key=study.patient_key,
            showing=showing_of(study),
            num_seen=images_kept(sampling, len(study.images)),
            first=position,
        )
        for study, position in zip(studies, best, strict=True)
    ]


if __name__ == "__main__":
    main()
