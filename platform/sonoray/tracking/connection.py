"""The way to an MLflow store: its default place, the first contact, and errors in one line.

MLflow's own patience does not suit a command line: a closed port costs four minutes (7 retries,
backoff 2, 120 s each) and an unreachable PostgreSQL most of an hour. So the first contact is made
with no retry and 4 s of patience (unless the environment asks for more), and a database server's
port is tried before SQLAlchemy is let loose on it. After that MLflow's own settings count.

The default store is SQLite in the workspace, in WAL mode, because two processes write to it: the
driver and Ray Train's controller (which Ray places on the driver's node, so one file serves both).
"""

import logging
import os
import re
import shlex
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sonoray.errors import TrackingAwayError, TrackingError
from sonoray.tracking.relocate import relocate_artifacts
from sonoray.workspace import Workspace

logger = logging.getLogger(__name__)

TRACKING_URI_VARIABLE = "MLFLOW_TRACKING_URI"

_CONTACT_TIMEOUT_S = 4
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"


def shown_uri(uri: str) -> str:
    """Return `uri` without user name and password, fit for messages and logs."""
    return re.sub(r"//[^/@\s]+@", "//***@", uri)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """An MLflow store that has answered, or one that is away and may come back."""

    uri: str = field(repr=False)
    """May hold a password; show `shown_uri(uri)`."""
    client: Any = field(repr=False)
    """The `mlflow.MlflowClient` for tracking and registry, which mypy cannot see; None of a store
    that is away."""
    artifact_root: Path | None
    """Folder for the artifacts of new experiments; None where a server decides."""

    def again(self) -> "Store":
        """The store itself, or where it was away another try to reach it.

        Raises:
            TrackingAwayError: it still is.
        """
        if self.client is not None:
            return self
        return connect(self.uri, artifact_root=self.artifact_root)

    @property
    def how_to_open(self) -> str:
        """What to type or visit to look at the runs."""
        uri = shown_uri(self.uri)
        if _is_server(self.uri):
            return uri
        # typed in a shell of its own, where nothing else keeps MLflow from reporting home
        return f"MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri {shlex.quote(uri)}"

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn the errors of MLflow and what lies below it into one line of `TrackingError`.

        Args:
            what: predicate of the message, as in `cannot register 'm'`.
        """
        with _translated(what, self.uri):
            yield


def open_store(workspace: Workspace, uri: str | None = None, *, may_be_away: bool = False) -> Store:
    """Open the store at `uri`, else `MLFLOW_TRACKING_URI`, else SQLite in the workspace.

    Args:
        workspace: holds the default store.
        uri: a server, a database or a SQLite file.
        may_be_away: whether a server that does not answer is returned as one that is away, with a
            warning, rather than refused.

    Raises:
        TrackingError: the store does not answer; within 10 s, naming it and the fix.
        DataError: it would be made in a workspace that does not exist.
    """
    own = f"{_SQLITE}{workspace.root / 'mlflow.db'}"
    uri = uri or os.environ.get(TRACKING_URI_VARIABLE) or own
    if uri == own:
        workspace.require()
    artifacts = workspace.root / "artifacts"
    try:
        store = connect(uri, artifact_root=artifacts)
    except TrackingAwayError as error:
        if not may_be_away:
            raise
        logger.warning("%s", error)
        return Store(uri=uri, client=None, artifact_root=None if _is_server(uri) else artifacts)
    if uri == own:
        with store.guard("cannot be brought to where its workspace lies now"):
            moved = relocate_artifacts(workspace.root / "mlflow.db", artifacts)
        if moved:
            logger.warning(
                "the workspace was moved to %s: %d entries of its MLflow store now name that "
                "place; if it is a copy, the first one keeps its own",
                workspace.root,
                moved,
            )
    return store


def connect(uri: str, *, artifact_root: Path | None = None) -> Store:
    """Open an MLflow store, creating a SQLite one where needed, and make sure that it answers.

    Args:
        uri: a server, a database or a SQLite file.
        artifact_root: folder for the artifacts of new experiments, where no server decides.

    Raises:
        TrackingError: the store is down, refuses us or is no MLflow store; within 10 s.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with _translated("cannot be used", uri), impatient(_CONTACT_TIMEOUT_S):
        _probe(uri)
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow"):  # INFO lines at every new SQLite file
            logging.getLogger(chatty).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return Store(uri=uri, client=client, artifact_root=None if _is_server(uri) else artifact_root)


@contextmanager
def impatient(timeout_s: int) -> Iterator[None]:
    """Let MLflow's HTTP calls in the block fail after one try, unless the environment says more."""
    patience = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
    }
    added = {name: value for name, value in patience.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _translated(what: str, uri: str) -> Iterator[None]:
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        if not _is_expected(error):
            raise
        kind = TrackingAwayError if _is_away(error, uri) else TrackingError
        raise kind(
            f"MLflow store {shown_uri(uri)!r} {what}: {shown_uri(_reason(error))}; {_fix(uri)}"
        ) from error


def _is_expected(error: Exception) -> bool:
    """Errors of the store and the way to it; anything else is our own bug."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    kinds = MlflowException | RequestException | SQLAlchemyError | sqlite3.Error
    return isinstance(error, kinds | OSError | ModuleNotFoundError)


def _is_away(error: BaseException, uri: str) -> bool:
    """Whether the way to a server, or the server for a while, is what failed."""
    if uri.startswith(_SQLITE):
        return False
    code = getattr(error, "error_code", "")
    return code == "TEMPORARILY_UNAVAILABLE" or isinstance(_root(error), OSError)


def _root(error: BaseException) -> BaseException:
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _reason(error: BaseException) -> str:
    """One line: the system's word where the network or the disk failed, else MLflow's own."""
    root = _root(error)
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    if isinstance(root, ModuleNotFoundError):  # the driver of a database that is named directly
        return f"{root}, name an MLflow server instead of its database"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _fix(uri: str) -> str:
    if uri.startswith(_SQLITE):
        return (
            "the file must be an MLflow store of this version (mlflow db upgrade) on a local, "
            "writable disk; move it away to start a new one"
        )
    return (
        f"start the server or correct {TRACKING_URI_VARIABLE}; unset it to use the workspace's "
        "own store"
    )


def _is_server(uri: str) -> bool:
    """Tell whether `uri` names an MLflow server, which then decides where artifacts lie."""
    return urlsplit(uri).scheme in {"http", "https"}


def _probe(uri: str) -> None:
    parts = urlsplit(uri)
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE))
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_CONTACT_TIMEOUT_S)) as database:
            database.execute("PRAGMA journal_mode=WAL")  # kept in the file; readers do not block
    elif parts.hostname and not _is_server(uri):
        port = parts.port or _DATABASE_PORTS.get(parts.scheme.partition("+")[0], 0)
        socket.create_connection((parts.hostname, port), timeout=_CONTACT_TIMEOUT_S).close()
