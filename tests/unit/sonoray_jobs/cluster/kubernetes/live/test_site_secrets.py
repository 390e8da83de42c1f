"""Secrets are looked into before anything is applied, and nothing of them is shown."""

import base64
import hashlib
from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.live.api_server import Resource
from sonoray_jobs.cluster.kubernetes.live.site_secrets import (
    needed_secrets,
    secret_problems,
    secrets_of,
)
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site

DIGEST = hashlib.sha256(b"a key").hexdigest()
NO_DIGEST = "is no sha256 in hex, and admits nobody; give the digest of a key"


class Holding:
    """An API server with Secrets."""

    def __init__(self, **secrets: dict[str, str]) -> None:
        self.secrets = {name.replace("_", "-"): each for name, each in secrets.items()}

    def get(self, _resource: Resource, _namespace: str, name: str) -> dict[str, Any] | None:
        if name not in self.secrets:
            return None
        data = {
            key: base64.b64encode(text.encode()).decode()
            for key, text in self.secrets[name].items()
        }
        return {"kind": "Secret", "metadata": {"name": name}, "data": data}


def test_the_secrets_that_people_make_are_known_with_their_entries():
    rendered = render(*load_site("gpu-prod"))
    needed = needed_secrets(rendered.objects)
    assert set(needed) == {
        "sonoray-api-keys",
        "sonoray-identity",
        "sonoray-postgres",
        "sonoray-mlflow-accounts",
        "sonoray-s3",
        "sonoray-pacs",
    }
    assert needed["sonoray-postgres"] == {"uri"}
    assert needed["sonoray-mlflow-accounts"] == {
        "admin_password",
        "writer_password",
        "reader_password",
        "flask_key",
    }
    # Ray's own token, which the operator makes and the scheduled steps read
    assert set(secrets_of(rendered.objects)) - set(needed) == {"sonoray"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ward-3": DIGEST}, []),
        ({"ward-3": f"# of May\n{DIGEST}\n\n{DIGEST}\n"}, []),
        ({"ward-3": DIGEST, "ward-4": "9mJ0raw="}, [f"entry ward-4, line 1, {NO_DIGEST}"]),
        ({"ward-3": f"{DIGEST}\n{DIGEST.upper()}"}, [f"entry ward-3, line 2, {NO_DIGEST}"]),
        ({"ward-3": "# none yet"}, ["holds no digest of a key, and admits nobody"]),
        ({}, ["holds no digest of a key, and admits nobody"]),
    ],
)
def test_the_services_keys_are_digests(keys: dict[str, str], told: list[str]):
    objects = render(*load_site("dev-cpu")).parts["service"]
    problems = secret_problems(Holding(sonoray_api_keys=keys), objects, "n")  # type: ignore[arg-type]
    assert len(problems) == len(told)
    for problem, text in zip(problems, told, strict=True):
        assert problem.startswith("Secret/sonoray-api-keys")
        assert text in problem
        assert "9mJ0raw" not in problem


@pytest.mark.parametrize(
    ("key", "well"),
    [("ab" * 32, True), ("ab" * 32 + "\n", True), ("ab" * 31, False), ("secret", False)],
)
def test_the_key_of_pseudonyms_is_32_bytes_in_hex(key: str, *, well: bool):
    job = render(*load_site("gpu-prod")).jobs["ingest"]
    others = {name: dict.fromkeys(keys, "x") for name, keys in needed_secrets([job]).items()}
    api = Holding(**{**others, "sonoray-identity": {"key": key}})
    problems = secret_problems(api, [job], "n")  # type: ignore[arg-type]
    assert [each for each in problems if "sonoray-identity" in each] == problems
    assert (problems == []) == well
    assert all("64 hex digits" in problem and "secret" not in problem for problem in problems)
