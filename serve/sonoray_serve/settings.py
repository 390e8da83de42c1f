"""What can be configured about the service; importable without Ray, FastAPI or torch.

`ServeConfig` is the `serve` section of a road's configuration. `AppArgs` adds what only the start
knows (model, keys) and is also the shape of `args:` in a Ray Serve YAML, where the import path is
`sonoray_serve.app:build`.

The defaults fit all three deployments into 0.85 CPU, so that they run on a 2-core laptop beside
one other process; memory for pixels is bounded by `studies_in_memory * max_study_pixels` bytes a
colour channel, 0.3 GB by default.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from llava_ultra.parameters.precision_names import AnswerPrecision
from sonoray.config.model import Config
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.privacy.deidentify import DeidentifyConfig

APP_NAME = "sonoray"
"""Name of the Serve application; its deployments are `ingress`, `vision` and `engine`."""

MAX_ITEMS = 1_024
"""Longest list that a request may have, whatever is configured."""

_DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
"""A sha256 in hex, as `http.auth.digest_key` gives it."""


class Limits(Config):
    """Caps on what one request may ask for."""

    max_body_bytes: int = Field(default=64_000_000, gt=0)
    """Largest request body; counted while it arrives, whatever Content-Length says."""
    max_images: int = Field(default=16, gt=0, lt=MAX_ITEMS)
    """Images of one study; the model's own maximum counts too where it is smaller."""
    min_images: int = Field(default=0, ge=0, lt=MAX_ITEMS)
    """Images that a question must have; one without is answered from its text, with a remark."""
    max_image_bytes: int = Field(default=16_000_000, gt=0)
    """Largest encoded image."""
    max_object_bytes: int = Field(default=48_000_000, gt=0)
    """Largest DICOM object; a loop is many frames."""
    max_image_pixels: int = Field(default=25_000_000, gt=0)
    """Largest width x height of one image."""
    max_study_pixels: int = Field(default=50_000_000, gt=0)
    """Largest sum of width x height over the images of a study."""
    max_fetched_bytes: int = Field(default=256_000_000, gt=0)
    """Most bytes of the objects of a study that is fetched from the DICOMweb server."""
    max_messages: int = Field(default=64, gt=0, le=MAX_ITEMS)
    """Turns of a conversation."""
    max_prompt_chars: int = Field(default=8_000, gt=0)
    """Characters over all text of a conversation, with the tools that it offers."""
    max_tokens: int = Field(default=1_024, gt=0)
    """Largest `max_tokens` that a request may name."""
    default_tokens: int = Field(default=256, gt=0)
    """`max_tokens` of a request that names none."""
    max_choices: int = Field(default=8, gt=0, le=MAX_ITEMS)
    """Answers that one request may ask for as `n`; each takes a place among those decoded."""
    deadline_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Time for a whole request, from its first byte to the last token."""
    max_requests: int = Field(default=32, gt=0)
    """Requests in work per ingress replica; more are refused with 429 before their body is read."""
    key_per_minute: int = Field(default=0, ge=0)
    """Requests a minute of one key whose terms say nothing else, per ingress replica; 0: any."""
    key_at_once: int = Field(default=0, ge=0)
    """Requests of such a key that are in work at once, per ingress replica; 0: any."""
    studies_in_memory: int = Field(default=2, gt=0)
    """Studies decoded at once per ingress replica; others wait undecoded."""
    retry_after_s: int = Field(default=2, ge=0)
    """The least that a refused client is told to wait. It is told the time in which, at the pace
    of the last answers, all requests in work will have been answered; at most the deadline."""

    @property
    def max_marks(self) -> int:
        """Commas and opening brackets that a body may have: all text, and the shape around it.

        OpenAI's client writes 9 of them for a message that it sends back and 6 for an image.
        """
        return self.max_prompt_chars + 32 * (self.max_messages + self.max_images) + 256

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        if self.default_tokens > self.max_tokens:
            raise ValueError(
                f"default_tokens = {self.default_tokens} exceeds max_tokens = {self.max_tokens}; "
                "lower it"
            )
        return self


class Replicas(Config):
    """Size and number of one deployment's replicas."""

    num_cpus: float = Field(gt=0)
    """CPUs that each replica reserves; Ray limits torch to as many threads, at least one."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs that each replica reserves; above 0 the model goes to `cuda`."""
    min_replicas: int = Field(default=1, gt=0)
    """Replicas that are always up."""
    max_replicas: int = Field(default=1, gt=0)
    """Replicas under load; they scale by the work in hand: images, answers and their tokens."""
    upscale_delay_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How long more replicas must have been wanted before they start."""
    downscale_delay_s: float = Field(default=600.0, ge=0, allow_inf_nan=False)
    """How long fewer must have been wanted before one ends; what it works on is finished."""
    max_ongoing: int = Field(gt=0)
    """Requests that a replica works on at once."""
    max_queued: int = Field(gt=0)
    """Requests that wait at each caller; more are refused with 429."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas = {self.max_replicas} is below min_replicas = {self.min_replicas}; "
                "raise it"
            )
        return self


class Batching(Config):
    """How one engine replica decodes many answers together, and what is kept for the next ones.

    Memory is counted before it is taken: an answer begins when there is room for its prompt and
    its `max_tokens`, and then never has to give way.
    """

    max_answers: int = Field(default=16, gt=0)
    """Answers that are decoded together, where the memory allows as many."""
    key_value_bytes: int = Field(default=512_000_000, gt=0)
    """Keys and values of all answers in decoding; at least one full context."""
    prefix_bytes: int = Field(default=64_000_000, ge=0)
    """Keys and values of prompts' beginnings, so that a second question about a study reads its
    text alone; 0 keeps none."""
    study_bytes: int = Field(default=128_000_000, ge=0)
    """Encoded studies that are kept by name, so that a second question about a study needs neither
    its pixels nor the encoders; 0 keeps none."""
    prompt_tokens_per_step: int = Field(default=512, gt=0)
    """Prompt tokens that are read between two tokens of the answers in decoding."""
    stream_interval_s: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Least time between two pieces of one streamed answer; the first comes at once. A piece costs
    two trips between processes."""


class ShadowConfig(Config):
    """A candidate that is asked what others are asked, and answers nobody."""

    name: str = ""
    """Of the candidate in the file of adapters, as `next`; empty: nobody is asked."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the requests about the service's own model that are copied."""
    max_waiting: int = Field(default=1, gt=0, le=64)
    """Copies in hand at once per ingress replica, each with its pixels; others are not made."""


class ServeConfig(Config):
    """Everything about the service but its model and its keys."""

    limits: Limits = Limits()
    """Caps on requests."""
    ingress: Replicas = Replicas(num_cpus=0.1, max_ongoing=64, max_queued=64)
    """The HTTP side. `max_ongoing` stands above `limits.max_requests`, so that the ingress itself
    can still answer a refused request with an OpenAI error and `/healthz` while it is full."""
    vision: Replicas = Replicas(num_cpus=0.25, max_ongoing=2, max_queued=32)
    """The encoders: `max_ongoing` studies are encoded at once."""
    playground: bool = True
    """Whether `/` shows a page to try the service with: it asks the API, with the key that is typed
    there, and can do nothing without one."""
    shadow: ShadowConfig = ShadowConfig()
    """A candidate that is tried on copies of the traffic; needs `max_models` above 1."""
    max_models: int = Field(default=1, gt=0, le=64)
    """Models that are served at once, of one language model and one pair of towers. With 1 the
    adapter is merged into the decoder, which then decodes a little faster; with more, models come
    and go without a restart, and rows of all of them are decoded together."""
    engine: Replicas = Replicas(num_cpus=0.5, max_ongoing=32, max_queued=16)
    """The language model. Of `max_ongoing` requests, `batching.max_answers` are decoded together;
    the others wait in the replica, where the next one is at hand when an answer ends."""
    batching: Batching = Batching()
    """How an engine replica decodes its answers."""
    encoded_image_bytes: int = Field(default=64_000_000, ge=0)
    """Encoded images that each vision replica keeps, so that a second question about them is not
    encoded again; 0 keeps none."""
    precision: AnswerPrecision = "trained"
    """What towers and model multiply in; by default what they did when the model was trained."""
    feedback: str = "sqlite"
    """Where feedback is kept: `sqlite` for `feedback.db` in the workspace, `none`, or a SQLAlchemy
    URL without a password, as `postgresql://sonoray@db/sonoray` (PGPASSWORD or ~/.pgpass has it).
    Where several nodes run an ingress, use PostgreSQL."""
    dicomweb: str = ""
    """DICOMweb server from which a study is fetched that a request names by its UID, and on which
    `/v1/reports` stores structured reports where it is asked to, as
    `https://pacs.example.org/dicom-web`; credentials as for `sonoray ingest dicomweb`, in the
    environment. Empty: none."""
    calibration: str = ""
    """The `calibration.json` that `sonoray recognize` wrote for the served model's training: then
    `/v1/recognize` answers with probabilities about that bank's classes; empty: shares alone."""
    student_budget: float | None = Field(default=None, ge=0, le=1)
    """Accuracy over all closed questions that may be lost where the student that a model was
    exported with answers those of which it is sure, under the model's own name; None: the student
    answers under `NAME:student` alone."""
    haproxy: bool = True
    """Whether HAProxy stands before the ingress of a private Ray, where the platform has it."""
    audit_log: str = ""
    """Folder of the log of who asked when and how it ended; every node may write to it. Empty
    writes none."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """Time for all replicas to find a place and load the model."""
    health_check_period_s: float = Field(default=10.0, gt=0)
    """How often Ray Serve asks each replica for its health."""
    weights_check_period_s: float = Field(default=300.0, gt=0)
    """How often a health check hashes the encoders' weights in memory again."""

    @field_validator("feedback")
    @classmethod
    def _no_password(cls, url: str) -> str:
        if urlsplit(url).password is not None:
            raise ValueError(
                "the URL of serve.feedback holds a password, which would stand in Ray's and "
                "MLflow's records; leave it out and set PGPASSWORD"
            )
        return url

    @model_validator(mode="after")
    def _room_to_refuse(self) -> Self:
        if self.ingress.max_ongoing <= self.limits.max_requests:
            raise ValueError(
                f"ingress.max_ongoing = {self.ingress.max_ongoing} must exceed "
                f"limits.max_requests = {self.limits.max_requests}, else a full ingress answers "
                "neither health checks nor refusals; raise it"
            )
        return self


Scope = Literal["chat", "embeddings", "feedback", "reports", "models", "metrics", "docs", "studies"]
"""What a key may be restricted to: paths, and `studies` of the DICOMweb server by their UID."""


class KeyTerms(Config):
    """What a key is admitted to, and until when."""

    expires: date | None = None
    """Last day on which it is admitted, in UTC."""
    scopes: tuple[Scope, ...] = get_args(Scope)
    """What it opens."""
    per_minute: int | None = Field(default=None, gt=0)
    """Requests a minute; None for what `limits.key_per_minute` says."""
    at_once: int | None = Field(default=None, gt=0)
    """Requests in work at once; None for what `limits.key_at_once` says."""


class HostedModel(Config):
    """A further model of a service."""

    model: str = Field(min_length=1)
    """Exported model: a folder that every node sees, or an MLflow URI with a version."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of its manifest; another one is refused."""


class Roster(Config):
    """Which models a service has, and by which names: the `user_config` of its deployments.

    Ray Serve hands it to the replicas that are up, which is how models come and go in them.
    """

    models: tuple[HostedModel, ...] = ()
    """All that have a name, the first one of the service too where it has one."""
    names: dict[str, str] = Field(default_factory=dict)
    """Digest by the name that requests use."""


class DicomReading(Config):
    """How a DICOM object of a request becomes pictures: as ingest does it."""

    dicom: DicomConfig = DicomConfig()
    """Frames, cut, modalities: the road's section `dicom`."""
    deidentify: DeidentifyConfig = DeidentifyConfig()
    """Text in pictures: what the road's section `ingest` says of it."""

    @classmethod
    def of(cls, dicom: DicomConfig, deidentify: DeidentifyConfig) -> "DicomReading":
        """Take it from a road's sections `dicom` and `ingest`."""
        own = {name: getattr(deidentify, name) for name in DeidentifyConfig.model_fields}
        return cls(dicom=dicom, deidentify=DeidentifyConfig(**own))


class AppArgs(Config):
    """What `build` needs: model, keys, configuration.

    Refused without any key digest, unless `insecure_local` says that the port is reachable from
    this machine alone. In place of all of them, `file` may name a TOML file that has them, so that
    a Serve YAML need not be touched to change the model or a limit; what stands beside it counts
    more.
    """

    model: str = Field(min_length=1)
    """Exported model: a folder that every node sees, or an MLflow URI such as
    `models:/llava-ultra-phantom/3`."""
    model_name: str = Field(default="llava-ultra", min_length=1)
    """The name that requests use."""
    model_digest: str = ""
    """Expected digest of the model's manifest; replicas refuse any other. Empty: whatever the
    model's own manifest says, which cannot notice an alias that moves between two replicas."""
    workspace: str = ".sonoray"
    """Where replicas keep a model that is given by URI."""
    api_key_digests: tuple[str, ...] = ()
    """Sha256 (hex) of each admitted API key; see `sonoray_serve.keys.auth.digest_key`."""
    api_key_digests_folder: str = ""
    """Folder of files with such digests, one a line, in place of `api_key_digests`: it is read
    again while the service runs (`sonoray_serve.keys.key_folder`)."""
    key_terms: dict[str, KeyTerms] = Field(default_factory=dict)
    """Terms by digest of those keys that are not admitted to everything for ever."""
    insecure_local: bool = False
    """Serve without keys. Only for a loopback address."""
    config: ServeConfig = ServeConfig()
    """Limits and sizes."""
    reading: DicomReading = DicomReading()
    """How DICOM objects become pictures."""
    roster: Roster = Roster()
    """Further models, with `config.max_models` above 1; without names, the model alone."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if len(self.roster.models) > self.config.max_models:
            raise ValueError(
                f"{len(self.roster.models)} models, and max_models = {self.config.max_models}; "
                "raise serve.max_models, or serve fewer"
            )
        return self

    @model_validator(mode="after")
    def _candidate_has_room(self) -> Self:
        name = self.config.shadow.name
        if name and self.config.max_models == 1:
            raise ValueError(
                f"shadow.name = {name!r} names a second model, and max_models = 1; raise "
                "serve.max_models to 2 or more"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, values: Any) -> Any:  # noqa: ANN401 - what pydantic was given
        if not isinstance(values, Mapping) or "file" not in values:
            return values
        path = Path(str(values["file"]))
        try:
            read = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"file = {str(path)!r} cannot be read ({error.strerror}); name a TOML file"
            ) from None
        except ValueError as error:  # malformed TOML, or no UTF-8
            raise ValueError(f"file = {str(path)!r} is no TOML: {error}") from None
        return {**read, **{key: value for key, value in values.items() if key != "file"}}

    @model_validator(mode="after")
    def _fail_closed(self) -> Self:
        has_keys = bool(self.api_key_digests or self.api_key_digests_folder)
        if not has_keys and not self.insecure_local:
            raise ValueError(
                "no API key; give --api-key-file FILE or, on a loopback address only, "
                "--insecure-local"
            )
        for digest in self.api_key_digests:
            if not _DIGEST_PATTERN.fullmatch(digest):
                raise ValueError(
                    f"api_key_digests holds a value of {len(digest)} characters that is no sha256 "
                    "in lower-case hex; give digests, never the keys themselves"
                )
        return self
