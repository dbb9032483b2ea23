"""What answers look like, for the OpenAPI document: JSON schemas of the msgspec structs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

_TEMPLATE = "#/components/schemas/{name}"


class Problem(msgspec.Struct, frozen=True):
    """A problem document (RFC 9457): what is wrong, and what would be right."""

    type: str
    title: str
    status: int
    detail: str


#: Every resource answers so when something is wrong.
PROBLEM = {
    "description": "What is wrong.",
    "content": {"application/problem+json": {"schema": {"$ref": _TEMPLATE.format(name="Problem")}}},
}


def answers(answer: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route whose answer is this struct, which `describe` is told of."""
    reference = {"$ref": _TEMPLATE.format(name=answer.__name__)}
    return {
        200: {
            "description": (answer.__doc__ or "").split("\n", 1)[0],
            "content": {"application/json": {"schema": reference}},
        }
    }


def describe(
    api: FastAPI,
    structs: Iterable[type[msgspec.Struct]],
    beside: Mapping[str, Mapping[str, Any]],
) -> None:
    """Let the API's OpenAPI document have the schemas of its answers.

    `beside` are paths of the same server that are not below the API's root.
    """
    make = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = make()
            _, schemas = msgspec.json.schema_components([Problem, *structs], ref_template=_TEMPLATE)
            document["paths"].update(beside)
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            api.openapi_schema = document
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
