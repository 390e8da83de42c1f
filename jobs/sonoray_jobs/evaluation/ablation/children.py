"""The children of an ablation: what each trains and answers, what they share, what is done of it.

A child is one variant with one seed in one setting. Its work are the road's own content-addressed
jobs, so what is done is read from the workspace and nowhere else, and children of different
ablations that have the same configuration are the same training.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sonoray.config.canonical import canonical_json
from sonoray.errors import DataError
from sonoray.ingest.run import ingest, stage_of_dataset
from sonoray.ingest.source_options import NO_OPTIONS
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.stages import StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import Ablation, Setting, with_values
from sonoray_jobs.outputs.find import Trained, find_evaluation, find_training, open_stores
from sonoray_jobs.outputs.stores import read_image_ids
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap, embed

_ORIGIN = {"source": "phantom", **NO_OPTIONS.to_json()}
"""As `sonoray ingest phantom` records it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """One training and its evaluations."""

    setting: str
    variant: str
    seed: int
    dataset: str
    is_generated: bool
    """Whether the dataset is made here; others must have been ingested."""
    road: RoadConfig
    tests: Mapping[str, RoadConfig]
    """The road of each evaluation, by the test's name."""
    split: str
    """Whose studies every evaluation asks about."""

    @property
    def label(self) -> str:
        """What it is called, once in an ablation."""
        return ", ".join(filter(None, [self.setting, self.variant, f"seed {self.seed}"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What children with the same data and towers need first."""

    dataset: str
    road: RoadConfig
    is_generated: bool
    """Whether the dataset is made here; others must have been ingested."""
    embeds: bool = True
    """False where only the towers are wanted."""

    @property
    def key(self) -> str:
        """Equal for all children that share it."""
        model = self.road.model
        parts = [model.clip, model.sam, model.language, self.road.bootstrap, self.road.embed]
        parts += model.towers
        return canonical_json([self.dataset, *(part.model_dump(mode="json") for part in parts)])

    def prepare(self, workspace: Workspace, address: str | None) -> Iterator[str]:
        """Make what is missing, and yield lines that say what was done.

        Raises:
            SonoError: what the failing job raises.
        """
        common = {
            "workspace": workspace,
            "road": self.road,
            "dataset": self.dataset,
            "address": address,
        }
        if self.is_generated:
            self._check_free(workspace)
            output = ingest(self._source(), workspace, self.road.ingest, origin=_ORIGIN)
            yield f"dataset {self.dataset} ({'unchanged' if output.reused else 'made'})"
        yield from bootstrap.run(**common).lines()  # type: ignore[arg-type]
        if self.embeds:
            yield from embed.run(**common).lines()  # type: ignore[arg-type]

    def status(self, workspace: Workspace) -> str:
        """Say what of it is done."""
        dataset = self.find_dataset(workspace)
        if dataset is None:
            return "to do: ingest, bootstrap" + ", embed" * self.embeds
        try:
            stores = open_stores(workspace, self.road, self.dataset)
        except DataError:
            return "to do: bootstrap" + ", embed" * self.embeds
        if not self.embeds:
            return "done"
        image_ids = read_image_ids(dataset.path)
        kept = [store for tower, store in stores.items() if self.road.embed.keeps(tower)]
        missing = max((len(store.missing(image_ids)) for store in kept), default=0)
        return f"to do: embed {missing} of {len(image_ids)} images" if missing else "done"

    def find_dataset(self, workspace: Workspace) -> StageOutput | None:
        """The dataset; None where it has to be generated.

        Raises:
            DataError: it is missing and cannot be generated, or its name is another dataset's.
        """
        if not self.is_generated:
            return workspace.dataset(self.dataset)
        self._check_free(workspace)
        wanted = stage_of_dataset(self._source(), workspace, self.road.ingest)
        try:
            found = workspace.dataset(self.dataset)
        except DataError:
            return None
        return found if found.key == wanted.key else None

    def _check_free(self, workspace: Workspace) -> None:
        """Refuse to generate over studies that were ingested."""
        taken = self.dataset in workspace.dataset_names()
        if taken and not workspace.is_synthetic(self.dataset):
            raise DataError(
                f"dataset {self.dataset!r} was ingested, and this ablation generates phantom "
                "studies under that name; ingest it under another one with --name"
            )

    def _source(self) -> PhantomSource:
        return PhantomSource(self.road.phantom, name=self.dataset)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a finished child left."""

    trained: Trained
    evaluations: Mapping[str, StageOutput]
    """By the test's name."""


def make_children(
    ablation: Ablation, road: RoadConfig, seeds: Sequence[int], split: str = "test"
) -> list[Child]:
    """All children, seed by seed, so that every variant has one result before any has two.

    Raises:
        ConfigError: a variant does not fit the road.
    """
    return [
        _make_child(ablation, setting, name, values, road, seed, split)
        for setting in ablation.settings
        for seed in seeds
        for name, values in ((each.name, each.values) for each in ablation.variants)
    ]


def _make_child(
    ablation: Ablation,
    setting: Setting,
    variant: str,
    values: Mapping[str, object],
    road: RoadConfig,
    seed: int,
    split: str,
) -> Child:
    own = with_values(road, {**setting.values, **values, "train.seed": seed})
    return Child(
        setting=setting.name,
        variant=variant,
        seed=seed,
        dataset=setting.dataset,
        is_generated=setting.is_generated,
        road=own,
        tests={test.name: with_values(own, test.values) for test in ablation.tests},
        split=split,
    )


def shared_towers(ablation: Ablation, road: RoadConfig) -> list[Shared]:
    """The towers that all settings share; none where each has its own."""
    if ablation.towers is None:
        return []
    own = with_values(road, ablation.towers.values)
    towers = ablation.towers
    return [
        Shared(dataset=towers.dataset, road=own, is_generated=towers.is_generated, embeds=False)
    ]


def shared_of(child: Child) -> Shared:
    """What a child needs before it can train."""
    return Shared(dataset=child.dataset, road=child.road, is_generated=child.is_generated)


def shared_by(children: Iterable[Child]) -> list[Shared]:
    """What the children need, each once."""
    return list({shared.key: shared for shared in map(shared_of, children)}.values())


def find_outcome(workspace: Workspace, child: Child) -> Outcome | None:
    """Return what a child left, None where some of it is missing."""
    trained = find_trained(workspace, child)
    if trained is None:
        return None
    found = {}
    for test, road in child.tests.items():
        try:
            found[test] = find_evaluation(workspace, road, child.dataset, trained, child.split)
        except DataError:
            return None
    return Outcome(trained=trained, evaluations=found)


def find_trained(workspace: Workspace, child: Child) -> Trained | None:
    """Return a child's finished training, None where it has none."""
    if shared_of(child).find_dataset(workspace) is None:
        return None
    try:
        return find_training(workspace, child.road, child.dataset)
    except DataError:
        return None


def status_of(workspace: Workspace, child: Child) -> str:
    """Say what of a child is done."""
    trained = find_trained(workspace, child)
    if trained is None:
        return "to train"
    done = find_outcome(workspace, child) is not None
    return f"{'done' if done else 'to evaluate'} ({trained.name})"
