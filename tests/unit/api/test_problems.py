"""What is wrong with a request is said in words, as a problem document."""

from __future__ import annotations

from typing import Any

import pytest
from api_site import ApiSite, api_site
from structlog.testing import capture_logs

from imaging_ingestion.manifest.database import Database, open_database

WRONG: list[tuple[str, dict[str, str], str]] = [
    ("/changes", {"since": "-1"}, "query.since"),
    ("/changes", {"since": "x"}, "query.since"),
    ("/changes", {"since": "9" * 30}, "query.since"),
    ("/changes", {"limit": "0"}, "query.limit"),
    ("/changes", {"limit": "1001"}, "query.limit"),
    ("/changes", {"kind": "nothing"}, "query.kind"),
    ("/changes", {"study": "1.2'; DROP TABLE study"}, "query.study"),
    ("/changes", {"space": "nul\0"}, "query.space"),
    ("/changes", {"wait": "61"}, "query.wait"),
    ("/changes/stream", {"since": "x"}, "query.since"),
    ("/deliveries", {"state": "lost"}, "query.state"),
    ("/deliveries", {"after": "nothing"}, "query.after"),
    ("/deliveries", {"after": "b:" + "9" * 30}, "query.after"),
    ("/deliveries", {"binding": "nul\0"}, "query.binding"),
    ("/studies", {"after": "0"}, "query.after"),
    ("/studies", {"after": "9" * 30}, "query.after"),
    ("/revisions/default/no-uid", {}, "path.study"),
    ("/revisions/default/1/x", {}, "path.number"),
    ("/revisions/default/1/-1", {}, "path.number"),
    ("/revisions/default/1/" + "9" * 12, {}, "path.number"),
    ("/events/0", {}, "path.number"),
    ("/events/1", {"type": "StudyRevisionEvent"}, "query.type"),
]


@pytest.mark.parametrize(("path", "parameters", "where"), WRONG)
async def test_a_wrong_parameter_is_named_and_explained(
    site: ApiSite, path: str, parameters: dict[str, str], where: str
) -> None:
    problem = await site.ask("GET", path, 422, params=parameters)
    assert problem["title"] == "Unprocessable Content"
    assert problem["detail"].startswith(f"{where}")
    assert "nput should" in problem["detail"] or "tring should" in problem["detail"]
    assert problem["errors"][0]["where"].startswith(where)


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/replay", {"state": "lost"}, "body.state"),
        ("/replay", {"since_seq": -1}, "body.since_seq"),
        ("/replay", {"study_instance_uid": "x"}, "body.study_instance_uid"),
        ("/replay", {"binding": ""}, "body.binding"),
        # A misspelt filter must not drive everything again.
        ("/replay", {"bindng": "b"}, "body.bindng"),
        ("/replay", [], "body"),
        ("/known-objects", {"space": "default"}, "body.objects"),
        (
            "/known-objects",
            {"space": "default", "objects": [{"sop_instance_uid": "1", "sha256": "short"}]},
            "body.objects.0.sha256",
        ),
        (
            "/known-objects",
            {"space": "s", "objects": [{"sop_instance_uid": "n\0", "sha256": "a" * 64}]},
            "body.objects.0.sop_instance_uid",
        ),
    ],
)
async def test_a_wrong_body_is_named_and_explained(
    site: ApiSite, path: str, body: Any, where: str
) -> None:
    problem = await site.post(path, body, 422)
    assert [error["where"] for error in problem["errors"]] == [where]


async def test_a_body_that_is_no_json_is_refused(site: ApiSite) -> None:
    problem = await site.ask(
        "POST", "/replay", 422, data=b"{", headers={"Content-Type": "application/json"}
    )
    assert "JSON" in problem["detail"]


@pytest.mark.parametrize(
    "path",
    ["/changes", "/changes/stream", "/deliveries", "/bindings", "/studies", "/spaces",
     "/revisions/default/1", "/revisions/default/1/0", "/events/1"],
)  # fmt: skip
async def test_an_unknown_core_is_told_with_those_there_are(site: ApiSite, path: str) -> None:
    problem = await site.get(path, 404, core="nowhere")
    assert problem["detail"] == "no core 'nowhere'; there are: core"
    assert (await site.get(path, 404, core=""))["status"] == 404


async def test_an_unknown_core_in_a_post_is_told(site: ApiSite) -> None:
    assert (await site.post("/replay", {}, 404, core="x"))["status"] == 404
    body = {"space": "default", "objects": []}
    assert (await site.post("/known-objects", body, 404, core="x"))["status"] == 404


async def test_unknown_paths_and_methods_are_told(site: ApiSite) -> None:
    assert (await site.get("/nothing", 404))["title"] == "Not Found"
    async with site.client.delete(f"{site.url}/studies") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")  # H12
        assert (await answer.json(content_type=None))["status"] == 405


async def test_a_core_is_asked_by_its_name(database: Database, empty_database_url: Any) -> None:
    from event_core import record, stored

    from imaging_ingestion.manifest.migrate import migrate

    async with empty_database_url() as url:
        second = open_database(url)
        await migrate(second)
        try:
            await record(second, stored("1"))
            async with api_site(first=database, second=second) as site:
                for name, number in (("first", 0), ("second", 1)):
                    assert len((await site.get("/studies", core=name))["studies"]) == number
                assert (await site.get("/studies"))["studies"] == []
        finally:
            await second.close()


async def test_a_database_that_is_away_is_503_and_the_server_goes_on(tmp_path: Any) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'empty.db'}")  # without tables
    try:
        with capture_logs() as lines:
            async with api_site(core=database) as site:
                for path in ("/studies", "/changes", "/bindings"):
                    async with site.client.get(site.url + path) as answer:
                        assert answer.status == 503
                        assert answer.headers["Retry-After"] == "5"
                        assert "database" in (await answer.json(content_type=None))["detail"]
                async with site.client.get(f"{site.url}/changes/stream") as answer:
                    assert await answer.text() == ": following\n\n"  # it ends; come back
                assert (await site.get("/spaces"))["spaces"]
        assert {line["event"] for line in lines} == {"api.failed"}
    finally:
        await database.close()
