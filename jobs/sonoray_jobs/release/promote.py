"""Promote and roll back: which version of a registered model an alias names.

`sonoray export` registers versions and leaves the alias `champion` where it is, so that a training
of five steps displaces nobody. `promote` moves an alias through the gates (`release.gates`), `roll
back` moves it to the version before. What was found stands at the version in MLflow: the gates,
and the reason of whoever overruled one.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sonoray.errors import CheckpointError
from sonoray.metrics import Bootstrap
from sonoray.workspace import Workspace
from sonoray_jobs.release.gates import Gate, check_gates
from sonoray_jobs.road.config import RoadConfig

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store
    from sonoray.tracking.registry import RegisteredVersion

_LONGEST_NOTE = 3000
"""Characters of what the gates found and of a reason, each; MLflow takes 8,000 in a tag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What became of an alias."""

    uri: str
    """The version that was asked for."""
    alias: str
    before: int | None
    """The version that the alias named; None where it named none."""
    moved: bool
    gates: Sequence[Gate]
    despite: str = ""
    """Why a gate was overruled."""

    @property
    def exit_code(self) -> int:
        """1 where a gate stopped it."""
        return 0 if self.moved or not self.gates else 1

    def lines(self) -> list[str]:
        """What a person reads."""
        if not self.gates:
            return [f"{self.uri} has the alias {self.alias} already"]
        width = max(len(gate.name) for gate in self.gates)
        rows = [
            f"{'passed' if gate.passed else 'FAILED'}  {gate.name:{width}}  {gate.told}"
            for gate in self.gates
        ]
        before = "none" if self.before is None else f"version {self.before}"
        if self.moved:
            reason = f", despite: {self.despite}" if self.despite else ""
            rows.append(f"{self.alias} names {self.uri} now, before it named {before}{reason}")
            if self.before is not None:
                name = self.uri.removeprefix("models:/").rpartition("/")[0]
                rows.append(f"back: sonoray rollback {name} --alias {self.alias}")
            return rows
        rows.append(f"{self.alias} stays at {before}")
        if all(gate.passed or not gate.is_technical for gate in self.gates):
            rows.append('to move it all the same, say why: --despite "REASON"; MLflow keeps it')
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "uri": self.uri,
            "alias": self.alias,
            "before": self.before,
            "moved": self.moved,
            "gates": [gate.to_json() for gate in self.gates],
            "despite": self.despite,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack:
    """An alias that went back."""

    name: str
    alias: str
    before: int
    now: int

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"{self.alias} of {self.name} names version {self.now} again, before it named "
            f"{self.before}; a running service follows within seconds where serve.max_models is "
            "above 1, else it keeps its model until it is restarted"
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"name": self.name, "alias": self.alias, "before": self.before, "now": self.now}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    model: str,
    alias: str,
    despite: str = "",
    tracking_uri: str | None = None,
) -> Promoted:
    """Let an alias name a version, where the version passes the gates.

    Args:
        workspace: holds MLflow's default store and downloaded models.
        road: its section `promote`, and the bootstrap of `evaluate`.
        model: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        alias: what to move.
        despite: why gates that did not pass are overruled; a model that cannot be loaded never is.
        tracking_uri: MLflow's store, by default the configured one.

    Raises:
        TrackingError: MLflow cannot be reached, or knows no such version.
    """
    from sonoray.tracking.aliases import aliased_version, check_alias, move_alias
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.registry import find_version

    check_alias(alias)
    store = open_store(workspace, tracking_uri)
    version = find_version(store, model)
    current = aliased_version(store, version.name, alias)
    before = None if current is None else current.version
    if before == version.version:
        return Promoted(uri=version.uri, alias=alias, before=before, moved=False, gates=())
    settings = road.evaluate
    gates = check_gates(
        store,
        workspace,
        version,
        current,
        margin=road.promote.margin,
        bootstrap=Bootstrap(num_resamples=settings.bootstrap_samples, seed=settings.seed),
    )
    failed = [gate for gate in gates if not gate.passed]
    moved = not failed or (bool(despite) and not any(gate.is_technical for gate in failed))
    if moved:
        _note(store, version, alias, gates, despite if failed else "")
        move_alias(store, version, alias)
    return Promoted(
        uri=version.uri,
        alias=alias,
        before=before,
        moved=moved,
        gates=gates,
        despite=despite if failed and moved else "",
    )


def roll_back(
    *,
    workspace: Workspace,
    name: str,
    alias: str,
    tracking_uri: str | None = None,
) -> RolledBack:
    """Let an alias name the version that it named before.

    Raises:
        TrackingError: MLflow cannot be reached, or there is no version to go back to.
        CheckpointError: the version before lost its files.
    """
    from sonoray.tracking.aliases import aliased_version, check_alias, previous_version, take_back
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.registry import resolve_model

    check_alias(alias)
    store = open_store(workspace, tracking_uri)
    current = aliased_version(store, name, alias)
    if current is not None:
        before = previous_version(store, current, alias)
        try:
            resolve_model(store, before.uri, workspace.models)
        except CheckpointError as error:
            raise CheckpointError(
                f"{alias} of {name!r} stays at version {current.version}: {error}"
            ) from None
    left, now = take_back(store, name, alias)
    return RolledBack(name=name, alias=alias, before=left.version, now=now.version)


def _note(
    store: "Store", version: "RegisteredVersion", alias: str, gates: Sequence[Gate], despite: str
) -> None:
    """Leave at the version what the gates found, and who passed them when."""
    from getpass import getuser

    told = "; ".join(
        f"{gate.name} {'passed' if gate.passed else 'FAILED'}: {gate.told}" for gate in gates
    )
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found = {"at": when, "by": getuser(), "gates": told[:_LONGEST_NOTE]}
    found |= {"despite": despite[:_LONGEST_NOTE]} if despite else {}
    text = json.dumps(found, ensure_ascii=False)
    with store.guard(f"cannot note the promotion of {version.uri}"):
        store.client.set_model_version_tag(
            version.name, str(version.version), f"sonoray.promoted.{alias}", text
        )
