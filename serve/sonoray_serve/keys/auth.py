"""API keys: read from a private file, kept as digests, compared in constant time.

The service never holds a key: the process that starts it reads the key file and hands on sha256
digests, so that no key stands in Ray's metadata, its dashboard or a Serve YAML. A plain sha256
suffices because keys are random and long; `MIN_KEY_CHARS` refuses those that could be guessed.
"""

import hashlib
import hmac
import ipaddress
import re
import stat
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from sonoray.errors import ConfigError
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import KeyTerms, Scope

MIN_KEY_CHARS = 16
"""Shortest key that is accepted: 16 random base64 characters are 96 bits."""

_SCOPES: tuple[tuple[str, Scope], ...] = (
    ("/v1/chat/", "chat"),
    ("/v1/completions", "chat"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/recognize", "chat"),
    ("/v1/feedback", "feedback"),
    ("/v1/reports", "reports"),
    ("/v1/models", "models"),
    ("/metrics", "metrics"),
)

_KEY_PATTERN = re.compile(r"[!-~]+")
"""Visible ASCII, which is what a bearer token can carry."""


def digest_key(key: str) -> str:
    """Sha256 (hex) of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Read the keys of a key file; see `read_key_file`."""
    return tuple(read_key_file(path))


def read_key_file(path: Path) -> dict[str, KeyTerms]:
    """Read a key file: one key per line with its terms, blank lines and `#` lines ignored.

    A line is `KEY`, or `KEY expires=2027-01-31 scopes=chat,models per_minute=60 at_once=4`.

    Raises:
        ConfigError: the file is missing, readable by others, empty, or holds a weak key. No
            message shows a key.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(
            f"API key file {str(path)!r} cannot be read ({error.strerror}); check --api-key-file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"API key file {str(path)!r} is not ASCII text; write one key per line"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"API key file {str(path)!r} is open to others (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {path}"
        )
    keys: dict[str, KeyTerms] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        key, *said = line.split()
        where = f"API key file {str(path)!r}, line {number}"
        if len(key) < MIN_KEY_CHARS or not _KEY_PATTERN.fullmatch(key):
            raise ConfigError(
                f"{where}: a key of {len(key)} characters; it "
                f"needs at least {MIN_KEY_CHARS} visible ASCII characters without blanks, "
                "as from: openssl rand -hex 32"
            )
        keys[key] = _read_terms(said, where)
    if not keys:
        raise ConfigError(
            f"API key file {str(path)!r} holds no key; write one per line, "
            "as from: openssl rand -hex 32"
        )
    return keys


def _read_terms(said: Sequence[str], where: str) -> KeyTerms:
    values: dict[str, Any] = {}
    for word in said:
        name, _, value = word.partition("=")
        values[name] = value.split(",") if name == "scopes" else value
    try:
        return KeyTerms.model_validate(values)
    except ValidationError:
        raise ConfigError(
            f"{where}: behind the key stand terms that are not understood; write "
            "expires=YYYY-MM-DD, per_minute=60, at_once=4, and scopes= with some of "
            f"{','.join(get_args(Scope))}"
        ) from None


def check_terms(terms: KeyTerms | None, path: str, today: date) -> None:
    """Hold a key to its terms.

    Raises:
        ApiError: 401 where it has expired, 403 where it does not open the path.
    """
    if terms is None:
        return
    if terms.expires is not None and today > terms.expires:
        raise ApiError(Problem.KEY_EXPIRED)
    if scope_of(path) not in terms.scopes:
        raise ApiError(Problem.KEY_SCOPE)


def scope_of(path: str) -> Scope:
    """What a path belongs to; one that is not there to `docs`, which tells what is."""
    for start, scope in _SCOPES:
        if path.startswith(start):
            return scope
    return "docs"


def is_admitted(authorization: str | None, digests: Iterable[str]) -> bool:
    """Whether an Authorization header carries one of the keys."""
    return find_key(authorization, digests) is not None


def find_key(authorization: str | None, digests: Iterable[str]) -> str | None:
    """The digest of the key that an Authorization header carries; None where it is none of them.

    Every digest is compared, each in constant time, so the answer's timing tells nothing of which
    key came near.

    Args:
        authorization: the header's value, `Bearer <key>`.
        digests: sha256 (hex) of the admitted keys.
    """
    scheme, _, key = (authorization or "").partition(" ")
    presented = digest_key(key.strip())
    matches = [hmac.compare_digest(presented, digest) for digest in digests]
    return presented if scheme.lower() == "bearer" and any(matches) else None


def is_loopback(host: str) -> bool:
    """Whether a listening address is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
