"""What the OpenAPI page says of the service: bodies, errors, keys.

Bodies are read by the service itself, under its limits, so FastAPI has to be told of them.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sonoray_serve.clinic.feedback import FeedbackRequest
from sonoray_serve.clinic.reports import ReportRequest
from sonoray_serve.http.gate import OPEN_PATHS
from sonoray_serve.http.recognition import RecognizeRequest
from sonoray_serve.shapes import answers, api

_SAID = {
    400: "The request is malformed or exceeds a limit; `code` names the reason.",
    401: "There is no valid key.",
    403: "The key does not open this path.",
    404: "There is no such model, study or path.",
    405: "The path does not take this method.",
    413: "The body is too large.",
    429: "The queues are full; Retry-After says when to try again.",
    500: "The service failed.",
    502: "The DICOMweb server did not take a report, or did not give a study.",
    503: "The model or the DICOMweb server is not there just now; Retry-After says when to try "
    "again.",
    504: "The deadline has passed.",
}


def may_answer(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI page says of errors."""
    return {
        status: {"model": answers.ErrorAnswer, "description": _SAID[status]} for status in statuses
    }


WORK_ERRORS = may_answer(400, 401, 403, 404, 413, 429, 500, 502, 503, 504)


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The request body of a path, for the OpenAPI page."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
            },
        }
    }


STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def describe_api(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the bodies that FastAPI does not read itself, and the key."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    kinds: tuple[type[BaseModel], ...] = (
        *(api.ChatRequest, api.CompletionRequest, api.EmbeddingRequest),
        *(RecognizeRequest, FeedbackRequest, ReportRequest),
    )
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    components = found.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **schemas["$defs"]}
    # 422 is FastAPI's own answer to what it validates, and it validates nothing here
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["security"] = [] if path in OPEN_PATHS else [{"key": []}]
    return found
