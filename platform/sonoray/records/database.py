"""The database of what a service keeps: SQLite in a file, or PostgreSQL by URL.

SQLAlchemy is imported inside functions, since the command line reaches this module.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine, MetaData

SQLITE = "sqlite:///"
BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for another writer."""

CONNECT_TIMEOUT_S = 5
"""How long a PostgreSQL may take to let somebody in: a host that is silent answers nobody ever."""

SILENCE_TIMEOUT_S = 20
"""How long a PostgreSQL may leave unacknowledged what it was sent."""


def read_url(place: str) -> "URL":
    """The URL of a database: what is no URL is the path of a SQLite file.

    Raises:
        DataError: it is none, or of a kind that is not known; nothing is connected to.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    own = "://" in place
    try:
        url = make_url(place if own else f"{SQLITE}{Path(place).expanduser().resolve()}")
        url.get_dialect()
    except ArgumentError:
        raise DataError(
            f"{place.partition('://')[0]}://... is no database URL; write a path, or "
            "postgresql://USER@HOST/DATABASE"
        ) from None
    return url


def open_database(place: str, tables: "MetaData", *, create: bool = True) -> "Engine":
    """Connect, and make the tables that are not there.

    A SQLite file is made readable by its owner alone: what people say of patients is in it.

    Args:
        place: a path, or a SQLAlchemy URL.
        tables: what it should have.
        create: whether a file that is not there is made.

    Raises:
        DataError: it cannot be opened; no message shows a password.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import (
        IntegrityError,
        OperationalError,
        ProgrammingError,
        SQLAlchemyError,
    )

    url = read_url(place)
    told = url.render_as_string(hide_password=True)
    try:
        if url.get_backend_name() == "sqlite":
            _make_file(Path(url.database or ""), create=create)
        engine = create_engine(
            url, connect_args=_waits(url), pool_pre_ping=True, hide_parameters=True
        )
        try:
            tables.create_all(engine)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if isinstance(error, OperationalError) and url.get_backend_name() != "sqlite":
                raise  # nobody is there
            tables.create_all(engine)  # another replica has just made them
    except (SQLAlchemyError, ImportError) as error:
        raise DataError(
            f"database {told!r} cannot be used ({type(error).__name__}); check that it is there "
            "and lets this user make tables"
        ) from None
    return engine


def _waits(url: "URL") -> dict[str, float]:
    """How long the driver waits, in its own words."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": BUSY_TIMEOUT_S}
    if url.get_backend_name() == "postgresql":
        silence_ms = 1_000 * SILENCE_TIMEOUT_S
        return {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": silence_ms}
    return {}


def _make_file(path: Path, *, create: bool) -> None:
    if not create and not path.is_file():
        raise DataError(f"there is no database {str(path)!r}; check the path")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DataError(
            f"database {str(path)!r} cannot be written ({error.strerror}); check the folder"
        ) from None
