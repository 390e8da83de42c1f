"""Requests of the node to the API server, as plain JSON."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import requests
import yaml

Object = dict[str, Any]


def stamp() -> str:
    """The time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class NodeApi:
    """One API server, by the administrator's kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        [cluster], [user] = config["clusters"], config["users"]
        self.server = str(cluster["cluster"]["server"])
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = cluster["cluster"]["certificate-authority"]
        self._session.headers["Authorization"] = f"Bearer {user['user']['token']}"
        pool = requests.adapters.HTTPAdapter(pool_maxsize=64)
        self._session.mount("https://", pool)

    def items(self, path: str, **query: str) -> list[Object]:
        """All objects of a collection."""
        return list(self._ask("GET", path, params=query).get("items") or [])

    def get(self, path: str) -> Object:
        """One object."""
        return self._ask("GET", path)

    def create(self, path: str, body: Object) -> Object:
        """Create an object."""
        return self._ask("POST", path, json=body)

    def merge(self, path: str, body: Object) -> Object:
        """Change an object; lists are replaced whole."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return self._ask("PATCH", path, data=json.dumps(body), headers=headers)

    def remove(self, path: str, uid: str) -> None:
        """Take away an object that has ended, unless another of its name has come."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        self._session.delete(self.server + path, json=body, timeout=30)

    def entries(self, namespace: str, kind: str, name: str) -> dict[str, bytes]:
        """The entries of a ConfigMap (`configmaps`) or a Secret (`secrets`)."""
        found = self.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}").get("data") or {}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in found.items()}
        return {key: str(value).encode() for key, value in found.items()}

    def _ask(self, method: str, path: str, **more: Any) -> Object:
        answer = self._session.request(method, self.server + path, timeout=30, **more)
        if answer.status_code >= 300:
            raise OSError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        found: Object = answer.json()
        return found
