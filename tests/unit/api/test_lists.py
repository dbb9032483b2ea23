"""Studies, revisions, spaces and known objects over HTTP."""

from __future__ import annotations

import hashlib

from api_site import ApiSite
from event_core import record, stored

from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database


async def settle(database: Database, study_pk: int = 1) -> None:
    await database.write(revision.revise, study_pk, 10, lambda *_: "http://x")


async def test_studies_are_read_newest_first_in_pages_to_the_end(site: ApiSite) -> None:
    for n in range(7):
        await record(site.database, stored(str(n), study=str(n), space="default"))
    await record(site.database, stored("9", study="9", space="research"))
    rows = await site.pages("/studies", "studies", limit=3)
    assert [row["study_instance_uid"] for row in rows] == list("96543210")
    assert set(rows[0]) == {
        "space",
        "study_instance_uid",
        "patient_name",
        "patient_id",
        "study_date",
        "study_description",
        "accession_number",
        "modalities",
        "number_of_series",
        "number_of_instances",
        "revision",
        "revision_due_at",
        "changed_at",
        "id",
    }
    of_space = await site.pages("/studies", "studies", limit=1, space="research")
    assert [row["study_instance_uid"] for row in of_space] == ["9"]
    assert (await site.get("/studies", space="nowhere")) == {"studies": [], "next": None}


async def test_the_revisions_of_a_study_and_their_data(site: ApiSite) -> None:
    await record(site.database, stored("1"))
    assert await site.get("/revisions/default/1") == {"revisions": []}
    await settle(site.database)
    await record(site.database, stored("2"))
    await settle(site.database)
    assert await site.get("/revisions/default/1") == {
        "revisions": [{"number": 0, "at": 10}, {"number": 1, "at": 10}]
    }
    data = await site.get("/revisions/default/1/1")
    assert (data["revision"], data["changeSet"]["additions"]) == (1, ["1.1/2"])
    for path in ("default/404", "research/1", "default/1/2", "default/404/0"):
        problem = await site.get(f"/revisions/{path}", 404)
        assert path.split("/")[1] in problem["detail"]


async def test_spaces(site: ApiSite) -> None:
    assert await site.get("/spaces") == {"spaces": ["default", "research"]}


async def test_known_objects_are_told_by_their_places_in_the_request(site: ApiSite) -> None:
    await record(site.database, stored("1"), stored("2"))
    same, other = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()

    def body(*objects: tuple[str, str], space: str = "default") -> dict[str, object]:
        return {
            "space": space,
            "objects": [{"sop_instance_uid": uid, "sha256": sha256} for uid, sha256 in objects],
        }

    asked = [("2", same), ("404", same), ("1", other), ("1", same.upper())]
    assert await site.post("/known-objects", body(*asked)) == {"known": [0, 3]}
    assert await site.post("/known-objects", body(*asked, space="research")) == {"known": []}
    assert await site.post("/known-objects", body()) == {"known": []}
    most = [(str(n), same) for n in range(5000)]
    assert await site.post("/known-objects", body(*most)) == {"known": [1, 2]}
    problem = await site.post("/known-objects", body(*most, ("x", same)), 422)
    assert "body.objects" in problem["detail"]
