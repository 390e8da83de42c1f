"""The MLflow server: SQLite on a volume for one machine, or PostgreSQL, object store and users.

With accounts it asks everybody for a password: jobs write as `writer`, the service reads as
`reader`, and only who made an experiment or a model may change it, so that a Pod that faces the
network moves no alias. A Job brings the tables up to date and makes both users; its name holds the
hash of what it does, since a Job cannot be changed.
"""

import json

from sonoray_jobs.cluster.kubernetes.manifests.naming import (
    MLFLOW,
    MLFLOW_CLAIM,
    Object,
    hashed_name,
    metadata,
)
from sonoray_jobs.cluster.kubernetes.manifests.network import MIGRATION, MLFLOW_PORT, SERVER
from sonoray_jobs.cluster.kubernetes.manifests.pods import (
    S3_FOLDER,
    plain_pod,
    secret_env,
    secret_volume,
)
from sonoray_jobs.cluster.kubernetes.manifests.tenant import claim
from sonoray_jobs.cluster.kubernetes.site import Site

_AUTH_SETTINGS = (
    "umask 077; uri=$(printf %s \"$MLFLOW_BACKEND_STORE_URI\" | sed 's/%/%%/g'); "
    "printf '[mlflow]\\ndefault_permission = READ\\ndatabase_uri = %s\\nadmin_username = admin\\n"
    'authorization_function = mlflow.server.auth:authenticate_request_basic_auth\\n\' "$uri" '
    '> "$MLFLOW_AUTH_CONFIG_PATH"; '
)
"""MLflow takes the address of its users' tables from a file alone; it holds a password."""


def mlflow_objects(site: Site) -> list[Object]:
    """Deployment, Service, and what the chosen store needs beside them."""
    mlflow = site.mlflow
    served = [_deployment(site), _service(site)]
    if mlflow.postgres_secret:
        return [*served, _migration(site), _disruption_budget(site)]
    volume = claim(site, MLFLOW_CLAIM, "ReadWriteOnce", mlflow.volume_size, mlflow.volume_class)
    return [volume, *served]


def _command(site: Site) -> list[str]:
    mlflow = site.mlflow
    words = [
        "mlflow",
        "server",
        "--host=0.0.0.0",
        f"--port={MLFLOW_PORT}",
        "--workers=2",
        "--expose-prometheus=/tmp/metrics",
    ]
    if not mlflow.postgres_secret:
        return [
            *words,
            "--backend-store-uri=sqlite:////mlflow/mlflow.db",
            "--artifacts-destination=/mlflow/artifacts",
        ]
    words.append(f"--artifacts-destination={mlflow.artifacts}")
    if mlflow.accounts_secret:
        words.append("--app-name=basic-auth")
        return ["/bin/sh", "-ec", f"{_AUTH_SETTINGS}exec {' '.join(words)}"]
    return words


def _hosts(site: Site) -> str:
    """Names under which it may be asked, against DNS rebinding."""
    service = [MLFLOW, f"{MLFLOW}.{site.namespace}", f"{MLFLOW}.{site.namespace}.svc"]
    service.append(f"{MLFLOW}.{site.namespace}.svc.cluster.local")
    names = [f"{name}:{MLFLOW_PORT}" for name in (*service, "localhost", "127.0.0.1")]
    return ",".join([*names, *site.mlflow.hosts])


def _env(site: Site) -> list[Object]:
    mlflow = site.mlflow
    env: list[Object] = [
        # both are on by default and have been the way in (job API, pickled models)
        {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"},
        {"name": "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "value": "false"},
        {"name": "MLFLOW_SERVER_ALLOWED_HOSTS", "value": _hosts(site)},
    ]
    if mlflow.postgres_secret:
        env.append(secret_env("MLFLOW_BACKEND_STORE_URI", mlflow.postgres_secret, "uri"))
        env += [
            {"name": "MLFLOW_S3_ENDPOINT_URL", "value": site.object_store.endpoint},
            {"name": "AWS_DEFAULT_REGION", "value": site.object_store.region},
            {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{S3_FOLDER}/credentials"},
        ]
    if mlflow.accounts_secret:
        env += [
            {"name": "MLFLOW_AUTH_CONFIG_PATH", "value": "/tmp/auth.ini"},  # noqa: S108
            secret_env("MLFLOW_AUTH_ADMIN_PASSWORD", mlflow.accounts_secret, "admin_password"),
            # signs the forms of the server's own pages; alike on all replicas
            secret_env("MLFLOW_FLASK_SERVER_SECRET_KEY", mlflow.accounts_secret, "flask_key"),
        ]
    return env


def _deployment(site: Site) -> Object:
    mlflow = site.mlflow
    health: Object = {"httpGet": {"path": "/health", "port": "http"}}
    if mlflow.postgres_secret:
        volumes = {"s3": secret_volume(site.object_store.secret, S3_FOLDER)}
    else:
        volumes = {
            "mlflow": (
                {"persistentVolumeClaim": {"claimName": MLFLOW_CLAIM}},
                {"mountPath": "/mlflow"},
            )
        }
    container: Object = {
        "name": "mlflow",
        "command": _command(site),
        "env": _env(site),
        "ports": [{"name": "http", "containerPort": MLFLOW_PORT}],
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**health, "periodSeconds": 5},
        "livenessProbe": {**health, "timeoutSeconds": 10},
        "resources": {
            "requests": {"cpu": "200m", "memory": "1Gi", "ephemeral-storage": "2Gi"},
            "limits": {"memory": mlflow.memory, "ephemeral-storage": "2Gi"},
        },
    }
    template = plain_pod(site, container, volumes, "2Gi")
    template["metadata"]["labels"] |= SERVER
    if mlflow.replicas > 1:
        template["spec"]["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": SERVER},
            }
        ]
    # the volume is ReadWriteOnce and SQLite has one writer
    recreate = {"type": "Recreate"}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(site, MLFLOW),
        "spec": {
            "replicas": mlflow.replicas,
            "strategy": rolling if mlflow.postgres_secret else recreate,
            "selector": {"matchLabels": SERVER},
            "template": template,
        },
    }


def _service(site: Site) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(site, MLFLOW),
        "spec": {
            "selector": SERVER,
            "ports": [{"name": "http", "port": MLFLOW_PORT, "targetPort": "http"}],
        },
    }


def _migration(site: Site) -> Object:
    mlflow = site.mlflow
    env = [secret_env("MLFLOW_BACKEND_STORE_URI", mlflow.postgres_secret, "uri")]
    command = 'mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"'
    if mlflow.accounts_secret:
        command += "; exec python -m sonoray_jobs.cluster.kubernetes.mlflow_accounts"
        env += [
            {"name": "MLFLOW_TRACKING_URI", "value": f"http://{MLFLOW}:{MLFLOW_PORT}"},
            *(
                secret_env(
                    f"SONORAY_{name.upper()}_PASSWORD", mlflow.accounts_secret, f"{name}_password"
                )
                for name in ("admin", "writer", "reader")
            ),
        ]
    container: Object = {
        "name": "migrate",
        "command": ["/bin/sh", "-ec", command],
        "env": env,
        "resources": {
            "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"},
        },
    }
    template = plain_pod(site, container, {}, "1Gi")
    template["metadata"]["labels"] |= MIGRATION
    template["spec"]["restartPolicy"] = "Never"
    spec = {
        "backoffLimit": 6,
        "activeDeadlineSeconds": 1800,
        "ttlSecondsAfterFinished": 604_800,
        "template": template,
    }
    # a Job cannot be changed, so that another one needs another name
    name = hashed_name("mlflow-migrate", json.dumps(spec, sort_keys=True))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(site, name),
        "spec": spec,
    }


def _disruption_budget(site: Site) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(site, MLFLOW),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": SERVER}},
    }


def _metadata(site: Site, name: str) -> Object:
    made = metadata(site, name, "platform")
    made["labels"] |= SERVER if name == MLFLOW else MIGRATION
    return made
