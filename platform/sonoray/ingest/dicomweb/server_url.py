"""Where the server is and who is asking: a checked URL, credentials from the environment.

Credentials come from the environment alone and go into one request header; neither they nor the
header is ever written or printed. Over plain http they go to this machine only, unless the
configuration says otherwise. A URL that contains any is refused, because URLs are written down.
"""

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sonoray.errors import ConfigError

TOKEN_VARIABLE = "SONORAY_DICOMWEB_TOKEN"  # noqa: S105 - its name, not its value
"""Environment variable with a bearer token."""
USER_VARIABLE = "SONORAY_DICOMWEB_USER"
"""Environment variable with the user of HTTP Basic."""
PASSWORD_VARIABLE = "SONORAY_DICOMWEB_PASSWORD"  # noqa: S105 - its name, not its value
"""Environment variable with the password of HTTP Basic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A server, and what identifies us to it."""

    url: str
    """Base URL of the service, without a slash at the end."""
    authorization: str = field(default="", repr=False)
    """Value of the header; empty where nobody is named."""
    is_local: bool
    """Whether the server is this machine."""

    @property
    def server(self) -> str:
        """Scheme, host and port, for messages: a path may hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def read_address(
    url: str,
    *,
    credentials_over_http: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Address:
    """Check a URL and add the credentials of the environment.

    Args:
        url: base URL of the service, as `https://pacs.example.org/dicom-web`.
        credentials_over_http: whether they may go over plain http to another machine.
        environment: where credentials are looked for.

    Raises:
        ConfigError: the URL is none, or has credentials, a query or a fragment; the credentials
            are incomplete, contradict each other or would go over plain http.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not url.isascii():
        raise ConfigError(
            "the DICOMweb address is no http or https URL; give it like "
            "https://pacs.example.org/dicom-web"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the URL contains credentials, and URLs are written down; take them out and set "
            f"{USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            "the URL has a query or a fragment; give the service's base URL, and what to look for "
            "with --query KEY=VALUE"
        )
    is_local = _is_loopback(host)
    authorization = _read_authorization(environment)
    if authorization and parts.scheme == "http" and not (is_local or credentials_over_http):
        raise ConfigError(
            f"credentials would go to {host!r} over plain http; use https, or accept it with "
            "--set dicomweb.credentials_over_http=true"
        )
    return Address(url=url.rstrip("/"), authorization=authorization, is_local=is_local)


def _read_authorization(environment: Mapping[str, str]) -> str:
    token, user, password = (
        environment.get(name, "").strip()
        for name in (TOKEN_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE)
    )
    if token and (user or password):
        raise ConfigError(
            f"{TOKEN_VARIABLE} and {USER_VARIABLE} are both set; unset one, so that it is clear "
            "who is asking"
        )
    if bool(user) != bool(password):
        raise ConfigError(
            f"one of {USER_VARIABLE} and {PASSWORD_VARIABLE} is set without the other; set both"
        )
    if ":" in user or not token.isascii() or not (token + user + password).isprintable():
        raise ConfigError(
            f"{TOKEN_VARIABLE}, {USER_VARIABLE} or {PASSWORD_VARIABLE} has a character that HTTP "
            "does not allow there; check them for line breaks, and the user for a colon"
        )
    if user:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return f"Bearer {token}" if token else ""


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine. A name counts only if no resolver can move it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
