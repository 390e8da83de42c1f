"""The sections of a site file that say what lies around it: MLflow, stores, network, monitoring."""

import ipaddress
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sonoray.config.model import Config
from sonoray_jobs.cluster.kubernetes.quantity import check_quantity
from sonoray_jobs.cluster.kubernetes.site_texts import Address, Bucket, Origin, SecretName, Url

Quantity = Annotated[str, AfterValidator(check_quantity)]
Port = Annotated[int, Field(ge=1, le=65_535)]


def _check_cidr(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"{error}; write it like 10.20.0.0/16") from None


Cidr = Annotated[str, AfterValidator(_check_cidr)]


class Redis(Config):
    """A Redis that keeps the state of Ray's control store."""

    address: Address = ""
    """HOST:PORT; empty for none, and then the head's end is the service's until both are back."""
    password_secret: SecretName = ""
    """Secret with the entry `password`."""
    cidrs: tuple[Cidr, ...] = ()
    """Where it lies, for the network policy."""

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.address and not self.cidrs:
            raise ValueError("cidrs is required with an address: the network policy has to name it")
        return self


class MLflow(Config):
    """The MLflow server: SQLite on a volume, or PostgreSQL with users."""

    replicas: int = Field(default=1, ge=1)
    memory: Quantity = "2Gi"
    postgres_secret: SecretName = ""
    """Secret with the entry `uri`, as postgresql+psycopg://USER:PASSWORD@HOST:5432/mlflow; empty
    for SQLite, which has one writer and no users."""
    postgres_cidrs: tuple[Cidr, ...] = ()
    """Where PostgreSQL lies."""
    postgres_port: Port = 5432
    artifacts: Bucket = ""
    """Bucket of the artifacts, as s3://BUCKET/mlflow; empty keeps them on the volume."""
    accounts_secret: SecretName = ""
    """Secret with the entries `admin_password`, `writer_password`, `reader_password` and
    `flask_key`: jobs write as `writer`, the service reads as `reader`. Empty for no users."""
    volume_class: str = ""
    volume_size: Quantity = "50Gi"
    hosts: tuple[str, ...] = ()
    """More names under which people reach it, such as the gateway's."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.postgres_secret) != bool(self.artifacts):
            raise ValueError(
                "postgres_secret and artifacts belong together: several servers share neither "
                "SQLite nor a volume; give both or none"
            )
        if self.postgres_secret and not self.postgres_cidrs:
            raise ValueError("postgres_cidrs is required: the network policy has to name it")
        if self.accounts_secret and not self.postgres_secret:
            raise ValueError("accounts_secret needs postgres_secret, where the accounts are kept")
        return self


class ObjectStore(Config):
    """An object store over S3's protocol."""

    endpoint: Origin = ""
    secret: SecretName = ""
    """Secret with the entry `credentials`, a file as AWS tools read it."""
    region: str = "us-east-1"
    cidrs: tuple[Cidr, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.endpoint and not (self.secret and self.cidrs):
            raise ValueError("an endpoint needs secret and cidrs")
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        return port_of(self.endpoint)


class Pacs(Config):
    """The PACS that ingest reads."""

    url: Url = ""
    secret: SecretName = ""
    """Secret whose entry `token` is sent with every request, as a bearer token."""
    cidrs: tuple[Cidr, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url and not self.cidrs:
            raise ValueError("a url needs cidrs: the network policy has to name it")
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        return port_of(self.url)


class Client(Config):
    """Who may ask the service: Pods with these labels in namespaces with those."""

    namespace: dict[str, str] = Field(min_length=1)
    pods: dict[str, str] = Field(min_length=1)


class Network(Config):
    """What the network policies have to know of the cluster."""

    dns: tuple[Literal["kube-dns", "node-local", "openshift"], ...] = ("kube-dns", "node-local")
    """How Pods resolve names; without a rule that fits no Ray worker finds its head."""
    operator_namespace: str = Field(default="kuberay-system", min_length=1)
    monitoring_namespace: str = "monitoring"
    api_server_cidrs: tuple[Cidr, ...] = ()
    """Addresses of the API server, which the autoscaler calls (`kubectl get endpointslices
    kubernetes`); empty lets it reach port 443 and 6443 of any."""
    clients: tuple[Client, ...] = ()
    """Who may ask the service."""


class Monitoring(Config):
    """Objects for the Prometheus operator and Grafana."""

    enabled: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels by which Prometheus finds monitors and rules, such as release = "prometheus"."""
    p99_s: float = Field(default=10.0, gt=0)
    """Alert above this latency of the endpoint."""


def port_of(url: str) -> int:
    """The port of a URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
