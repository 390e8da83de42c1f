"""Secrets are looked into before anything is applied, and nothing of them is shown."""

import base64
import hashlib
from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.live.api_server import ApiError, Resource
from sonoray_jobs.cluster.kubernetes.live.site_secrets import (
    needed_secrets,
    secret_problems,
    secrets_of,
)
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site

DIGEST = hashlib.sha256(b"a key").hexdigest()
NO_DIGEST = "no sha256 of a key, and admits nobody"


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
        "sonoray-redis",
    }
    assert needed["sonoray-identity"] == {"key"}
    assert needed["sonoray-s3"] == {"credentials"}
    assert needed["sonoray-redis"] == {"password"}
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
    ("keys", "refused", "warned"),
    [
        ({"ward-3": DIGEST}, "", ""),
        ({"ward-3": f"# of May\n{DIGEST}\n\n{DIGEST}\n", ".old": "raw"}, "", ""),
        ({"ward-4": "9mJ0raw="}, f"entry ward-4, line 1: {NO_DIGEST}", ""),
        (
            {"a": DIGEST.upper(), "b": f"{DIGEST}  -"},
            f"entry a, line 1, entry b, line 1: {NO_DIGEST}",
            "",
        ),
        # whoever rolls back in an emergency is not kept from it by one wrong line
        ({"ward-3": f"{DIGEST}\n9mJ0raw="}, "", f"entry ward-3, line 2: {NO_DIGEST}"),
        ({"ward-3": "# none yet"}, "", "holds no digest of a key: the service admits nobody"),
        ({}, "", "holds no digest of a key: the service admits nobody"),
    ],
)
def test_the_services_keys_are_digests(
    keys: dict[str, str], refused: str, warned: str, caplog: pytest.LogCaptureFixture
):
    objects = render(*load_site("dev-cpu")).parts["service"]
    problems = secret_problems(Holding(sonoray_api_keys=keys), objects, "n")  # type: ignore[arg-type]
    assert len(problems) == bool(refused)
    assert refused in "".join(problems)
    assert warned in caplog.text
    assert len(caplog.records) == bool(warned)
    assert "9mJ0raw" not in "".join(problems) + caplog.text


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


def test_what_is_missing_is_named_with_its_entries():
    site, road = load_site("gpu-prod")
    image = site.image.model_copy(update={"pull_secret": "registry"})
    job = render(site.model_copy(update={"image": image}), road).jobs["ingest"]
    problems = secret_problems(Holding(registry={}), [job], "n")  # type: ignore[arg-type]
    assert any(
        "create secret generic sonoray-s3 --from-file=credentials=FILE (" in each
        for each in problems
    )
    assert not any("registry" in each for each in problems)
    told = secret_problems(Holding(), [job], "n")  # type: ignore[arg-type]
    assert any(each.startswith("Secret/registry is missing") for each in told)


def test_the_standing_clusters_token_is_nothing_to_be_made_by_hand():
    site, road = load_site("gpu-prod")
    schedule = site.schedule.model_copy(update={"cron": "0 2 * * *"})
    parts = render(site.model_copy(update={"schedule": schedule}), road).parts
    alone = secret_problems(Holding(), parts["schedule"], "n")  # type: ignore[arg-type]
    assert [each for each in alone if "Secret/sonoray " in each] == [
        "Secret/sonoray is missing, which the operator makes for the standing cluster; run: "
        "sonoray k8s apply cluster"
    ]
    both = [*parts["cluster"], *parts["schedule"]]
    assert "Secret/sonoray " not in "".join(secret_problems(Holding(), both, "n"))  # type: ignore[arg-type]


def test_who_may_not_read_secrets_is_told_that_they_were_not_looked_into(
    caplog: pytest.LogCaptureFixture,
):
    class Forbidding(Holding):
        def get(self, _resource: Resource, _namespace: str, _name: str) -> None:
            error = ApiError("secrets: the API server says 403")
            error.status = 403
            raise error

    objects = render(*load_site("dev-cpu")).parts["service"]
    assert secret_problems(Forbidding(), objects, "n") == []  # type: ignore[arg-type]
    assert "the Secrets were not looked into" in caplog.text
