"""The OpenAPI page against what answers, as schemathesis sees both."""

from collections.abc import Callable
from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def test_every_path_answers_as_its_description_says(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_api(), headers=headers)
    paths = []
    for found in schema.get_all_operations():
        operation = found.ok()
        paths.append(operation.path)

        @settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answer(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        answer()
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models", "/healthz"} <= set(paths)
