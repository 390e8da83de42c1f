"""Single requests to a DICOMweb server: made again where that may help, counted, never quoted.

What ends a request for good is a `FetchFailedError`: it costs what was asked for and nothing else.
What ends all of them, because the server is gone or refuses us, is an error of `sonoray.errors`.

Made again are requests that met no server, silence, a connection that broke, an answer that was cut
off, and the statuses 408, 429 and 5xx. Redirects are not followed: credentials would follow them.

dicomweb-client 0.61 was read and not taken: it collects a part in memory without a cap, follows
redirects, knows no Retry-After, and its errors and log lines quote URLs and UIDs.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from sonoray.errors import DataError, JobFailedError, SonoError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.multipart import CutOffError, NoObjectError
from sonoray.ingest.dicomweb.server_url import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    Address,
)

R = TypeVar("R")

_CHUNK_BYTES = 65_536
_FINAL_SERVER_ERRORS = (501, 505)
_TALKATIVE = ("urllib3.connection", "urllib3.connectionpool")
"""Loggers whose warnings quote the URL, and with it UIDs and the query."""


class FetchFailedError(Exception):
    """A request that failed for good; the message is the reason alone, as `HTTP 404`."""

    def __init__(self, reason: str, *, is_passing: bool = False) -> None:
        """Args: `is_passing` says that it was tried again, and may succeed at another time."""
        super().__init__(reason)
        self.is_passing = is_passing


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer whose body is still to be read."""

    content_type: str
    warning: str
    """The `Warning` header, by which a search says that there is more."""
    is_announced: bool
    """Whether it says where the body ends, by a length or in chunked coding: `chunks` then fails
    where it ends early. Otherwise it ends with the connection, whole or cut off."""
    chunks: Iterator[bytes]


@dataclass(kw_only=True, slots=True)
class RequestCounts:
    """What it took so far."""

    requests: int = 0
    """All of them, the repeated ones too."""
    retried: int = 0
    size_bytes: int = 0
    """Of the bodies that were read."""


class _TryAgainError(Exception):
    """A try that failed and may not fail again."""

    def __init__(self, problem: str, *, after_s: float = 0, is_unreachable: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.after_s = after_s
        self.is_unreachable = is_unreachable


class DicomWebClient:
    """Makes GET requests to one server; all methods may be called from several threads."""

    def __init__(self, address: Address, config: DicomWebConfig) -> None:
        """Connect to nothing yet."""
        self.counts = RequestCounts()
        self._address = address
        self._config = config
        self._pool = _make_pool(address, config)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._has_answered = False
        self._failures_in_a_row = 0

    @property
    def server(self) -> str:
        """Scheme, host and port, for messages."""
        return self._address.server

    @property
    def has_answered(self) -> bool:
        """Whether the server was there at all."""
        return self._has_answered

    def stop(self) -> None:
        """Let the requests of other threads end soon, as failed."""
        self._stopped.set()

    def get(
        self,
        path: Sequence[str],
        receive: Callable[[Answer], R],
        *,
        accept: str,
        fields: Sequence[tuple[str, str]] = (),
    ) -> R:
        """Ask for a resource and return what `receive` makes of the answer.

        Args:
            path: segments below the base URL.
            receive: reads the body; called anew for every try.
            accept: media types that we understand.
            fields: of the query.

        Raises:
            FetchFailedError: this request failed for good.
            DataError: the server cannot be reached, or does not let us in.
            JobFailedError: it answered before and is gone, or nothing succeeds any more.
        """
        url = "/".join([self._address.url, *(quote(part, safe="") for part in path)])
        if fields:
            # some servers take values as they stand; these may stand in a query (RFC 3986, 3.4)
            url += "?" + urlencode(fields, safe="*?,:/")
        for number in range(1, self._config.tries + 1):
            try:
                result = self._try(url, accept, receive)
            except _TryAgainError as error:
                if number < self._config.tries:
                    self._wait(number, error.after_s)
                    continue
                raise self._judge(error) from None
            except FetchFailedError as error:
                raise self._judge(error) from None
            with self._lock:
                self._failures_in_a_row = 0
            return result
        raise AssertionError("a loop of at least one try has ended")

    def _try(self, url: str, accept: str, receive: Callable[[Answer], R]) -> R:
        deadline = time.monotonic() + self._config.answer_timeout_s
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "sonoray"}
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        response = None
        is_whole = False
        try:
            self._count(requests=1)
            response = self._pool.request(
                "GET", url, headers=headers, preload_content=False, redirect=False, retries=False
            )
            self._has_answered = True
            self._check_status(response)
            answer = Answer(
                content_type=response.headers.get("Content-Type", ""),
                warning=response.headers.get("Warning", ""),
                is_announced=response.chunked or response.length_remaining is not None,
                chunks=self._read(response, deadline),
            )
            result = receive(answer)
            is_whole = True
            return result
        except (HTTPError, CutOffError) as error:
            raise self._explain(error) from None
        except NoObjectError as error:
            raise FetchFailedError(str(error)) from None
        finally:
            if response is not None:
                response.release_conn() if is_whole else response.close()

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
        # read1 returns what is there: a server that sends a byte a minute meets the deadline
        while chunk := response.read1(_CHUNK_BYTES, decode_content=True):
            self._count(size_bytes=len(chunk))
            if time.monotonic() > deadline:
                raise _TryAgainError(f"no end within {self._config.answer_timeout_s:g} s")
            if self._stopped.is_set():
                raise FetchFailedError("stopped")
            yield chunk

    def _check_status(self, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if status in (200, 204, 206):
            return
        if status == 401:
            raise DataError(
                f"DICOMweb server {self.server} refuses the credentials of the environment "
                f"(HTTP 401); check {TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
                if self._address.authorization
                else f"DICOMweb server {self.server} asks for credentials (HTTP 401); set "
                f"{TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
            )
        if status in (408, 429) or (status >= 500 and status not in _FINAL_SERVER_ERRORS):
            raise _TryAgainError(f"HTTP {status}", after_s=_retry_after(response))
        raise FetchFailedError(f"HTTP {status}")

    def _explain(self, error: Exception) -> Exception:
        """What an exception means, in words of our own: those of the library quote the URL."""
        timeout_s = self._config.connect_timeout_s
        cause = error.args[0] if error.args else None
        if isinstance(error, SSLError) and isinstance(cause, ssl.SSLCertVerificationError):
            return DataError(
                f"DICOMweb server {self.server}: its certificate is not accepted "
                f"({cause.verify_message}); let SSL_CERT_FILE name a file with your authority's "
                "certificate, or correct the URL"
            )
        if isinstance(error, NameResolutionError):
            return _TryAgainError("its name is not known", is_unreachable=True)
        if isinstance(error, NewConnectionError):
            return _TryAgainError("no connection", is_unreachable=True)
        if isinstance(error, ConnectTimeoutError):
            return _TryAgainError(f"no connection within {timeout_s:g} s", is_unreachable=True)
        if isinstance(error, ProxyError):
            return _TryAgainError("the proxy does not connect", is_unreachable=True)
        if isinstance(error, SSLError):
            return _TryAgainError("it does not speak TLS", is_unreachable=True)
        if isinstance(error, ReadTimeoutError):
            return _TryAgainError(f"silent for {self._config.read_timeout_s:g} s")
        if isinstance(error, ProtocolError | DecodeError | CutOffError):
            return _TryAgainError("cut off")
        return FetchFailedError(type(error).__name__)

    def _wait(self, number: int, after_s: float) -> None:
        backoff = self._config.backoff_s * 2 ** (number - 1) * random.uniform(0.5, 1)  # noqa: S311
        if self._stopped.wait(min(max(backoff, after_s), self._config.max_backoff_s)):
            raise FetchFailedError("stopped")
        self._count(retried=1)

    def _judge(self, error: _TryAgainError | FetchFailedError) -> Exception:
        """What a request that failed for good means for all of them."""
        problem = str(error)
        if isinstance(error, _TryAgainError) and error.is_unreachable:
            if not self._has_answered:
                return DataError(
                    f"DICOMweb server {self.server} cannot be reached ({problem}); check the URL, "
                    "and that the server runs"
                )
            return self._gone(problem)
        with self._lock:
            self._failures_in_a_row += 1
            failures = self._failures_in_a_row
        if failures >= self._config.max_failures_in_a_row:
            return self._gone(f"{failures} requests in a row failed, the last: {problem}")
        return FetchFailedError(problem, is_passing=isinstance(error, _TryAgainError))

    def _gone(self, problem: str) -> SonoError:
        return JobFailedError(
            f"DICOMweb server {self.server} is gone ({problem}); what was fetched is kept: run the "
            "same command again when the server is back"
        )

    def _count(self, *, requests: int = 0, retried: int = 0, size_bytes: int = 0) -> None:
        with self._lock:
            self.counts.requests += requests
            self.counts.retried += retried
            self.counts.size_bytes += size_bytes


def _make_pool(address: Address, config: DicomWebConfig) -> urllib3.PoolManager:
    """Connections to the server, through the environment's proxy, and directly to this machine.

    Certificates are checked against the system's authorities, which a hospital adds its own to.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_is_error)
    parts = urlsplit(address.url)
    proxy = getproxies().get(parts.scheme)
    timeout = urllib3.Timeout(connect=config.connect_timeout_s, read=config.read_timeout_s)
    if proxy is None or address.is_local or proxy_bypass(parts.netloc):
        return urllib3.PoolManager(maxsize=config.requests_in_flight, timeout=timeout)
    credentials = urllib3.util.parse_url(proxy).auth
    headers: Mapping[str, str] = (
        urllib3.make_headers(proxy_basic_auth=credentials) if credentials else {}
    )
    return urllib3.ProxyManager(
        proxy, proxy_headers=headers, maxsize=config.requests_in_flight, timeout=timeout
    )


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    try:
        return urllib3.Retry().get_retry_after(response) or 0
    except InvalidHeader:
        return 0


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
