"""A training's model, asked within a cap on calls."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from sonoray.study.contract import Study
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.opinion.prompts import Prompt, to_row
from sonoray_jobs.evaluation.opinion.true_or_false import OpinionActor
from sonoray_jobs.outputs.find import Made

Replies = list[Mapping[str, float]]
"""To the prompts about one study: scores by option."""


class AskedModel:
    """A training's model, asked within a cap."""

    def __init__(self, workspace: Workspace, made: Made, topic: str, address: str | None) -> None:
        """Ask nothing yet.

        Args:
            workspace: where features are stored.
            made: the training.
            topic: of the question.
            address: Ray cluster.
        """
        self.made = made
        self._workspace, self._address = workspace, address
        self._topic = topic
        self.num_calls = 0

    @property
    def left(self) -> int:
        """Calls that may still be made."""
        return self.made.road.opinion.calls - self.num_calls

    def ask(
        self, studies: Sequence[Study], prompts: Sequence[Sequence[Prompt]], what: str
    ) -> list[Replies]:
        """The replies to each study's prompts."""
        from sonoray_jobs.evaluation.answer_pool import answer_rows, features_of
        from sonoray_jobs.training.restore import load_trained

        total = sum(map(len, prompts))
        assert total <= self.left  # whoever asks has counted
        if not total:
            return [[] for _ in studies]
        self.num_calls += total
        road = self.made.road
        load = partial(load_trained, self.made.located, road.evaluate.precision)
        rows = answer_rows(
            [to_row(study, self._topic, own) for study, own in zip(studies, prompts, strict=True)],
            num_answers=len(studies),
            actor=OpinionActor,
            given={"load": load},
            trained_in=road.train.precision,
            settings=road.evaluate,
            features=features_of(self._workspace, self.made),
            address=self._address,
            what=what,
        )
        found = {row["study_id"]: json.loads(row["scores"]) for row in rows}
        return [found[study.study_id] for study in studies]
