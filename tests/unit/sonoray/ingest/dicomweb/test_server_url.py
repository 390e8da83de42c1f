import pytest

from sonoray.errors import ConfigError
from sonoray.ingest.dicomweb.server_url import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    read_address,
)

BASIC = {USER_VARIABLE: "anna", PASSWORD_VARIABLE: "s3cret"}
BEARER = {TOKEN_VARIABLE: "t0ken"}
URL = "https://pacs.example.org/dicom-web/"


def test_a_url_and_credentials_become_an_address():
    address = read_address(URL, environment={})
    assert (address.url, address.authorization) == (URL[:-1], "")
    assert address.server == "https://pacs.example.org"
    assert read_address(URL, environment=BEARER).authorization == "Bearer t0ken"
    basic = read_address(URL, environment=BASIC)
    assert basic.authorization == "Basic YW5uYTpzM2NyZXQ="  # base64 of anna:s3cret
    assert "YW5u" not in repr(basic)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1:8042", True),
        ("localhost", True),
        ("[::1]:80", True),
        ("pacs.example.org", False),
    ],
)
def test_credentials_go_over_plain_http_to_this_machine_alone(host, is_local):
    url = f"http://{host}/dicom-web"
    assert read_address(url, environment={}).is_local == is_local
    allowed = read_address(url, credentials_over_http=True, environment=BASIC)
    assert allowed.authorization
    if is_local:
        assert read_address(url, environment=BASIC).authorization
    else:
        with pytest.raises(ConfigError, match=r"dicomweb\.credentials_over_http=true"):
            read_address(url, environment=BASIC)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pacs.example.org", "no http or https URL"),
        ("ftp://pacs.example.org", "no http or https URL"),
        ("http://", "no http or https URL"),
        ("http://[::1", "no http or https URL"),
        ("http://a:99999/", "no http or https URL"),
        ("https://anna:s3cret@pacs.example.org/", "contains credentials"),
        ("https://pacs.example.org/rs?PatientName=s3cret", "has a query"),
        ("https://pacs.example.org/rs#s3cret", "has a query or a fragment"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_address(url, environment={})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({USER_VARIABLE: "anna"}, "without the other"),
        ({PASSWORD_VARIABLE: "s3cret"}, "without the other"),
        ({**BASIC, **BEARER}, "are both set"),
        ({TOKEN_VARIABLE: "s3cret\nX-Other: 1"}, "does not allow"),
        ({USER_VARIABLE: "an:na", PASSWORD_VARIABLE: "s3cret"}, "does not allow"),
    ],
)
def test_credentials_that_cannot_be_used_are_refused_and_not_quoted(environment, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_address(URL, environment=environment)
    assert "s3cret" not in str(raised.value)
