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
from collections.abc import Iterable
from pathlib import Path

from sonoray.errors import ConfigError

MIN_KEY_CHARS = 16
"""Shortest key that is accepted: 16 random base64 characters are 96 bits."""

_KEY_PATTERN = re.compile(r"[!-~]+")
"""Visible ASCII, which is what a bearer token can carry."""


def digest_key(key: str) -> str:
    """Sha256 (hex) of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Read a key file: one key per line, blank lines and `#` lines ignored.

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
    keys: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < MIN_KEY_CHARS or not _KEY_PATTERN.fullmatch(key):
            raise ConfigError(
                f"API key file {str(path)!r}, line {number}: a key of {len(key)} characters; it "
                f"needs at least {MIN_KEY_CHARS} visible ASCII characters without blanks, "
                "as from: openssl rand -hex 32"
            )
        keys.append(key)
    if not keys:
        raise ConfigError(
            f"API key file {str(path)!r} holds no key; write one per line, "
            "as from: openssl rand -hex 32"
        )
    return tuple(keys)


def is_admitted(authorization: str | None, digests: Iterable[str]) -> bool:
    """Whether an Authorization header carries one of the keys.

    Every digest is compared, each in constant time, so the answer's timing tells nothing of which
    key came near.

    Args:
        authorization: the header's value, `Bearer <key>`.
        digests: sha256 (hex) of the admitted keys.
    """
    scheme, _, key = (authorization or "").partition(" ")
    presented = digest_key(key.strip())
    matches = [hmac.compare_digest(presented, digest) for digest in digests]
    return scheme.lower() == "bearer" and any(matches)


def is_loopback(host: str) -> bool:
    """Whether a listening address is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
