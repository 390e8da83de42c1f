"""Aliases of registered models: which version is `champion`, which one was before, the way back.

An alias moves here and nowhere else. The versions that it named, in their order, stand in a tag of
the registered model, because MLflow keeps no history of an alias. The tag is written before the
alias: a process that dies between the two leaves an alias that the tag does not end in, which
`previous_version` reads as any move that somebody made in MLflow's own pages.
"""

import json
import re

from sonoray.errors import TrackingError
from sonoray.tracking.connection import Store
from sonoray.tracking.registry import RegisteredVersion, find_version

CHAMPION = "champion"
"""The alias that `sonoray serve` takes where nothing else is named."""

_HISTORY_TAG = "sonoray.history"
_LONGEST_HISTORY = 200
"""Versions that the tag keeps; MLflow takes 5,000 characters."""
_ALIAS = re.compile(r"[\w\-]+")


def aliased_version(store: Store, name: str, alias: str) -> RegisteredVersion | None:
    """Return the version that an alias names now; None where it names none.

    Raises:
        TrackingError: the store fails, or the version was not registered by sonoray.
    """
    number = _aliases(store, name).get(alias)
    return None if number is None else find_version(store, f"models:/{name}/{number}")


def move_alias(store: Store, version: RegisteredVersion, alias: str) -> None:
    """Let an alias name a version, and remember the one that it named before.

    Raises:
        TrackingError: the alias is not allowed, or the store fails.
    """
    check_alias(alias)
    current = _aliases(store, version.name).get(alias)
    history = _history(store, version.name, alias)
    if current is not None and history[-1:] != [current]:
        history.append(current)  # moved by hand meanwhile
    if history[-1:] != [version.version]:
        history.append(version.version)
    _write(store, version.name, alias, history)


def take_back(store: Store, name: str, alias: str) -> tuple[RegisteredVersion, RegisteredVersion]:
    """Let an alias name the version that it named before.

    Returns:
        The version that it named, and the one that it names now.

    Raises:
        TrackingError: there is no such model or alias, it never named another version, that one was
            deleted, or the store fails.
    """
    current = aliased_version(store, name, alias)
    if current is None:
        raise TrackingError(
            f"model {name!r} has no alias {alias!r}, so nothing can be taken back; set one with: "
            f"sonoray promote models:/{name}/VERSION --alias {alias}"
        )
    before = previous_version(store, current, alias)
    history = _history(store, name, alias)
    if history[-1:] == [current.version]:
        history.pop()
    _write(store, name, alias, history)
    return current, before


def previous_version(store: Store, current: RegisteredVersion, alias: str) -> RegisteredVersion:
    """Return the version that an alias named before `current`, which it names now.

    Raises:
        TrackingError: there was none, or it was deleted.
    """
    history = _history(store, current.name, alias)
    if history[-1:] == [current.version]:
        history.pop()
    if not history:
        raise TrackingError(
            f"{alias!r} of model {current.name!r} named no version before {current.version}; name "
            f"one with: sonoray promote models:/{current.name}/VERSION --alias {alias}"
        )
    return find_version(store, f"models:/{current.name}/{history[-1]}")


def check_alias(alias: str) -> None:
    """Make sure that an alias may be set.

    Raises:
        TrackingError: it may not; MLflow takes `v1` for a version and reserves `latest`.
    """
    if not _ALIAS.fullmatch(alias) or re.fullmatch(r"[vV]\d+|latest", alias):
        raise TrackingError(
            f"alias {alias!r} must consist of letters, digits, '_' and '-', and be neither "
            "'latest' nor a version such as 'v1'"
        )


def _aliases(store: Store, name: str) -> dict[str, int]:
    model = _registered(store, name)
    return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}


def _history(store: Store, name: str, alias: str) -> list[int]:
    model = _registered(store, name)
    text = None if model is None else model.tags.get(f"{_HISTORY_TAG}.{alias}")
    return [int(number) for number in json.loads(text)] if text else []


def _registered(store: Store, name: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - MLflow
    from mlflow.exceptions import MlflowException

    with store.guard(f"cannot look up the model {name!r}"):
        try:
            return store.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None


def _write(store: Store, name: str, alias: str, history: list[int]) -> None:
    kept = history[-_LONGEST_HISTORY:]
    with store.guard(f"cannot let {alias!r} of {name!r} name version {kept[-1]}"):
        store.client.set_registered_model_tag(name, f"{_HISTORY_TAG}.{alias}", json.dumps(kept))
        store.client.set_registered_model_alias(name, alias, str(kept[-1]))
