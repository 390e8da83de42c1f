"""The way to a running service with OpenAI's own client, and what goes wrong on it, in one line.

A service on this machine is reached directly, whatever proxy the environment names: a patient's
images must not take a detour.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sonoray.errors import ConfigError, ServingError
from sonoray_serve.keys.auth import is_loopback

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_S = 150.0
"""How long to wait for an answer, where nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A running service, as long as somebody asks it something."""

    url: str
    """Base URL, ending in `/v1`."""
    timeout_s: float
    """How long to wait for an answer."""
    client: "OpenAI"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model that a service lists."""

    name: str
    context_length: int
    """Most tokens of prompt and answer together."""
    digest: str
    """Sha256 of its manifest."""


def check_url(url: str) -> None:
    """Refuse what is no URL of a service.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        raise ConfigError(f"--url {url!r} is no http or https URL; write http://HOST:PORT/v1")


@contextmanager
def connected(url: str, api_key: str, timeout_s: float = TIMEOUT_S) -> Iterator[Connection]:
    """Connect to a service by its URL, to which `/v1` is added where it has no path.

    Raises:
        ConfigError: it is no URL.
    """
    check_url(url)
    if not urlsplit(url).path.strip("/"):
        url = f"{url.rstrip('/')}/v1"
    with _client(url, api_key, timeout_s) as client:
        yield Connection(url=url, timeout_s=timeout_s, client=client)


def find_model(connection: Connection, name: str | None = None) -> ServedModel:
    """What the service says of a model; by default of the first that it lists.

    Raises:
        ServingError: the service cannot be reached, has no such model, or is none of ours.
    """
    with plainly(connection):
        listed = list(connection.client.models.list())
    found = next((each for each in listed if name in (None, each.id)), None)
    if found is None:
        raise ServingError(
            f"{connection.url!r} serves no model {name!r}; it has "
            f"{', '.join(each.id for each in listed) or 'none'}"
        )
    told = found.model_extra or {}
    if not isinstance(told.get("max_model_len"), int) or not told.get("digest"):
        raise ServingError(
            f"{connection.url!r} does not say the context and digest of model {found.id!r}: this "
            "is no SonoRay service, or an older one"
        )
    return ServedModel(
        name=found.id, context_length=told["max_model_len"], digest=str(told["digest"])
    )


@contextmanager
def plainly(connection: Connection) -> Iterator[None]:
    """Say what openai's client raises in one line."""
    import openai

    url, timeout_s = connection.url, connection.timeout_s
    try:
        yield
    except openai.APITimeoutError:  # a connection error too, to OpenAI's client
        raise ServingError(
            f"{url!r} has not answered within {timeout_s:g} s; see that service's log, or ask "
            "again once it has less to do"
        ) from None
    except openai.APIConnectionError as error:
        # the class is that of the HTTP client that openai brings, whichever it is
        if type(error.__cause__).__name__ != "ConnectError":
            raise ServingError(
                f"the connection to {url!r} broke before the answer came; ask again"
            ) from None
        raise ServingError(
            f"no service answers at {url!r}; start one with: sonoray serve, or check --url"
        ) from None
    except openai.APIStatusError as error:
        raise ServingError(f"{url!r} refused ({error.status_code}): {_own_words(error)}") from None
    except (openai.APIError, AttributeError, TypeError, ValueError) as error:  # of nonsense
        raise ServingError(
            f"{url!r} answers what cannot be read ({type(error).__name__}): this is no SonoRay "
            "service"
        ) from None


def _client(url: str, api_key: str, timeout_s: float) -> "OpenAI":
    import openai

    local = is_loopback(urlsplit(url).hostname or "")
    return openai.OpenAI(
        base_url=url,
        api_key=api_key,
        timeout=timeout_s,
        max_retries=0,  # a second try would double the wait, and the work of a busy service
        http_client=openai.DefaultHttpxClient(trust_env=not local),
    )


def _own_words(error: Any) -> str:  # noqa: ANN401 - openai's error classes
    """The service's own sentence, without the client's dump around it."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)
