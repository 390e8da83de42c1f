"""Keyed identities: who a patient is stays in the hospital, that two studies share one does not.

Ingest replaces every source identifier by an HMAC-SHA256 under a secret key, so that a dataset
can be shared without a table of names, and the same patient gets the same key at the next ingest.
A private source uses the secret of its workspace; a public one uses a published key, so that its
keys and splits are the same on every machine.
"""

import hashlib
import hmac
import os
import secrets
import stat
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.errors import DataError

if TYPE_CHECKING:
    from sonoray.workspace import Workspace

KEY_FILE_VARIABLE = "SONORAY_IDENTITY_KEY_FILE"

_PUBLIC_SECRET = b"sonoray: published key of public data sets"
_SECRET_BYTES = 32
_LONGEST_SHIFT_DAYS = 3650


def parse_secret(text: bytes) -> bytes | None:
    """The secret of an identity key's file, or None where it is not 32 bytes in hex."""
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        return None
    return secret if len(secret) == _SECRET_BYTES else None


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """The secret under which source identifiers are hashed."""

    secret: bytes = field(repr=False)
    is_public: bool = False

    @classmethod
    def public(cls) -> "IdentityKey":
        """Return the published key, for data sets whose identifiers are no secret."""
        return cls(_PUBLIC_SECRET, is_public=True)

    @classmethod
    def load(cls, workspace: "Workspace", *, create: bool = True) -> "IdentityKey":
        """Read `identity.key` of the workspace; the first call creates it with mode 0600.

        Where `SONORAY_IDENTITY_KEY_FILE` names a file, as a mounted Secret, that one is read and
        none is ever made: the group of a Pod may then read it, others may not.

        Args:
            workspace: whose key it is.
            create: whether a key that is missing is made; one that only looks up makes none.

        Raises:
            DataError: others than the owner can read it, it is damaged, or missing and not made.
        """
        outside = os.environ.get(KEY_FILE_VARIABLE)
        path = Path(outside) if outside else workspace.root / "identity.key"
        if not path.exists():
            if outside:
                raise DataError(
                    f"{KEY_FILE_VARIABLE} names {outside!r}, which is not there; mount the key, or "
                    "unset the variable for the workspace's own"
                )
            if not create:
                raise DataError(
                    f"there is no identity key {str(path)!r}, under which the names were hashed; "
                    "restore it from a backup"
                )
            _create_secret(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (0o027 if outside else 0o077):
            raise DataError(
                f"identity key {str(path)!r} has mode {mode:04o}, so others can read it; "
                f"run: chmod 600 {path}"
            )
        secret = parse_secret(path.read_bytes())
        if secret is None:
            raise DataError(
                f"identity key {str(path)!r} is not {_SECRET_BYTES} bytes in hex; restore it from "
                "a backup (a new key would give every patient a new identity)"
            )
        return cls(secret)

    @property
    def fingerprint(self) -> str:
        """What tells two keys apart without giving either away, for the stage key."""
        return self._hash("fingerprint", "")

    def patient_key(self, source_id: str) -> str:
        """Key of a patient, 64 hex digits; `source_id` is the source's own identifier."""
        return self._hash("patient", source_id)

    def study_id(self, source_id: str) -> str:
        """Identifier of a study, 64 hex digits."""
        return self._hash("study", source_id)

    def source_ref(self, ref: str) -> str:
        """What is stored as the origin of an item: `ref` itself only under the published key."""
        return ref if self.is_public else self._hash("ref", ref)

    def date_shift_days(self, source_id: str) -> int:
        """By how many days a patient's dates move back, 1 to 3,650: the same for all of them."""
        return 1 + int(self._hash("dates", source_id), 16) % _LONGEST_SHIFT_DAYS

    def _hash(self, kind: str, value: str) -> str:
        return hmac.new(self.secret, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()


def _create_secret(path: Path) -> None:
    """Create the key file whole or not at all, once, whoever else is trying."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_SECRET_BYTES) + "\n")
        path.hardlink_to(partial)
    except FileExistsError:  # another process made it first: its key counts
        pass
    finally:
        partial.unlink()
