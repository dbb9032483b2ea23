"""The description of the API: complete, true, and from this server alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from api_site import ApiSite
from event_core import record, stored

from imaging_ingestion.manifest import revision


async def document_of(site: ApiSite) -> dict[str, Any]:
    found: dict[str, Any] = await site.get("/openapi.json")
    return found


def schema_problems(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """What of a value a schema does not allow: the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return schema_problems(document, document["components"]["schemas"][name], value)
    if "anyOf" in schema:
        tries = [schema_problems(document, one, value) for one in schema["anyOf"]]
        return min(tries, key=len)
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    wanted = schema.get("type")
    if wanted is not None and not isinstance(value, kinds[wanted]):
        return [f"{value!r} is no {wanted}"]
    if wanted == "array":
        return [p for one in value for p in schema_problems(document, schema["items"], one)]
    if wanted == "object":
        lacking = [f"{name} is missing" for name in schema.get("required", ()) if name not in value]
        inside = [
            problem
            for name, part in value.items()
            for problem in (
                schema_problems(document, schema["properties"][name], part)
                if name in schema.get("properties", {})
                else [f"{name} is not described"]
            )
        ]
        return lacking + inside
    return []


async def test_every_answer_is_as_the_document_describes_it(site: ApiSite) -> None:
    await record(site.database, stored("1"), stored("2", study="2"))
    await site.database.write(revision.revise, 1, 1, lambda *_: "http://x")
    document = await document_of(site)
    paths = {
        "/changes": "/changes",
        "/deliveries": "/deliveries",
        "/bindings": "/bindings",
        "/studies": "/studies",
        "/spaces": "/spaces",
        "/revisions/{space}/{study}": "/revisions/default/1",
        "/revisions/{space}/{study}/{number}": "/revisions/default/1/0",
    }
    for described, real in paths.items():
        content = document["paths"][described]["get"]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
        assert schema["$ref"].rpartition("/")[2] in document["components"]["schemas"]
        assert schema_problems(document, schema, await site.get(real)) == [], real
    replay = document["paths"]["/replay"]["post"]["responses"]["200"]["content"]
    answer = await site.post("/replay", {})
    assert schema_problems(document, replay["application/json"]["schema"], answer) == []
    problem = document["components"]["schemas"]["Problem"]
    found = await site.get("/revisions/default/404", 404)
    assert schema_problems(document, problem, found) == []


async def test_the_document_is_whole_and_every_reference_in_it_leads_somewhere(
    site: ApiSite,
) -> None:
    document = await document_of(site)
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"], name
    assert "x-struct" not in text
    assert document["servers"] == [{"url": "/api"}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            names = [one["name"] for one in operation["parameters"]]
            assert "core" in names or path == "/events", (method, path)


class Links(HTMLParser):
    """Collects whatever a page makes a browser load or offers to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, v or "") for k, v in attributes if k in {"href", "src", "action"}]


async def test_the_page_needs_no_other_host_and_its_links_work(site: ApiSite) -> None:
    async with site.client.get(f"{site.url}/docs") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = await answer.text()
    document = await document_of(site)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page
            assert operation["summary"] in page
    assert "stored | replaced" in page
    assert "1..1000" in page
    links = Links()
    links.feed(page)
    assert {tag for tag, _ in links.found} == {"a"}
    for _, target in links.found:
        assert "//" not in target
        async with site.client.get(f"{site.url}/{target}") as answer:
            assert answer.status == 200
            answer.close()
