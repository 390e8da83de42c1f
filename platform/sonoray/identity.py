"""Keyed identities: who a patient is stays in the hospital, that two studies share one does not.

Ingest replaces every source identifier by an HMAC-SHA256 under a secret key, so that a dataset
can be shared without a table of names, and the same patient gets the same key at the next ingest.
A private source uses the secret of its workspace; a public one uses a published key, so that its
keys and splits are the same on every machine.

Splits follow from the patient key alone: a uniform number in [0, 1) from its hash falls into one
of three intervals. Adding patients therefore moves no other one, with one exception: patients whom
a shared image or a near duplicate links follow the smallest key of their group (`sonoray.ingest`),
so a newcomer who joins a group can move it.
"""

import hashlib
import hmac
import os
import secrets
import stat
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from sonoray.config import Config
from sonoray.errors import DataError
from sonoray.study import SPLITS
from sonoray.workspace import Workspace

_PUBLIC_SECRET = b"sonoray: published key of public data sets"
_SECRET_BYTES = 32
_LONGEST_SHIFT_DAYS = 3650


class SplitFractions(Config):
    """Share of the patients in each split; the three add up to 1."""

    train: float = Field(default=0.6, ge=0, le=1)
    """What the model learns from."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """What decisions during training look at."""
    test: float = Field(default=0.3, ge=0, le=1)
    """What the reported numbers come from."""

    @model_validator(mode="after")
    def _add_up(self) -> "SplitFractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test = {total:g}, they must add up to 1")
        return self


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
    def load(cls, workspace: Workspace, *, create: bool = True) -> "IdentityKey":
        """Read `identity.key` of the workspace; the first call creates it with mode 0600.

        Args:
            workspace: whose key it is.
            create: whether a key that is missing is made; one that only looks up makes none.

        Raises:
            DataError: others than the owner can read it, it is damaged, or missing and not made.
        """
        path = workspace.root / "identity.key"
        if not path.exists():
            if not create:
                raise DataError(
                    f"there is no identity key {str(path)!r}, under which the names were hashed; "
                    "restore it from a backup"
                )
            _create_secret(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise DataError(
                f"identity key {str(path)!r} has mode {mode:04o}, so others can read it; "
                f"run: chmod 600 {path}"
            )
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != _SECRET_BYTES:
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


def assign_split(patient_key: str, fractions: SplitFractions, seed: int = 0) -> str:
    """Return the split of a patient, one of `study.SPLITS`.

    Args:
        patient_key: as `IdentityKey.patient_key` gives it.
        fractions: width of the intervals.
        seed: another seed draws another partition.
    """
    digest = hashlib.sha256(f"split\0{seed}\0{patient_key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < fractions.train:
        return SPLITS[0]
    return SPLITS[1] if position < fractions.train + fractions.validation else SPLITS[2]


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
