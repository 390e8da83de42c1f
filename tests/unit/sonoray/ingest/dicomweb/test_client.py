import logging
import subprocess

import pytest

from sonoray.errors import DataError, JobFailedError
from sonoray.ingest.dicomweb.client import FetchFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.server_url import PASSWORD_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE

UID = "1.2.840.99999"
QUICK = {"backoff_s": 0, "max_backoff_s": 0, "tries": 3}


def fetch(client):
    return client.get(
        ("studies", UID),
        lambda answer: b"".join(answer.chunks),
        accept="application/dicom",
        fields=(("PatientName", "Secret^Name"),),
    )


def test_an_answer_is_received_and_counted(serve, reply, connect):
    server = serve(lambda *_: reply(body=b"abc" * 50_000))
    client = connect(server.url)
    assert fetch(client) == b"abc" * 50_000
    assert (client.counts.requests, client.counts.retried) == (1, 0)
    assert client.counts.size_bytes == 150_000
    (request,) = server.requests
    assert request.path == f"/dicom-web/studies/{UID}"
    assert request.fields == {"PatientName": "Secret^Name"}
    assert request.headers["Accept"] == "application/dicom"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({TOKEN_VARIABLE: "t0ken"}, "Bearer t0ken"),
        ({USER_VARIABLE: "anna", PASSWORD_VARIABLE: "s3cret"}, "Basic YW5uYTpzM2NyZXQ="),
    ],
)
def test_credentials_are_sent_and_no_proxy_sees_them_on_this_machine(
    serve, reply, connect, monkeypatch, environment, sent
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = serve(lambda *_: reply(body=b"x"))
    assert fetch(connect(server.url, environment=environment)) == b"x"
    assert server.requests[0].headers["Authorization"] == sent


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(serve, reply, connect, status):
    server = serve(lambda _, number: reply(200 if number == 3 else status, body=b"x"))
    client = connect(server.url)
    assert fetch(client) == b"x"
    assert (client.counts.requests, client.counts.retried) == (3, 2)


def test_the_wait_doubles_unless_the_server_asks_for_more_and_has_a_limit(
    serve, reply, connect, monkeypatch
):
    waits = []
    client = connect(
        serve(lambda _, number: reply(503, headers={5: {"Retry-After": "7"}}.get(number, {}))).url,
        DicomWebConfig(backoff_s=1, max_backoff_s=16, tries=8),
    )
    monkeypatch.setattr(client._stopped, "wait", waits.append)
    with pytest.raises(FetchFailedError, match=r"^HTTP 503$"):
        fetch(client)
    for wait, whole in zip(waits[:4] + waits[5:], [1, 2, 4, 8, 16, 16], strict=True):
        assert whole / 2 <= wait <= whole
    assert 8 <= waits[4] <= 16  # above the 7 s of Retry-After
    waits.clear()
    client = connect(
        serve(lambda *_: reply(429, headers={"Retry-After": "90"})).url,
        DicomWebConfig(backoff_s=1, max_backoff_s=16, tries=2),
    )
    monkeypatch.setattr(client._stopped, "wait", waits.append)
    with pytest.raises(FetchFailedError, match=r"^HTTP 429$"):
        fetch(client)
    client = connect(
        serve(lambda *_: reply(429, headers={"Retry-After": "9"})).url,
        DicomWebConfig(backoff_s=1, max_backoff_s=16, tries=2),
    )
    monkeypatch.setattr(client._stopped, "wait", waits.append)
    with pytest.raises(FetchFailedError):
        fetch(client)
    assert waits == [16, 9]


@pytest.mark.parametrize("status", [302, 400, 403, 404, 406, 410, 501])
def test_what_will_not_pass_is_asked_once(serve, reply, connect, status):
    server = serve(lambda *_: reply(status, headers={"Location": "/elsewhere"}))
    with pytest.raises(FetchFailedError, match=f"^HTTP {status}$"):
        fetch(connect(server.url))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("given", "config", "message"),
    [
        ({"body": b"ab", "headers": {"Content-Length": "9"}}, {}, "cut off"),
        ({"body": b"9\r\nab", "headers": {"Transfer-Encoding": "chunked"}}, {}, "cut off"),
        ({"body": b"ab", "pause_s": 5}, {"read_timeout_s": 0.05}, "silent for 0.05 s"),
        (
            {"body": b"ab" * 999, "pause_s": 0.01},
            {"answer_timeout_s": 0.1, "tries": 2},
            "no end within 0.1 s",
        ),
    ],
)
def test_answers_that_do_not_end_well_are_asked_for_again(
    serve, reply, connect, given, config, message
):
    if "Transfer-Encoding" in given.get("headers", {}):
        given["headers"]["Content-Length"] = ""
    config = DicomWebConfig(**{**QUICK, **config})
    server = serve(lambda *_: reply(**given))
    with pytest.raises(FetchFailedError, match=f"^{message}$"):
        fetch(connect(server.url, config))
    assert len(server.requests) == config.tries


@pytest.mark.parametrize(
    ("body", "headers", "is_announced"),
    [
        (b"ab", {}, True),
        (b"2\r\nab\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked", "Content-Length": ""}, True),
        (b"ab", {"Content-Length": ""}, False),
    ],
)
def test_an_answer_tells_whether_its_end_was_announced(
    serve, reply, connect, body, headers, is_announced
):
    client = connect(serve(lambda *_: reply(body=body, headers=headers)).url)
    found = client.get(
        ("studies",),
        lambda answer: (b"".join(answer.chunks), answer.is_announced),
        accept="application/dicom",
    )
    assert found == (b"ab", is_announced)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "asks for credentials .HTTP 401.; set SONORAY_DICOMWEB_TOKEN, or"),
        ({TOKEN_VARIABLE: "t0ken"}, "refuses the credentials of the environment"),
    ],
)
def test_a_server_that_wants_credentials_ends_it_at_once(
    serve, reply, connect, environment, message
):
    server = serve(lambda *_: reply(401))
    with pytest.raises(DataError, match=message) as raised:
        fetch(connect(server.url, environment=environment))
    assert len(server.requests) == 1
    assert "t0ken" not in str(raised.value)


def test_a_server_that_is_not_there_and_one_that_is_gone_are_told_apart(serve, reply, connect):
    server = serve(lambda *_: reply(body=b"x"))
    client, late = connect(server.url), connect(server.url)
    assert fetch(client) == b"x"
    server.close()
    with pytest.raises(
        JobFailedError, match=r"is gone \(no connection\); what was fetched is kept"
    ):
        fetch(client)
    with pytest.raises(DataError, match=r"cannot be reached \(no connection\); check the URL"):
        fetch(late)
    nowhere = connect("http://no-such-host.invalid/dicom-web", environment={})
    with pytest.raises(DataError, match="its name is not known"):
        fetch(nowhere)


def test_failures_in_a_row_mean_that_the_server_is_gone(serve, reply, connect):
    config = DicomWebConfig(**QUICK, max_failures_in_a_row=3)
    client = connect(
        serve(lambda _, number: reply(200 if number == 3 else 404, body=b"x")).url, config
    )
    problems = []
    for _ in range(5):
        try:
            fetch(client)
        except FetchFailedError as error:
            problems.append(str(error))
    assert problems == ["HTTP 404"] * 4
    with pytest.raises(JobFailedError, match="3 requests in a row failed, the last: HTTP 404"):
        fetch(client)


def test_a_client_that_was_stopped_waits_no_more(serve, reply, connect):
    client = connect(serve(lambda *_: reply(503)).url, DicomWebConfig(backoff_s=500))
    client.stop()
    with pytest.raises(FetchFailedError, match="stopped"):
        fetch(client)


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate for 127.0.0.1 that no authority has signed."""
    path = tmp_path / "server.pem"
    key, signed = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    )
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", *options.split(), *names, "-keyout", str(key), "-out", str(signed)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    return path


def test_a_certificate_must_come_from_a_known_authority(
    serve, reply, connect, certificate, monkeypatch
):
    server = serve(lambda *_: reply(body=b"x"), certificate)
    with pytest.raises(DataError, match=r"not accepted \(self-signed certificate\); let SSL_CERT"):
        fetch(connect(server.url))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(connect(server.url)) == b"x"
    plain = connect(server.url.replace("https", "http"))
    with pytest.raises(FetchFailedError):
        fetch(plain)
    tls = connect(serve(lambda *_: reply(body=b"x")).url.replace("http", "https"))
    with pytest.raises(DataError, match="does not speak TLS"):
        fetch(tls)


def test_no_message_and_no_log_names_what_was_asked_for(serve, reply, connect, caplog):
    caplog.set_level(logging.WARNING)
    replies = {1: {"headers": {"Bad header": "x"}}, 2: {"status": 500}, 3: {"status": 404}}
    client = connect(serve(lambda _, number: reply(**replies[number])).url)
    fetch(client)
    with pytest.raises(FetchFailedError) as raised:
        fetch(client)
    for text in (caplog.text, str(raised.value)):
        assert UID not in text
        assert "Secret" not in text
