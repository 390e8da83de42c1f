"""The page at `/docs`: the OpenAPI description as plain HTML.

Swagger's page loads its scripts from elsewhere, which a hospital's network does not reach and this
service does not want to. This one is text: paths, parameters with types, statuses.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;"
    "text-align:left;vertical-align:top}code{background:#f3f3f3}"
)


def docs_page(description: Mapping[str, Any]) -> str:
    """Write an OpenAPI description as a page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(description['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(description['info']['title'])} {escape(description['info']['version'])}</h1>",
        f"<p>{escape(description['info'].get('description', ''))}",
        "<p>For programs: <a href=openapi.json>openapi.json</a>",
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts.append("<h2>Shapes</h2>")
    for name, schema in description["components"]["schemas"].items():
        parts += _schema(name, schema)
    return "\n".join(parts)


def _operation(title: str, operation: Mapping[str, Any]) -> list[str]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    rows = [
        f"<tr><td>{escape(status)}<td>{escape(answer['description'])}"
        for status, answer in operation["responses"].items()
    ]
    takes = f"<p>Body: {_type(body['schema'])}" if body else ""
    told = escape(operation.get("description", operation.get("summary", "")))
    return [f"<h2><code>{escape(title)}</code></h2><p>{told}{takes}", _table(rows)]


def _schema(name: str, schema: Mapping[str, Any]) -> list[str]:
    needed = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(key)}</code>{' (needed)' if key in needed else ''}"
        f"<td>{_type(value)}<td>{escape(value.get('description', ''))}"
        for key, value in schema.get("properties", {}).items()
    ]
    told = escape(schema.get("description", ""))
    return [f"<h3 id='{escape(name)}'><code>{escape(name)}</code></h3><p>{told}", _table(rows)]


def _table(rows: list[str]) -> str:
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(map(_type, schema[union]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(escape(repr(value)) for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "at least"),
            ("maximum", "at most"),
            ("maxLength", "at most, in characters,"),
        )
        if key in schema
    ]
    return escape(", ".join([str(schema.get("type", "anything")), *limits]))
