"""Keys in a folder: added and withdrawn while the service runs, and never admitted by mistake."""

import asyncio
import logging
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sonoray_serve.http.gate import Gate, Pace
from sonoray_serve.http.request_counts import IngressMeters
from sonoray_serve.keys.auth import digest_key, is_admitted
from sonoray_serve.keys.key_folder import KeyFolder

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


def test_a_key_is_added_and_withdrawn_without_a_new_reader(tmp_path: Path):
    keys = KeyFolder(tmp_path, reread_s=0)
    assert not is_admitted(f"Bearer {FIRST}", keys)
    (tmp_path / "ward-3").write_text(f"# the ward\n{digest_key(FIRST)}\n")
    assert is_admitted(f"Bearer {FIRST}", keys)
    (tmp_path / "ward-4").write_text(digest_key(SECOND))
    assert is_admitted(f"Bearer {FIRST}", keys)
    assert is_admitted(f"Bearer {SECOND}", keys)
    (tmp_path / "ward-3").unlink()
    assert not is_admitted(f"Bearer {FIRST}", keys)
    assert is_admitted(f"Bearer {SECOND}", keys)


def test_what_was_read_is_kept_for_a_while(tmp_path: Path):
    (tmp_path / "a").write_text(digest_key(FIRST))
    keys = KeyFolder(tmp_path, reread_s=3600)
    assert list(keys) == [digest_key(FIRST)]
    (tmp_path / "a").unlink()
    assert list(keys) == [digest_key(FIRST)]


@pytest.mark.parametrize("text", [FIRST, digest_key(FIRST).upper(), digest_key(FIRST)[:-1], "\xff"])
def test_a_line_that_is_no_digest_admits_nobody_and_is_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
):
    (tmp_path / "wrong").write_text(text, encoding="latin-1")
    (tmp_path / "right").write_text(digest_key(SECOND))
    keys = KeyFolder(tmp_path, reread_s=0)
    with caplog.at_level(logging.ERROR):
        assert list(keys) == [digest_key(SECOND)]
        assert list(keys) == [digest_key(SECOND)]
    assert caplog.text.count("wrong, line 1, is no sha256") == 1
    assert text not in caplog.text


def test_a_folder_that_is_gone_or_empty_admits_nobody(tmp_path: Path, caplog):
    assert not list(KeyFolder(tmp_path / "gone", reread_s=0))
    assert not list(KeyFolder(tmp_path, reread_s=0))
    assert "cannot be read" in caplog.text
    assert "holds no digest" in caplog.text


def test_the_bookkeeping_of_a_mounted_secret_is_no_key(tmp_path: Path):
    """The kubelet mounts `..data -> ..2026_01_01/` and, for each entry, a link into it."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "ward").write_text(digest_key(FIRST))
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "ward").symlink_to("..data/ward")
    keys = KeyFolder(tmp_path, reread_s=0)
    assert list(keys) == [digest_key(FIRST)]
    (tmp_path / "..2027").mkdir()
    (tmp_path / "..2027" / "ward").write_text(digest_key(SECOND))
    (tmp_path / "..new").symlink_to("..2027")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert list(keys) == [digest_key(SECOND)]


async def _statuses(gate: Gate, *keys: str) -> list[int]:
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=gate), base_url="http://test"
    ) as client:
        return [
            (await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})).status_code
            for key in keys
        ]


def test_the_gate_follows_the_folder(tmp_path: Path):
    async def answer(_request: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    (tmp_path / "one").write_text(digest_key(FIRST))
    gate = Gate(
        Starlette(routes=[Route("/v1/models", answer)]),
        key_digests=KeyFolder(tmp_path, reread_s=0),
        max_requests=1,
        pace=Pace(least_s=1, most_s=2),
        meters=IngressMeters([]),
    )
    assert asyncio.run(_statuses(gate, FIRST, SECOND)) == [200, 401]
    (tmp_path / "two").write_text(digest_key(SECOND))
    assert asyncio.run(_statuses(gate, FIRST, SECOND)) == [200, 200]
    (tmp_path / "one").unlink()
    assert asyncio.run(_statuses(gate, FIRST, SECOND)) == [401, 200]
