"""Ingest: a source becomes a dataset of the workspace. Steps 1 and 2 of the road.

The stage holds what `sonoray.ingest.intake` makes of the source. Its key tells the source's files
by content and its code by what the source's own module runs. A source on a server is fetched first,
where the dataset is not there yet; rejects that may pass another time (`PASSING_REASONS`) are tried
again when asked.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sonoray.images.decode import PASSING_REASONS
from sonoray.ingest.ingest_config import INGEST_PLACEMENT, IngestConfig
from sonoray.ingest.intake import make_dataset
from sonoray.ingest.prepare import Preparation, PreparedStudy, prepare_all
from sonoray.ingest.sources.base import RemoteSource, Source
from sonoray.privacy.keys import IdentityKey
from sonoray.stages import Stage, StageOutput, find_tries, keep_equal, run_stage
from sonoray.workspace import Workspace

logger = logging.getLogger(__name__)

Spread = Callable[[Source, Preparation, Stage], Iterator[PreparedStudy]]
"""Prepares all studies of a source for a stage, and yields them in the source's order."""


def ingest(
    source: Source,
    workspace: Workspace,
    config: IngestConfig,
    *,
    origin: Mapping[str, Any] | None = None,
    again: bool = False,
    spread: Spread | None = None,
) -> StageOutput:
    """Bring a source into the workspace and let the dataset of its name point to the result.

    `origin` is what makes the same source again (see `Workspace.point_dataset`). With `again`, a
    dataset that stands already is made anew where it has rejects that may pass
    (`PASSING_REASONS`); it stays where that changes nothing. `spread` prepares the studies in other
    processes; without it they are prepared here.

    The manifest's summary holds `images` and `studies` (each an `Accounting`), `rows` (refused rows
    of tables), `splits` (patients, studies and images of each), `without_text` and
    `without_images` (kept studies that lack one half), `partly_read` (kept studies some of whose
    images could not be used), `remarks` (by `reason: detail`: what was decided about kept images
    and objects, see `RawImage.remarks`), `reasons` of the quarantine,
    `unique_images`, `masks`, `mask_conflicts` (copies of an image with another mask; the first one
    counts), `near_duplicates` (groups of several linked patients, patients in them) and `spellings`
    (the same, linked by their identifiers alone).

    Raises:
        DataError: the source cannot be read at all, or not one study of it can be kept.
        JobFailedError: a server that the source reads from is gone.
    """
    key = _key_of(source, workspace)
    tries = _tries(source, workspace, config)
    with contextlib.ExitStack() as stack:
        if isinstance(source, RemoteSource):
            is_needed = not tries[again].is_made(workspace.stages)
            spool = workspace.spool(source.name)
            stack.enter_context(source.fetched(spool, key, is_needed=is_needed))
            tries = _tries(source, workspace, config)  # now it knows what failed
        stage = tries[again]
        preparation = Preparation.of(source, key, config.images, config)

        def make(folder: Path) -> dict[str, Any]:
            studies = (
                prepare_all(source, preparation)
                if spread is None
                else spread(source, preparation, stage)
            )
            return make_dataset(folder, source, studies, config)

        output = run_stage(stage, workspace.stages, make)
        if again:
            output = keep_equal(tries[0], output)
        workspace.point_dataset(source.name, output, origin)
    return output


def stage_of_dataset(source: Source, workspace: Workspace, config: IngestConfig) -> Stage:
    """The stage that brings a source into the workspace; the last try of those that were made."""
    return _tries(source, workspace, config)[0]


def _tries(source: Source, workspace: Workspace, config: IngestConfig) -> tuple[Stage, Stage]:
    """The stage of the dataset, and that of another try where one may help."""
    first = Stage(
        name=f"ingest-{source.name}",
        config={
            "ingest": config.model_dump(mode="json", exclude=set(INGEST_PLACEMENT)),
            "source": source.config(),
        },
        inputs=[source.input_digest(), _key_of(source, workspace).fingerprint],
        code=["sonoray.ingest.intake", type(source).__module__],
    )
    return find_tries(
        first, workspace.stages, lambda summary: bool(PASSING_REASONS & set(summary["reasons"]))
    )


def _key_of(source: Source, workspace: Workspace) -> IdentityKey:
    return IdentityKey.public() if source.public else IdentityKey.load(workspace)
