"""The API server: one small client over the kept `kubernetes` library, and errors in one line.

The library finds the way (kubeconfig, contexts, exec plugins, TLS, proxies, in-cluster accounts);
the requests are written here, since server-side apply with strict field validation, tables without
objects and logs that go on for days need parameters that its generated methods lack.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

FIELD_MANAGER = "sonoray"
"""Owner of all fields that are applied; there is one way and one owner."""
TIMEOUT_S = 30.0
QUIET_S = 10.0
"""Silence after which a log is left for a look at its job."""
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Service": "services",
    "Pod": "pods",
    "Node": "nodes",
    "Event": "events",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "ResourceQuota": "resourcequotas",
    "LimitRange": "limitranges",
    "Deployment": "deployments",
    "ReplicaSet": "replicasets",
    "Job": "jobs",
    "CronJob": "cronjobs",
    "NetworkPolicy": "networkpolicies",
    "Ingress": "ingresses",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PriorityClass": "priorityclasses",
    "PodMonitor": "podmonitors",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
    "RayCluster": "rayclusters",
    "RayJob": "rayjobs",
    "RayService": "rayservices",
}
CLUSTER_WIDE = {"Namespace", "PriorityClass", "Node"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a Pod's log."""

    stamp: str
    """When it was written: RFC 3339 in UTC with nanoseconds, so that stamps sort as texts."""
    text: str


class ApiError(ClusterError):
    """The API server refused a request."""

    status = 0
    """Its HTTP status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A kind of objects, and where it lies."""

    api_version: str
    kind: str

    def path(self, namespace: str = "", name: str = "", below: str = "") -> str:
        """The path of the collection, of one object, or of what lies below it."""
        if self.kind not in PLURALS:
            raise ClusterError(
                f"{self.kind} is no kind that sonoray applies; apply it with kubectl, or remove it"
            )
        root = "/apis" if "/" in self.api_version else "/api"
        parts = [root, self.api_version]
        if self.kind not in CLUSTER_WIDE and namespace:
            parts += ["namespaces", namespace]
        parts += [PLURALS[self.kind], *filter(None, (name, below))]
        return "/".join(parts)


def resource_of(made: Object) -> Resource:
    """The kind of an object."""
    return Resource(api_version=str(made.get("apiVersion")), kind=str(made.get("kind")))


RAY_JOB = Resource(api_version="ray.io/v1", kind="RayJob")
POD = Resource(api_version="v1", kind="Pod")
CONFIG_MAP = Resource(api_version="v1", kind="ConfigMap")
NAMESPACE = Resource(api_version="v1", kind="Namespace")


class Api:
    """Requests to one API server."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the library is untyped
        """Args: `client` is a `kubernetes.client.ApiClient`."""
        self._client = client
        self.num_requests = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, or None where there is none."""
        try:
            return self.read(resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, resource: Resource, namespace: str, **query: str) -> list[Object]:
        """All objects of a kind in a namespace; none where the kind is not installed."""
        try:
            items = self.read(resource.path(namespace), query).get("items")
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        return list(items or [])

    def table(self, resource: Resource, namespace: str) -> tuple[list[str], list[list[Any]]]:
        """Names of columns and rows, as kubectl prints them: no object is sent."""
        answer = self.read(resource.path(namespace), {"includeObject": "None"}, accept=_TABLE)
        columns = [str(column["name"]) for column in answer.get("columnDefinitions", [])]
        return columns, [row["cells"] for row in answer.get("rows") or []]

    def read(
        self, path: str, query: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> Object:
        """A GET request's JSON."""
        return self._json("GET", path, query, accept=accept)

    def apply(self, made: Object, *, namespace: str = "", dry_run: bool = False) -> Object:
        """Apply one object on the server, every unknown field an error.

        Args:
            made: the object.
            namespace: in place of its own.
            dry_run: only find out what would come of it.

        Raises:
            ApiError: it was refused; names the object.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        metadata = made["metadata"]
        place = namespace or metadata.get("namespace", "")
        if namespace and "namespace" in metadata:
            made = {**made, "metadata": {**metadata, "namespace": namespace}}
        path = resource_of(made).path(place, metadata["name"])
        return self._json(
            "PATCH",
            path,
            query,
            body=made,
            content="application/apply-patch+yaml",
            about=name_of(made),
        )

    def create(self, made: Object, *, dry_run: bool = False) -> Object:
        """Create one object."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = resource_of(made).path(made["metadata"].get("namespace", ""))
        return self._json("POST", path, query, body=made, about=name_of(made))

    def merge(self, resource: Resource, namespace: str, name: str, change: Object) -> Object:
        """Merge a change into one object."""
        path = resource.path(namespace, name)
        return self._json(
            "PATCH", path, {}, body=change, content="application/merge-patch+json", about=name
        )

    def delete(self, resource: Resource, namespace: str, name: str) -> bool:
        """Delete one object with what belongs to it; says whether it was there."""
        query = {"propagationPolicy": "Background"}
        try:
            self._json("DELETE", resource.path(namespace, name), query, about=name)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def log(self, namespace: str, pod: str, *, follow: bool, since: str) -> Iterator[LogLine]:
        """Lines of a Pod's log, to its end or to the present.

        Args:
            namespace: of the Pod.
            pod: its name.
            follow: wait for more; where none comes for `QUIET_S` the stream ends with an error.
            since: time stamp of the last line that is known; empty for all lines.

        Raises:
            ApiError: there is none yet.
            urllib3.exceptions.HTTPError: the line broke, or was quiet.
        """
        query = {"follow": "true" if follow else "false", "timestamps": "true"}
        if since:
            query["sinceTime"] = since
        answer = self._request("GET", POD.path(namespace, pod, "log"), query, stream=True)
        if answer.status >= 300:
            raise _refusal(answer.status, answer.read(), pod)
        rest = b""
        try:
            for piece in answer.stream(4096):
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(_log_line, lines)
            if rest:
                yield _log_line(rest)
        finally:
            answer.close()

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        about: str = "",
    ) -> Object:
        answer = self._request(method, path, query, body=body, content=content, accept=accept)
        if answer.status >= 300:
            raise _refusal(answer.status, answer.data, about or path)
        found: Object = json.loads(answer.data)
        return found

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        body: Object | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        stream: bool = False,
    ) -> Any:  # noqa: ANN401 - urllib3's answer
        from urllib.parse import urlencode

        import urllib3

        headers = {"Accept": accept, "Content-Type": content}
        parameters: list[tuple[str, str]] = list((query or {}).items())
        # also refreshes a token that an exec plugin gave
        token = self._client.configuration.auth_settings().get("BearerToken")
        if token:
            headers[token["key"]] = token["value"]
        host = self._client.configuration.host
        url = f"{host}{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        self.num_requests += 1
        try:
            return self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=not stream,
                timeout=urllib3.Timeout(connect=TIMEOUT_S, read=QUIET_S if stream else TIMEOUT_S),
                retries=urllib3.Retry(2, redirect=0, raise_on_status=False),
            )
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(
                f"the API server at {host} does not answer ({type(error).__name__}); check the "
                "kubeconfig, --context and the network"
            ) from None


def connect(context: str | None = None) -> Api:
    """Open the API server that the kubeconfig, or the account of a Pod, leads to.

    Args:
        context: of the kubeconfig; by default its current one.

    Raises:
        ClusterError: there is no usable configuration.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    configuration = client.Configuration()
    try:
        config.load_config(context=context, client_configuration=configuration)
    except ConfigException as error:
        raise ClusterError(
            f"no way to a Kubernetes cluster ({error}); set KUBECONFIG or --context"
        ) from None
    return Api(client.ApiClient(configuration))


def _refusal(status: int, data: bytes, about: str) -> ApiError:
    """What the API server said, in one line."""
    try:
        message = str(json.loads(data).get("message"))
    except (ValueError, AttributeError):
        message = data[:300].decode("utf-8", "replace")
    error = ApiError(f"{about}: the API server says {status}: {' '.join(message.split())[:600]}")
    error.status = status
    return error


def _log_line(line: bytes) -> LogLine:
    stamp, _, text = line.decode("utf-8", "replace").partition(" ")
    return LogLine(stamp=stamp, text=text)
