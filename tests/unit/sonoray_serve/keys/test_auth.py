"""API keys: what a key file may be, and who is admitted."""

import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from sonoray.errors import ConfigError
from sonoray_serve.keys.auth import (
    check_terms,
    digest_key,
    is_admitted,
    is_loopback,
    read_api_keys,
    read_key_file,
)
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import KeyTerms

KEY, OTHER = "first-key-0123456789", "second-key-0123456789"


def write_keys(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_key_file_gives_its_keys_without_comments_and_blanks(tmp_path: Path):
    path = write_keys(tmp_path / "keys", f"# ward 3\n{KEY}\n\n  {OTHER}  \n")
    assert read_api_keys(path) == (KEY, OTHER)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_key_file_open_to_others_is_refused_with_the_fix(tmp_path: Path, mode: int):
    path = write_keys(tmp_path / "keys", KEY, mode)
    with pytest.raises(ConfigError, match=rf"mode 0{mode:03o}.*chmod 600"):
        read_api_keys(path)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_empty_key_file_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="holds no key"):
        read_api_keys(write_keys(tmp_path / "keys", text))


@pytest.mark.parametrize("weak", ["short", "a key with blanks in it", "tab\tbed-key-0123456789"])
def test_weak_key_is_refused_without_showing_it(tmp_path: Path, weak: str):
    with pytest.raises(ConfigError, match="line 2") as refused:
        read_api_keys(write_keys(tmp_path / "keys", f"{KEY}\n{weak}\n"))
    assert weak not in str(refused.value)
    assert KEY not in str(refused.value)


def test_unreadable_key_files_are_config_errors(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        read_api_keys(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_api_keys(tmp_path)
    binary = tmp_path / "binary"
    binary.write_bytes(os.urandom(16) + b"\xff")
    binary.chmod(0o600)
    with pytest.raises(ConfigError, match="not ASCII"):
        read_api_keys(binary)


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {OTHER} "])
def test_every_listed_key_is_admitted(header: str):
    assert is_admitted(header, [digest_key(KEY), digest_key(OTHER)])


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"],
)
def test_anything_else_is_not(header: str | None):
    assert not is_admitted(header, [digest_key(KEY)])


def test_no_digest_admits_nobody_and_a_digest_is_no_key():
    assert not is_admitted(f"Bearer {KEY}", [])
    assert not is_admitted(f"Bearer {digest_key(KEY)}", [digest_key(KEY)])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example", "", "localhost.evil"])
def test_reachable_addresses(host: str):
    assert not is_loopback(host)


TERMS = KeyTerms(expires=date(2027, 1, 31), scopes=("chat", "models"))


def test_a_key_may_have_terms(tmp_path: Path):
    text = f"{KEY} expires=2027-01-31 scopes=chat,models\n{OTHER}\n"
    assert read_key_file(write_keys(tmp_path / "keys", text)) == {KEY: TERMS, OTHER: KeyTerms()}


@pytest.mark.parametrize("said", ["expires=soon", "scopes=everything", "until=2027-01-31", "x"])
def test_terms_that_are_not_understood_are_refused(tmp_path: Path, said: str):
    with pytest.raises(ConfigError, match=r"line 1: .*expires=YYYY-MM-DD") as refused:
        read_key_file(write_keys(tmp_path / "keys", f"{KEY} {said}\n"))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "day", "problem"),
    [
        ("/v1/chat/completions", 31, None),
        ("/v1/completions", 1, None),
        ("/v1/models/x", 1, None),
        ("/v1/chat/completions", 32, Problem.KEY_EXPIRED),
        ("/v1/embeddings", 1, Problem.KEY_SCOPE),
        ("/metrics", 1, Problem.KEY_SCOPE),
        ("/docs", 1, Problem.KEY_SCOPE),
        ("/elsewhere", 1, Problem.KEY_SCOPE),
    ],
)
def test_a_key_is_held_to_its_terms(path: str, day: int, problem: Problem | None):
    today = date(2027, 1, 1) + timedelta(days=day - 1)
    check_terms(None, path, today)
    if problem is None:
        check_terms(TERMS, path, today)
        return
    with pytest.raises(ApiError) as refused:
        check_terms(TERMS, path, today)
    assert refused.value.problem is problem
