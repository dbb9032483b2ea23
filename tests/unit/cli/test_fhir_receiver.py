"""The FHIR receiver does what R4 says of a server, so that what is tested against it means much."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from imaging_ingestion.cli.fhir_receiver import Fault, FhirReceiver, create_fhir_receiver
from imaging_ingestion.http_server import HttpServer

UID = {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
BY_UID = "identifier=urn%3Adicom%3Auid%7Curn%3Aoid%3A1.2.3"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Client:
    url: str
    session: aiohttp.ClientSession
    receiver: FhirReceiver

    async def ask(self, method: str, path: str, **how: Any) -> Answer:
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, **how) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.text())

    async def get(self, path: str, **how: Any) -> Answer:
        return await self.ask("GET", path, **how)

    async def post(self, path: str, **how: Any) -> Answer:
        return await self.ask("POST", path, **how)

    async def put(self, path: str, **how: Any) -> Answer:
        return await self.ask("PUT", path, **how)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Client]:
    app = create_fhir_receiver(**settings)
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(f"http://127.0.0.1:{server.port}", session, app.state.receiver)
    finally:
        await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving() as client:
        yield client


def study(**more: Any) -> dict[str, Any]:
    subject = {"display": "somebody"}
    return {
        "resourceType": "ImagingStudy",
        "identifier": [UID],
        "status": "available",
        "subject": subject,
        **more,
    }


def patient(value: str = "P1") -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.9", "value": value}]}


def transaction(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}


def issue(answer: Any) -> tuple[int, str]:
    assert answer.json()["resourceType"] == "OperationOutcome"
    return answer.status, answer.json()["issue"][0]["code"]


async def test_a_resource_is_made_read_and_replaced_in_versions(client: Client) -> None:
    made = await client.post("/fhir/ImagingStudy", json=study())
    assert made.status == 201
    assert made.headers["ETag"] == 'W/"1"'
    assert made.headers["Location"].endswith("/fhir/ImagingStudy/1/_history/1")
    again = await client.put("/fhir/ImagingStudy/1", json=study(id="1", description="x"))
    assert (again.status, again.headers["ETag"]) == (200, 'W/"2"')
    assert (await client.get("/fhir/ImagingStudy/1")).json()["description"] == "x"
    assert "description" not in (await client.get("/fhir/ImagingStudy/1/_history/1")).json()
    assert (await client.get("/fhir/ImagingStudy/1/_history")).json()["total"] == 2


async def test_a_replacement_may_ask_for_the_version_it_replaces(client: Client) -> None:
    await client.post("/fhir/ImagingStudy", json=study())
    for version, status in (("2", 412), ("1", 200), ("1", 412)):
        answer = await client.put(
            "/fhir/ImagingStudy/1", json=study(id="1"), headers={"If-Match": f'W/"{version}"'}
        )
        assert answer.status == status


async def test_a_conditional_create_makes_one(client: Client) -> None:
    first = await client.post("/fhir/ImagingStudy", json=study(), headers={"If-None-Exist": BY_UID})
    second = await client.post(
        "/fhir/ImagingStudy", json=study(), headers={"If-None-Exist": BY_UID}
    )
    assert (first.status, second.status) == (201, 200)
    await client.post("/fhir/ImagingStudy", json=study())
    third = await client.post("/fhir/ImagingStudy", json=study(), headers={"If-None-Exist": BY_UID})
    assert issue(third) == (412, "multiple-matches")


async def test_a_conditional_update_makes_or_replaces_one(client: Client) -> None:
    url = f"/fhir/ImagingStudy?{BY_UID}"
    assert [(await client.put(url, json=study())).status for _ in range(2)] == [201, 200]
    assert (await client.get(url)).json()["entry"][0]["resource"]["meta"]["versionId"] == "2"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (BY_UID, 1),
        ("identifier=urn:oid:1.2.3", 1),
        ("identifier=urn:dicom:uid|", 1),
        ("identifier=|urn:oid:1.2.3", 0),
        ("identifier=other|x,urn:dicom:uid|urn:oid:1.2.3", 1),
        (r"identifier=urn:x|a\,b\|c\$d\\e", 1),
        ("identifier=urn:x|a", 0),
        ("_id=1", 1),
        ("colour=red", 1),
    ],
)
async def test_a_search_by_identifier_is_by_token(client: Client, query: str, found: int) -> None:
    odd = {"system": "urn:x", "value": r"a,b|c$d\e"}
    await client.post("/fhir/ImagingStudy", json=study(identifier=[UID, odd]))
    assert (await client.get(f"/fhir/ImagingStudy?{query}")).json()["total"] == found


async def test_strict_handling_refuses_what_is_not_known(client: Client) -> None:
    answer = await client.get(
        "/fhir/ImagingStudy?colour=red", headers={"Prefer": "handling=strict"}
    )
    assert issue(answer) == (400, "not-supported")


async def test_a_long_answer_is_paged() -> None:
    async with serving(page_size=2) as client:
        for _ in range(3):
            await client.post("/fhir/ImagingStudy", json=study())
        first = (await client.get(f"/fhir/ImagingStudy?{BY_UID}")).json()
        assert (first["total"], len(first["entry"])) == (3, 2)
        (following,) = [link["url"] for link in first["link"] if link["relation"] == "next"]
        last = (await client.get(following)).json()
        assert [entry["resource"]["id"] for entry in last["entry"]] == ["3"]
        assert [link["relation"] for link in last["link"]] == ["self"]


async def test_a_transaction_resolves_references_between_its_entries(client: Client) -> None:
    bundle = transaction(
        {
            "fullUrl": "urn:uuid:s",
            "resource": study(subject={"reference": "urn:uuid:p"}),
            "request": {"method": "POST", "url": "ImagingStudy", "ifNoneExist": BY_UID},
        },
        {
            "fullUrl": "urn:uuid:p",
            "resource": patient(),
            "request": {
                "method": "POST",
                "url": "Patient",
                "ifNoneExist": "identifier=urn:oid:1.9|P1",
            },
        },
    )
    for expected in ("201 Created", "200 OK"):
        answer = await client.post("/fhir", json=bundle)
        assert answer.status == 200
        assert [e["response"]["status"] for e in answer.json()["entry"]] == [expected] * 2
    found = (await client.get(f"/fhir/ImagingStudy?{BY_UID}")).json()
    assert found["total"] == 1
    reference = found["entry"][0]["resource"]["subject"]["reference"]
    assert (await client.get(f"/fhir/{reference}")).json()["identifier"][0]["value"] == "P1"
    assert (await client.get(f"/fhir/ImagingStudy?patient={reference}")).json()["total"] == 1


async def test_a_transaction_that_fails_leaves_nothing(client: Client) -> None:
    await client.post("/fhir/ImagingStudy", json=study())
    bundle = transaction(
        {"resource": patient(), "request": {"method": "POST", "url": "Patient"}},
        {
            "resource": study(id="1"),
            "request": {"method": "PUT", "url": "ImagingStudy/1", "ifMatch": 'W/"9"'},
        },
    )
    assert issue(await client.post("/fhir", json=bundle)) == (412, "conflict")
    assert (await client.get("/fhir/Patient")).json()["total"] == 0
    assert (await client.get("/fhir/ImagingStudy/1")).headers["ETag"] == 'W/"1"'


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (study(description=""), (422, "structure")),
        (study(series=[]), (422, "structure")),
        (study(subject={"reference": "Patient/99"}), (422, "not-found")),
        (study(subject={"reference": "#p"}), (422, "invalid")),
        (study(subject={"reference": "urn:uuid:p"}), (422, "invalid")),
        ({"resourceType": "ImagingStudy", "status": "available"}, (422, "required")),
        (patient(), (400, "invalid")),
        ([], (400, "structure")),
    ],
)
async def test_what_no_server_should_keep_is_refused(
    client: Client, resource: Any, expected: tuple[int, str]
) -> None:
    assert issue(await client.post("/fhir/ImagingStudy", json=resource)) == expected
    assert (await client.get("/fhir/ImagingStudy")).json()["total"] == 0


async def test_what_is_not_there_is_404_and_what_was_410(client: Client) -> None:
    await client.post("/fhir/ImagingStudy", json=study())
    assert (await client.ask("DELETE", "/fhir/ImagingStudy/1")).status == 204
    assert issue(await client.get("/fhir/ImagingStudy/1")) == (410, "deleted")
    assert issue(await client.get("/fhir/ImagingStudy/2")) == (404, "not-found")
    assert issue(await client.get("/fhir/nothing/at/all/there")) == (404, "not-found")
    assert issue(await client.ask("PATCH", "/fhir/ImagingStudy/1")) == (405, "not-supported")
    assert (await client.get("/fhir/ImagingStudy")).json()["total"] == 0


async def test_what_is_no_json_is_refused(client: Client) -> None:
    answer = await client.post("/fhir/Patient", data=b"<x/>", headers={"Content-Type": "text/xml"})
    assert issue(answer) == (415, "not-supported")
    kind = {"Content-Type": "application/fhir+json; charset=utf-8"}
    answer = await client.post("/fhir/Patient", data=b"{", headers=kind)
    assert issue(answer) == (400, "structure")


async def test_an_authorization_may_be_asked_for() -> None:
    async with serving(authorization="Bearer secret") as client:
        refused = await client.get("/fhir/Patient")
        assert issue(refused) == (401, "login")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        good = {"Authorization": "Bearer secret"}
        assert (await client.get("/fhir/Patient", headers=good)).status == 200


async def test_a_browser_is_shown_json(client: Client) -> None:
    shown = await client.get("/fhir/metadata", headers=BROWSER)
    assert shown.headers["Content-Type"] == "application/json"
    assert shown.text.startswith('{\n  "resourceType": "CapabilityStatement"')
    assert (await client.get("/fhir/metadata")).headers["Content-Type"] == "application/fhir+json"


async def test_faults_are_given_once_to_the_requests_they_are_for(client: Client) -> None:
    faults = client.receiver.faults
    faults += [
        Fault(status=429, headers={"Retry-After": "3"}, method="POST"),
        Fault(status=503, body="down"),
    ]
    assert (await client.get("/fhir/Patient")).text == "down"
    limited = await client.post("/fhir/Patient", json=patient())
    assert (limited.status, limited.headers["Retry-After"]) == (429, "3")
    assert (await client.post("/fhir/Patient", json=patient())).status == 201
    assert [r.method for r in client.receiver.requests] == ["GET", "POST", "POST"]
