"""States of every layer under every instruction, and the towers beside them: the Ray Data actor.

A state is the decoder's behind the last token of the prompt: `<s> [images] <user> instruction </s>
<assistant>`, or that of an adopted model's template; without an instruction nothing stands between.
The sampler picks the images as for an answer. The towers' vector is the mean over a study's images
of what a linear probe sees of each.

Axes: I instructions, L layers with the embeddings as the first, D width, F pooled channels.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llava_ultra.batch import collate_features, collate_texts
from llava_ultra.decoding.prompt_states import question_states
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.student.network import pool_tokens
from sonoray.study.contract import Study
from sonoray.study.prompt import SITE_LABEL, with_site
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig

NONE = ""
"""The instruction that is none."""


class InstructedActor:
    """One model in one process: studies in, states out."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        instructions: Sequence[str],
        names_site: bool,
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Load the model.

        Args:
            load: returns it.
            instructions: what it is told, each by itself.
            names_site: whether the site stands in front of each, as in training.
            settings: how many tokens are read together.
            features: where the images' features come from.
            device: where the model runs.
            layers: those whose states are read; by default all.
        """
        self._model, self._language = load()
        self._model.fix()
        self._model.to(device)
        self._instructions = instructions
        self._layers = layers
        self._names_site = names_site
        self._max_tokens = settings.batch_tokens
        self._device = device
        self._features = FeatureReader(features)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return per study `states`, (I, L, D), and `clip` and `sam`, (F,), as bytes of float32."""
        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        features = self._features.read_studies([study.images for study in studies])
        visual = collate_features(features).to(self._device)
        tokens = self._model.fuse_studies(visual)
        scores = self._model.sampler.feature_scores(tokens, [study.study_id for study in studies])
        text = collate_texts(
            self._language.tokenizer,
            [
                (at, self.texts(instruction, study), "")
                for at, study in enumerate(studies)
                for instruction in self._instructions
            ],
            max_tokens=self._model.config.language.context_length,
        ).without_answers()
        states = question_states(
            self._model,
            tokens,
            visual.image_mask,
            text,
            scores,
            layers=self._layers,
            max_tokens=self._max_tokens,
        )
        by_study = states.reshape(len(studies), len(self._instructions), *states.shape[1:])
        pooled = {
            tower: [pool_tokens(getattr(each, tower)).mean(axis=0).tobytes() for each in features]
            for tower in ("clip", "sam")
        }
        return {
            "study_id": [study.study_id for study in studies],
            "states": [each.tobytes() for each in by_study.numpy()],
            "num_layers": [states.shape[1]] * len(studies),
            **pooled,
        }

    def texts(self, instruction: str, study: Study) -> tuple[str, ...]:
        """What is said about a study, by user and assistant in turn; the instruction comes last."""
        site = study.labels.get(SITE_LABEL, "")
        return (with_site(instruction, site) if self._names_site and site else instruction,)


def arrange(
    rows: Sequence[dict[str, Any]], studies: Sequence[Study], num_instructions: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the actors returned, in any order, as (S, I, L, D) and by tower (S, F)."""
    found = {row["study_id"]: row for row in rows}
    own = [found[study.study_id] for study in studies]
    states = np.stack(
        [
            np.frombuffer(row["states"], np.float32).reshape(
                num_instructions, row["num_layers"], -1
            )
            for row in own
        ]
    )
    towers = {
        tower: np.stack([np.frombuffer(row[tower], np.float32) for row in own])
        for tower in ("clip", "sam")
    }
    return states, towers
