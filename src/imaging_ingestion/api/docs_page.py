"""The page at /api/docs: what the OpenAPI document says, as plain HTML from this server alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: REST API</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:3rem auto;padding:0 1rem}}
code{{background:#eee;padding:.1em .3em}} h2{{margin-top:2.5rem;font-size:1.1rem}}
table{{border-collapse:collapse}} td,th{{text-align:left;vertical-align:top;padding:.2rem .8rem
.2rem 0;border-top:1px solid #ddd}}</style></head><body>
<h1>{title} {version}</h1>
<p>For machines: <a href="openapi.json">openapi.json</a>. Whatever is wrong with a request is
answered by a problem document (RFC 9457).</p>
{operations}
</body></html>
"""

#: A limit from here on is that of the computer, which nobody wants to read.
_ALL = 1 << 53


def docs_page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    operations = "\n".join(
        _operation(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]), version=escape(info["version"]), operations=operations
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    shown = f"<code>{escape(method.upper())} {escape(path)}</code>"
    if method == "get" and "{" not in path:
        shown = f'<a href="{escape(path.removeprefix("/"))}">{shown}</a>'
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(place)}</td>"
        f"<td>{escape(what)}</td></tr>"
        for name, place, what in _parameters(operation, schemas)
    )
    return (
        f"<h2>{shown}</h2><p>{escape(operation.get('summary', ''))}."
        f" {escape(operation.get('description', ''))}</p>"
        + (f"<table>{rows}</table>" if rows else "")
    )


def _parameters(
    operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Name, place and meaning of each parameter, and of each field of the body."""
    for parameter in operation.get("parameters", ()):
        yield parameter["name"], parameter["in"], _meaning(parameter, parameter["schema"], schemas)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        fields = _resolved(body["schema"], schemas)["properties"]
        for name, schema in fields.items():
            yield name, "body", _meaning(schema, schema, schemas)


def _meaning(
    described: Mapping[str, Any], schema: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    """What a parameter is for, the values it takes, and what it is if left out."""
    default = schema.get("default")
    left_out = "" if default is None else f"; {default} if left out"
    return f"{described.get('description', '')} ({_values(schema, schemas)}{left_out})".strip()


def _values(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        choices = [_resolved(one, schemas) for one in schema["anyOf"]]
        return ", ".join(_values(one, schemas) for one in choices if one.get("type") != "null")
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "items" in schema:
        return f"any of {_values(schema['items'], schemas)}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None:
        return str(schema["type"])
    return f"{schema['type']} {low}..{high}" if high < _ALL else f"{schema['type']} from {low:g}"


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, where there is a reference to it."""
    reference = schema.get("$ref")
    return schema if reference is None else schemas[reference.rpartition("/")[2]]
