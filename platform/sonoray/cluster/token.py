"""The token of a Ray cluster: sent where one is configured, kept where its owner alone reads it."""

import contextlib
import os
import secrets
from pathlib import Path

from sonoray.errors import ClusterError


def token_path() -> Path:
    """Where Ray looks for the cluster's token: `RAY_AUTH_TOKEN_PATH` or ~/.ray/auth_token."""
    configured = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(configured) if configured else Path.home() / ".ray" / "auth_token"


def use_configured_token() -> None:
    """Turn token authentication on where a token is configured; call it before importing ray.

    Ray reads the mode when it is imported, and by itself sends no token to an address that it was
    given, even if RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is set.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def ensure_token_file() -> None:
    """Make Ray's token file, readable by its owner only, before Ray makes it readable by all.

    Raises:
        ClusterError: the file cannot be written.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    path = token_path()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch(mode=0o600)
            partial.write_text(secrets.token_hex(32), encoding="ascii")
            with contextlib.suppress(FileExistsError):  # another session was first: share its token
                os.link(partial, path)
            partial.unlink()
        if "RAY_AUTH_TOKEN_PATH" not in os.environ and path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise ClusterError(
            f"Ray's token file {str(path)!r} cannot be written ({error.strerror}); make it "
            "writable, or set RAY_AUTH_TOKEN_PATH to a file of mode 0600"
        ) from None
