"""The site file: everything about one tenant on one Kubernetes cluster, typed, in TOML.

A hospital keeps the file outside the checkout, so that an update of SonoRay conflicts with nothing;
two tenants are two files. `extends = "gpu-prod"` or `"dev-cpu"` begins with a packaged one. From
the file follow all manifests (`sonoray_jobs.cluster.kubernetes.render_site`). No secret stands in
it: passwords and keys lie in Secrets of the cluster, and the file has their names.

Defaults are those of a node that is shared: what costs money (GPUs, replicas) has to be written.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sonoray.config.load import load_config
from sonoray.config.model import Config
from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.quantity import check_quantity, to_number
from sonoray_jobs.cluster.kubernetes.site_endpoints import (
    MLflow,
    Monitoring,
    Network,
    ObjectStore,
    Pacs,
    Redis,
)
from sonoray_jobs.cluster.kubernetes.site_texts import (
    Cron,
    Digest,
    HostName,
    ImageDigest,
    ImageName,
    ImageTag,
    ModelUri,
    Name,
    ResourceName,
    SecretName,
    TimeZone,
)
from sonoray_serve.settings import ServeConfig

Quantity = Annotated[str, AfterValidator(check_quantity)]
JobName = Literal["ingest", "bootstrap", "embed", "train", "evaluate", "recognize", "export"]


class Image(Config):
    """The one image of head, workers, submitter and MLflow."""

    name: ImageName = "sonoray"
    """Registry, repository and name, without the tag."""
    tag: ImageTag = ""
    """By default VERSION-rayVERSION of the installed SonoRay."""
    digest: ImageDigest = ""
    """What production pins: the bytes, whatever the tag comes to mean."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secret: str = ""
    """Secret of a registry that asks for a password."""

    @model_validator(mode="after")
    def _is_one_image(self) -> Self:
        name, colon, tag = self.name.rpartition(":")
        if colon and "/" not in tag:
            raise ValueError(
                f"name = {self.name!r} holds a tag; write name = {name!r}, tag = {tag!r}"
            )
        if self.tag == "latest":
            raise ValueError("tag = 'latest' names another image every day; name a version")
        return self


class Storage(Config):
    """The workspace, which every Ray node of a job sees."""

    workspace_class: str = ""
    """Storage class, an encrypted one, since it holds pixels; empty takes the cluster's default."""
    workspace_access: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """`ReadWriteOnce` only where all Pods run on one node."""
    workspace_size: Quantity = "200Gi"


class GpuNode(Config):
    """A kind of node with GPUs."""

    selector: dict[str, str] = Field(min_length=1)
    """Labels of these nodes."""
    resource: ResourceName = "nvidia.com/gpu"
    """Under which name the kubelet counts the GPUs."""
    taints: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of taints that the Pods tolerate."""


class Group(Config):
    """One kind of Ray worker: its size, and how many there may be."""

    cpu: Quantity
    memory: Quantity
    scratch: Quantity = "20Gi"
    """Local disk: Ray's session, spilled objects, compiled extensions. Requested and limited."""
    gpus: int = Field(default=0, ge=0, strict=True)
    """Whole GPUs; a share of one is Ray's affair, inside a worker."""
    gpu_node: str = ""
    """Which of `gpu_nodes`."""
    selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may carry these workers."""
    min: int = Field(default=0, ge=0)
    """Workers that are always up in a standing cluster."""
    max: int = Field(default=1, ge=1)
    """Workers that the autoscaler may ask for."""
    idle_timeout_s: int = Field(default=300, ge=30)
    """After how long without work a worker goes."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} exceeds max = {self.max}; lower it")
        if bool(self.gpus) != bool(self.gpu_node):
            raise ValueError(
                f"gpus = {self.gpus} and gpu_node = {self.gpu_node!r}: give both or none"
            )
        return self


class Head(Config):
    """The head of every Ray cluster: it coordinates, no work runs on it."""

    cpu: Quantity = "1"
    """Requested; the head is mostly idle."""
    cpu_limit: Quantity = "2"
    memory: Quantity = "4Gi"
    """Requested and limited."""
    scratch: Quantity = "20Gi"


class Cluster(Config):
    """The standing RayCluster that `sonoray submit` and scheduled steps use."""

    enabled: bool = True
    groups: tuple[str, ...] = ()
    """Which of `groups`; it scales between their `min` and `max`."""


class Job(Config):
    """One step of the road as a RayJob on a cluster of its own."""

    arguments: tuple[str, ...] = ()
    """Arguments of the command, as `sonoray submit` takes them; `--config` and `--workspace` are
    added."""
    workers: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """How many workers of which group. The number is fixed, so that a queue can count on it."""
    start_deadline_s: int = Field(default=1800, ge=60)
    """Time to get nodes and images."""
    deadline_s: int = Field(default=6 * 3600, ge=60)
    """Time to work, counted from the command's start."""
    retries: int = Field(default=0, ge=0, le=5)
    """More tries on a new cluster. A user's mistake fails again, so none by default."""


class Keep(Config):
    """How long a finished job's remains stay."""

    succeeded_s: int = Field(default=60, ge=0)
    """Its cluster, after success."""
    failed_s: int = Field(default=86_400, ge=0)
    """Its head with the logs, after a failure; the workers go at once."""
    record_s: int = Field(default=604_800, ge=0)
    """The RayJob itself, with its status."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.record_s < max(self.failed_s, self.succeeded_s):
            raise ValueError(
                f"record_s = {self.record_s} is below failed_s or succeeded_s: the RayJob would "
                "take its cluster along; raise it"
            )
        return self


class Queue(Config):
    """Kueue, where jobs wait for their share of the cluster."""

    name: str = ""
    """A LocalQueue of the namespace; jobs then start suspended, and Kueue lets them go."""


class Schedule(Config):
    """Steps that run again and again on the standing cluster, such as embedding new studies."""

    cron: Cron = ""
    """As in `0 2 * * *`; empty for none."""
    time_zone: TimeZone = "Etc/UTC"
    steps: tuple[JobName, ...] = ("ingest", "embed")
    """In this order, with the arguments of `jobs`; a step that fails ends the run."""
    deadline_s: int = Field(default=6 * 3600, ge=60)


class Service(Config):
    """The endpoint: a RayService with a cluster of its own."""

    enabled: bool = True
    model: ModelUri = ""
    """`models:/NAME/VERSION`, or `models:/NAME@ALIAS`, which each new cluster resolves anew."""
    model_digest: Digest = ""
    """Digest of the model's manifest; replicas refuse any other."""
    keys_secret: Name = "sonoray-api-keys"  # noqa: S105 - its name
    """Secret whose entries are sha256 digests of admitted keys; read again while serving."""
    group: str = ""
    """Which of `groups` carries the replicas."""
    replicas: ServeConfig = ServeConfig()
    """Limits and sizes, as in a road's `serve`."""
    host: HostName = ""
    """Name under which clients reach it; makes an Ingress, whose controller ends TLS."""
    ingress_class: str = "nginx"
    tls_secret: Name = "sonoray-tls"  # noqa: S105 - its name
    gateway_class: str = ""
    """Gateway class for upgrades in steps; empty brings a second cluster up, then switches."""
    spread: Literal["required", "preferred"] = "preferred"
    """Whether workers must lie on different nodes."""
    max_unavailable: int = Field(default=1, ge=0)
    """Serve workers of the group's `min` that a drained node may take away at once."""
    redis: Redis = Redis()
    """Keeps the control store of the head, so that the service outlives it."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.enabled and not (self.model and self.group):
            raise ValueError("model and group are required; or set enabled = false")
        return self


class Quota(Config):
    """Most that the tenant may ask for at once."""

    cpu: Quantity = "200"
    memory: Quantity = "1Ti"
    scratch: Quantity = "2Ti"
    gpus: int = Field(default=0, ge=0)
    pods: int = Field(default=100, ge=10)


class Site(Config):
    """One tenant on one Kubernetes cluster."""

    name: Name
    """Of the site; a label of every object."""
    namespace: Name = "sonoray"
    road: str = "road.toml"
    """The configuration that the jobs run: a TOML file beside the site file."""
    image: Image = Image()
    storage: Storage = Storage()
    identity_secret: SecretName = ""
    """Secret with the key of the pseudonyms, which jobs mount and the service never does; empty
    keeps the key in the workspace, where the service cannot reach it either."""
    gpu_nodes: dict[Name, GpuNode] = Field(default_factory=dict)
    head: Head = Head()
    groups: dict[Name, Group] = Field(min_length=1)
    cluster: Cluster = Cluster()
    jobs: dict[JobName, Job] = Field(default_factory=dict)
    keep: Keep = Keep()
    queue: Queue = Queue()
    schedule: Schedule = Schedule()
    service: Service = Service(enabled=False)
    mlflow: MLflow = MLflow()
    object_store: ObjectStore = ObjectStore()
    pacs: Pacs = Pacs()
    network: Network = Network()
    monitoring: Monitoring = Monitoring()
    quota: Quota = Quota()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for where, named in self._named_groups():
            if named not in self.groups:
                known = ", ".join(self.groups)
                raise ValueError(f"{where} names the group {named!r}; groups has {known}")
        for name, group in self.groups.items():
            if group.gpu_node and group.gpu_node not in self.gpu_nodes:
                known = ", ".join(self.gpu_nodes) or "none"
                raise ValueError(
                    f"groups.{name}.gpu_node = {group.gpu_node!r}; gpu_nodes has {known}"
                )
        if self.schedule.cron:
            if not self.cluster.enabled:
                raise ValueError("schedule.cron runs on the standing cluster; set cluster.enabled")
            if missing := [step for step in self.schedule.steps if step not in self.jobs]:
                raise ValueError(f"schedule.steps names {missing[0]!r}; give it a table in jobs")
        if self.service.replicas.dicomweb and not self.pacs.url:
            raise ValueError(
                "service.replicas.dicomweb needs pacs.url and pacs.cidrs: they open the network to "
                "that server"
            )
        if self.mlflow.replicas > 1 and not self.mlflow.postgres_secret:
            raise ValueError(
                f"mlflow.replicas = {self.mlflow.replicas} needs PostgreSQL, since SQLite has one "
                "writer; set mlflow.postgres_secret and mlflow.artifacts"
            )
        if self.mlflow.artifacts.startswith("s3://") and not self.object_store.endpoint:
            raise ValueError(
                f"mlflow.artifacts = {self.mlflow.artifacts!r} needs object_store.endpoint"
            )
        self._check_quota()
        return self

    def _named_groups(self) -> list[tuple[str, str]]:
        """Where a group is named, and which."""
        named = [("cluster.groups", name) for name in self.cluster.groups]
        for job, settings in self.jobs.items():
            named += [(f"jobs.{job}.workers", name) for name in settings.workers]
        if self.service.enabled:
            named.append(("service.group", self.service.group))
        return named

    def _check_quota(self) -> None:
        """Refuse a job that no quota would ever let start."""
        for name, job in self.jobs.items():
            for field in ("cpu", "memory"):
                asked = sum(
                    number * to_number(getattr(self.groups[group], field))
                    for group, number in job.workers.items()
                ) + to_number(getattr(self.head, field))
                limit = getattr(self.quota, field)
                if asked > to_number(limit):
                    raise ValueError(
                        f"jobs.{name} asks for {asked:g} of {field} and quota.{field} is {limit}; "
                        "raise it"
                    )
            gpus = sum(number * self.groups[group].gpus for group, number in job.workers.items())
            if gpus > self.quota.gpus:
                limit = self.quota.gpus
                raise ValueError(
                    f"jobs.{name} asks for {gpus} GPUs and quota.gpus is {limit}; raise it"
                )

    @property
    def image_name(self) -> str:
        """The image as a Pod names it."""
        tagged = f"{self.image.name}:{self.image.tag or default_tag()}"
        return f"{tagged}@{self.image.digest}" if self.image.digest else tagged


def default_tag() -> str:
    """The tag of the image that belongs to the installed SonoRay."""
    from sonoray import __version__

    return f"{__version__}-ray{ray_version()}"


def ray_version() -> str:
    """The installed Ray, which is that of the lock."""
    from importlib.metadata import version

    return version("ray")


def packaged_sites() -> dict[str, Path]:
    """The sites that come with SonoRay, by name."""
    folder = Path(str(files("sonoray_jobs.cluster.kubernetes") / "sites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml")) if "." not in path.stem}


def load_site(named: str) -> tuple[Site, str]:
    """Read a site file and the road beside it.

    Args:
        named: a packaged site, or the path of a TOML file.

    Returns:
        The site, and the text of its road file.

    Raises:
        ConfigError: one line with every wrong key; or the road's file is missing or wrong.
    """
    from sonoray_jobs.road.config import load_road

    packaged = packaged_sites()
    path = packaged.get(named, Path(named))
    site = load_config(Site, path, presets=packaged)
    road = path.parent / site.road
    if (
        not road.is_file()
        and (beside := next(iter(packaged.values())).parent / site.road).is_file()
    ):
        road = beside
    if not road.is_file():
        raise ConfigError(f"{path}: road = {site.road!r} is no file beside it; write one")
    load_road(str(road))
    return site, road.read_text(encoding="utf-8")
