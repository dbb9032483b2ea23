"""The FHIR study binding against a FHIR server, over real HTTP, out of a real manifest."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fhir_revisions import BASE, FAR_FUTURE, announced, study
from fhir_validation import FhirValidator, fhir_validator  # noqa: F401  (a fixture)
from pydicom.dataset import Dataset
from recorded import DELAY_US, stored_instance

from imaging_ingestion.bindings.fhir.binding import ATTEMPTS, FhirBinding
from imaging_ingestion.bindings.fhir.identifiers import study_uid
from imaging_ingestion.bindings.http_target import Credentials, HttpTarget
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.cli.fhir_receiver import Fault, FhirReceiver, create_fhir_receiver
from imaging_ingestion.events.broker import Delivered, RefusedError, Subscription, TryAgainError
from imaging_ingestion.events.model import STUDY_REVISION, Event
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.record import record_batch

DEADLINE = 30.0  # seconds for what happens by itself
PATIENT_TAKEN_TWICE = {"system": "urn:oid:1.2.3", "value": "P1"}


def endpoint(_space: str, study: str, series: str) -> str:
    return f"{BASE}/studies/{study}/series/{series}"


@dataclass
class Site:
    """A manifest, a FHIR server, and the binding between them."""

    database: Database
    receiver: FhirReceiver
    base: str
    targets: list[HttpTarget] = field(default_factory=list)

    def binding(self, *, credentials: Credentials | None = None, **settings: Any) -> FhirBinding:
        """A binding; by default to the server's base."""
        target = HttpTarget(credentials or Credentials())
        self.targets.append(target)
        endpoints = {"endpoint": self.base, "imaging_study_endpoint": None} | settings
        return FhirBinding(target, self.database, **endpoints)

    async def take_in(self, *made: Dataset, space: str = "default", provider: str = "p") -> Event:
        """Record instances of one study and settle it; the event of its new revision."""
        stored = [
            msgspec.structs.replace(stored_instance(one, space), provider=provider) for one in made
        ]
        await self.database.write(record_batch, stored, 1, DELAY_US)
        return await self.settle(str(made[0].StudyInstanceUID), space)

    async def delete(self, uid: str, space: str = "default") -> Event:
        """Delete a whole study and settle it; the event of its new revision."""
        await self.database.write(delete_instances, space, uid, None, None, 2, DELAY_US)
        return await self.settle(uid, space)

    async def settle(self, uid: str, space: str = "default") -> Event:
        settling = Settling(self.database, endpoint, lambda: None, clock=lambda: FAR_FUTURE * 1000)
        await settling.settle_due()
        numbers = await self.database.read(revision.numbers, space, uid)
        assert numbers
        return Event(
            id=f"{uid}.{numbers[-1][0]}",
            source="/imaging-ingestion/core/default",
            type=STUDY_REVISION,
            subject=f"studies/{uid}",
            time="2024-01-01T00:00:00Z",
            space=space,
            study_instance_uid=uid,
        )

    def studies(self) -> list[dict[str, Any]]:
        return self.receiver.store.all("ImagingStudy")

    def patients(self) -> list[dict[str, Any]]:
        return self.receiver.store.all("Patient")

    def the_study(self) -> dict[str, Any]:
        (found,) = self.studies()
        return found

    def asked(self) -> list[str]:
        """What was asked of the server since the last time, as "METHOD path"."""
        asked = [f"{r.method} {r.path.partition('?')[0]}" for r in self.receiver.requests]
        self.receiver.requests.clear()
        return asked


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Site]:
    database = open_database(f"sqlite:///{folder / 'manifest.db'}")
    await migrate(database)
    app = create_fhir_receiver(**settings)
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    site = Site(database, app.state.receiver, f"http://127.0.0.1:{server.port}/fhir")
    try:
        yield site
    finally:
        for target in site.targets:
            await target.close()
        await server.stop()
        await database.close()


@pytest.fixture
async def site(
    tmp_path: Path,
    fhir_validator: FhirValidator,  # noqa: F811
) -> AsyncIterator[Site]:
    """A site; whatever is on its server in the end is valid (F16)."""
    async with serving(tmp_path) as site:
        yield site
        for resource in [*site.studies(), *site.patients()]:
            assert fhir_validator.complaints(resource) == []


def version(resource: dict[str, Any]) -> str:
    found: str = resource["meta"]["versionId"]
    return found


def more_of(made: Dataset, **attributes: Any) -> list[Dataset]:
    """Another series of the same study, with the same patient."""
    return study(
        StudyInstanceUID=made.StudyInstanceUID,
        **{k: made.get(k) for k in ("PatientID", "AccessionNumber") if k in made},
        **attributes,
    )


async def test_a_study_is_made_with_its_patient(site: Site) -> None:
    # F4, F13
    made = study(2, PatientID="P1", PatientName="Doe^Jane")
    delivered = await site.binding().deliver(await site.take_in(*made))
    resource = site.the_study()
    assert delivered.answer == f"created ImagingStudy/{resource['id']}, revision 0"
    assert resource["numberOfInstances"] == 2
    (patient,) = site.patients()
    assert resource["subject"] == {
        "reference": f"Patient/{patient['id']}",
        "type": "Patient",
        "identifier": patient["identifier"][0],
    }
    assert site.asked() == ["GET ImagingStudy", "POST "]


async def test_the_next_revision_updates_the_same_resource(site: Site) -> None:
    # F13: and without a change of patient no patient is asked for
    (first,) = study(PatientID="P1")
    binding = site.binding()
    await binding.deliver(await site.take_in(first))
    site.asked()
    delivered = await binding.deliver(await site.take_in(*more_of(first, Modality="SR")))
    resource = site.the_study()
    assert delivered.answer == f"updated ImagingStudy/{resource['id']}, revision 1"
    assert (resource["numberOfSeries"], version(resource)) == (2, "2")
    assert len(site.patients()) == 1
    assert site.asked() == ["GET ImagingStudy", f"PUT ImagingStudy/{resource['id']}"]


async def test_a_repeated_delivery_changes_nothing(site: Site) -> None:
    # F13: a server makes a new version of an identical PUT, so none is sent
    event = await site.take_in(*study(PatientID="P1"))
    for binding in (site.binding(), site.binding()):
        await binding.deliver(event)
    resource = site.the_study()
    assert version(resource) == "1"
    again = await site.binding().deliver(event)
    assert again.answer == f"unchanged ImagingStudy/{resource['id']}"
    assert version(site.the_study()) == "1"


async def test_an_old_event_that_comes_late_brings_the_latest_state(site: Site) -> None:
    # F15
    (first,) = study(PatientID="P1")
    old = await site.take_in(first)
    new = await site.take_in(*more_of(first))
    binding = site.binding()
    for event in (new, old, new, old):
        await binding.deliver(event)
    resource = site.the_study()
    assert resource["numberOfSeries"] == 2
    assert version(resource) == "1"


async def test_a_lost_event_is_made_good_by_the_next(site: Site) -> None:
    # F15
    (first,) = study()
    await site.take_in(first)
    await site.take_in(*more_of(first))
    await site.binding().deliver(await site.take_in(*more_of(first)))
    assert site.the_study()["numberOfSeries"] == 3


async def test_studies_of_one_patient_at_once_make_one_patient(site: Site) -> None:
    # F4
    events = [await site.take_in(*study(PatientID="P1")) for _ in range(6)]
    binding = site.binding()
    await asyncio.gather(*map(binding.deliver, events))
    (patient,) = site.patients()
    subjects = {s["subject"]["reference"] for s in site.studies()}
    assert subjects == {f"Patient/{patient['id']}"}
    assert len(site.studies()) == 6


async def test_one_patient_id_of_two_issuers_or_spaces_is_two_patients(site: Site) -> None:
    # F4
    binding = site.binding()
    for issuer in ("KIS A", "KIS B"):
        made = study(PatientID="P1", IssuerOfPatientID=issuer)
        await binding.deliver(await site.take_in(*made))
    for space in ("clinical", "research"):
        await binding.deliver(await site.take_in(*study(PatientID="P1"), space=space))
    assert len(site.patients()) == 4
    assert len({s["subject"]["reference"] for s in site.studies()}) == 4


async def test_a_patient_that_is_there_is_used_and_left_alone(site: Site) -> None:
    # F4
    known = {"resourceType": "Patient", "identifier": [PATIENT_TAKEN_TWICE], "active": True}
    made = site.receiver.store.create("Patient", known, None).resource
    attributes = {"PatientID": "P1", "IssuerOfPatientID": "1.2.3", "PatientName": "Doe"}
    await site.binding().deliver(await site.take_in(*study(**attributes)))
    assert site.patients() == [made]
    assert site.the_study()["subject"]["reference"] == f"Patient/{made['id']}"


async def test_a_corrected_patient_id_moves_the_study(site: Site) -> None:
    # F4
    (made,) = study(PatientID="WRONG")
    binding = site.binding()
    await binding.deliver(await site.take_in(made))
    made.PatientID = "RIGHT"
    await binding.deliver(await site.take_in(made))
    resource = site.the_study()
    right = [p for p in site.patients() if p["identifier"][0]["value"] == "RIGHT"]
    assert resource["subject"]["reference"] == f"Patient/{right[0]['id']}"
    assert version(resource) == "2"


@pytest.mark.parametrize("patient_id", ["A+B&C=D|E,F$G é#?/%20", "'\"<>;:", "日本"])
async def test_odd_characters_in_a_patient_id_find_the_patient_again(
    site: Site, patient_id: str
) -> None:
    # F4
    binding = site.binding()
    for _ in range(2):
        await binding.deliver(await site.take_in(*study(PatientID=patient_id)))
    (patient,) = site.patients()
    assert patient["identifier"][0]["value"] == patient_id


async def test_a_patient_without_id_is_inside_the_study(site: Site) -> None:
    # F4
    binding = site.binding()
    event = await site.take_in(*study(PatientName="Doe^Jane"))
    for _ in range(2):
        await binding.deliver(event)
    assert site.patients() == []
    assert site.the_study()["subject"]["reference"] == "#patient"
    assert version(site.the_study()) == "1"


async def test_a_server_of_studies_alone_gets_nothing_else(site: Site) -> None:
    # F4, F13: IMAGINGSTUDY_ENDPOINT
    binding = site.binding(endpoint=None, imaging_study_endpoint=f"{site.base}/ImagingStudy/")
    (made,) = study(PatientID="P1")
    event = await site.take_in(made)
    await binding.deliver(event)
    await binding.deliver(event)
    await binding.deliver(await site.take_in(*more_of(made)))
    resource = site.the_study()
    assert (version(resource), resource["numberOfSeries"]) == ("2", 2)
    assert resource["subject"]["reference"] == "#patient"
    assert site.patients() == []
    key = resource["id"]
    assert site.asked() == [
        "GET ImagingStudy",
        "POST ImagingStudy",
        "GET ImagingStudy",
        "GET ImagingStudy",
        f"PUT ImagingStudy/{key}",
    ]


async def test_what_others_changed_in_between_is_read_again(site: Site) -> None:
    # F14: If-Match
    (made,) = study(PatientID="P1")
    binding = site.binding()
    await binding.deliver(await site.take_in(made))
    key = site.the_study()["id"]

    async def annotate() -> None:
        noted = {**site.the_study(), "note": [{"text": "seen by the EHR"}]}
        site.receiver.store.update("ImagingStudy", key, noted)

    site.receiver.faults.append(Fault(method="PUT", before=annotate))
    await binding.deliver(await site.take_in(*more_of(made)))
    resource = site.the_study()
    assert resource["note"] == [{"text": "seen by the EHR"}]
    assert (resource["numberOfSeries"], version(resource)) == (2, "3")


async def test_an_older_state_never_replaces_a_newer_one(site: Site) -> None:
    # F14, F15: a second revision is made and delivered while the first is under way
    (made,) = study(PatientID="P1")
    slow, quick = site.binding(), site.binding()
    await quick.deliver(await site.take_in(made))
    older = await site.take_in(*more_of(made))

    async def overtake() -> None:
        await quick.deliver(await site.take_in(*more_of(made)))

    site.receiver.faults.append(Fault(method="PUT", before=overtake))
    delivered = await slow.deliver(older)
    assert site.the_study()["numberOfSeries"] == 3
    assert delivered.answer.startswith("unchanged")


async def test_two_that_make_a_study_at_once_make_one(site: Site) -> None:
    # F13, F15
    (made,) = study(PatientID="P1")
    first = await site.take_in(made)
    slow, quick = site.binding(), site.binding()

    async def overtake() -> None:
        await quick.deliver(await site.take_in(*more_of(made)))

    site.receiver.faults.append(Fault(method="POST", before=overtake))
    await slow.deliver(first)
    resource = site.the_study()
    assert (resource["numberOfSeries"], version(resource)) == (2, "1")
    assert len(site.patients()) == 1


@pytest.mark.parametrize("patient_id", ["P1", None])
async def test_a_study_that_others_make_at_the_same_moment_is_updated(
    site: Site, patient_id: str | None
) -> None:
    # F13: what a conditional create finds is not yet what we say
    (made,) = study(PatientID=patient_id)

    async def overtake() -> None:
        bare = {
            "resourceType": "ImagingStudy",
            "identifier": [study_uid(made.StudyInstanceUID)],
            "status": "registered",
            "subject": {"display": "somebody"},
        }
        site.receiver.store.create("ImagingStudy", bare, None)

    site.receiver.faults.append(Fault(method="POST", before=overtake))
    delivered = await site.binding().deliver(await site.take_in(made))
    resource = site.the_study()
    assert delivered.answer == f"updated ImagingStudy/{resource['id']}, revision 0"
    assert (resource["status"], resource["numberOfSeries"]) == ("available", 1)


async def test_parallel_updates_end_in_the_right_counts(site: Site) -> None:
    # F14
    (made,) = study(PatientID="P1")
    events = [await site.take_in(made)]
    events += [await site.take_in(*more_of(made)) for _ in range(5)]
    bindings = [site.binding() for _ in events]
    await asyncio.gather(*(b.deliver(e) for b, e in zip(bindings, events, strict=True)))
    assert site.the_study()["numberOfSeries"] == 6
    assert len(site.patients()) == 1


async def test_a_study_that_others_never_leave_alone_is_tried_again_later(site: Site) -> None:
    # F14: bounded
    (made,) = study()
    binding = site.binding()
    await binding.deliver(await site.take_in(made))
    key = site.the_study()["id"]

    async def disturb() -> None:
        site.receiver.store.update("ImagingStudy", key, site.the_study())

    site.receiver.faults += [Fault(method="PUT", before=disturb)] * (ATTEMPTS + 1)
    event = await site.take_in(*more_of(made))
    with pytest.raises(TryAgainError, match=f"changed by others {ATTEMPTS} times"):
        await binding.deliver(event)
    assert len(site.receiver.faults) == 1


async def test_a_study_that_was_deleted_in_between_is_made_again(site: Site) -> None:
    # F14
    (made,) = study()
    binding = site.binding()
    await binding.deliver(await site.take_in(made))
    key = site.the_study()["id"]

    async def delete() -> None:
        site.receiver.store.delete("ImagingStudy", key)

    site.receiver.faults.append(Fault(method="PUT", before=delete))
    await binding.deliver(await site.take_in(*more_of(made)))
    assert site.the_study()["id"] != key
    assert site.the_study()["numberOfSeries"] == 2


@pytest.mark.parametrize("page_size", [1, 50])
async def test_several_resources_of_one_study_are_reported(tmp_path: Path, page_size: int) -> None:
    # F14: not looped, and none of them is changed
    async with serving(tmp_path, page_size=page_size) as site:
        event = await site.take_in(*study())
        await site.binding().deliver(event)
        copy = {k: v for k, v in site.the_study().items() if k not in {"id", "meta"}}
        site.receiver.store.create("ImagingStudy", copy, None)
        with pytest.raises(RefusedError, match="several times: ImagingStudy/1, ImagingStudy/2"):
            await site.binding().deliver(event)
        assert [version(s) for s in site.studies()] == ["1", "1"]


async def test_several_patients_of_one_identifier_are_reported(site: Site) -> None:
    # F4, F14: 412, when the study is made and when it is moved
    known = {"resourceType": "Patient", "identifier": [PATIENT_TAKEN_TWICE]}
    for _ in range(2):
        site.receiver.store.create("Patient", known, None)
    (made,) = study(PatientID="P1", IssuerOfPatientID="1.2.3")
    binding = site.binding()
    event = await site.take_in(made)
    with pytest.raises(RefusedError, match="412: multiple-matches: 2 Patient match"):
        await binding.deliver(event)
    made.PatientID = "P2"
    await binding.deliver(await site.take_in(made))
    made.PatientID = "P1"
    event = await site.take_in(made)
    with pytest.raises(RefusedError, match="412: multiple-matches: 2 Patient match"):
        await binding.deliver(event)
    assert version(site.the_study()) == "1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("status", [409, 429, 503])
async def test_a_server_that_is_busy_gets_it_later(site: Site, method: str, status: int) -> None:
    # F14
    (made,) = study(PatientID="P1")
    binding = site.binding()
    event = await site.take_in(made)
    if method == "PUT":
        await binding.deliver(event)
        event = await site.take_in(*more_of(made))
    site.receiver.faults.append(Fault(status=status, headers={"Retry-After": "17"}, method=method))
    with pytest.raises(TryAgainError) as error:
        await binding.deliver(event)
    assert error.value.retry_after == 17
    assert error.value.answer.startswith(str(status))
    await binding.deliver(event)
    assert site.the_study()["numberOfSeries"] == (2 if method == "PUT" else 1)


async def test_a_server_that_is_away_is_tried_again(tmp_path: Path) -> None:
    # F14
    async with serving(tmp_path) as site:
        event = await site.take_in(*study())
        binding = site.binding(endpoint="http://127.0.0.1:9/fhir")
        with pytest.raises(TryAgainError):
            await binding.deliver(event)


async def test_what_the_server_refuses_is_told_in_its_words(site: Site) -> None:
    # F14
    outcome = (
        '{"resourceType": "OperationOutcome", "issue": [{"severity": "error", '
        '"code": "invariant", "diagnostics": "we want an encounter"}]}'
    )
    event = await site.take_in(*study())
    site.receiver.faults.append(Fault(status=422, body=outcome, method="POST"))
    with pytest.raises(RefusedError, match="422: invariant: we want an encounter"):
        await site.binding().deliver(event)


async def test_a_login_page_is_no_fhir_server(site: Site) -> None:
    event = await site.take_in(*study())
    page = "<html><head><title>Please sign in</title></head></html>"
    headers = {"Content-Type": "text/html"}
    site.receiver.faults.append(Fault(status=200, headers=headers, body=page))
    with pytest.raises(RefusedError, match="no FHIR JSON but text/html: HTML page: Please sign in"):
        await site.binding().deliver(event)


async def test_a_redirect_is_told_and_not_followed(site: Site) -> None:
    # Credentials go to the server that they are for.
    event = await site.take_in(*study())
    headers = {"Location": "http://elsewhere.example/fhir/ImagingStudy"}
    site.receiver.faults.append(Fault(status=302, headers=headers))
    with pytest.raises(RefusedError, match=r"302: the server redirects to http://elsewhere"):
        await site.binding().deliver(event)


async def test_a_search_is_not_followed_to_another_host(site: Site) -> None:
    event = await site.take_in(*study())
    page = (
        '{"resourceType": "Bundle", "type": "searchset", "link": '
        '[{"relation": "next", "url": "http://elsewhere.example/fhir?page=2"}]}'
    )
    site.receiver.faults.append(Fault(status=200, body=page))
    with pytest.raises(RefusedError, match="another host"):
        await site.binding().deliver(event)


async def test_a_server_that_cannot_search_by_identifier_is_refused(site: Site) -> None:
    # F13: it lists whatever it has
    await site.binding().deliver(await site.take_in(*study()))
    event = await site.take_in(*study())
    other = msgspec.json.encode({"resource": site.the_study()}).decode()
    page = f'{{"resourceType": "Bundle", "type": "searchset", "entry": [{other}]}}'
    site.receiver.faults.append(Fault(status=200, body=page, method="GET"))
    with pytest.raises(RefusedError, match="does not search ImagingStudy by identifier"):
        await site.binding().deliver(event)


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        (Credentials("t0ken"), "Bearer t0ken"),
        (Credentials(None, "us", "p:ä"), "Basic " + base64.b64encode("us:p:ä".encode()).decode()),
    ],
)
async def test_every_request_is_authorized(
    tmp_path: Path, credentials: Credentials, header: str
) -> None:
    async with serving(tmp_path, authorization=header) as site:
        event = await site.take_in(*study(PatientID="P1"))
        await site.binding(credentials=credentials).deliver(event)
        assert len(site.studies()) == 1
        assert {r.headers["authorization"] for r in site.receiver.requests} == {header}
        with pytest.raises(RefusedError, match="401: login"):
            await site.binding().deliver(event)


@pytest.mark.parametrize("alone", [False, True])
async def test_a_study_that_is_deleted_is_withdrawn(site: Site, alone: bool) -> None:
    # F3
    (made,) = study(PatientID="P1", StudyDescription="Head")
    studies = f"{site.base}/ImagingStudy"
    settings = {"endpoint": None, "imaging_study_endpoint": studies} if alone else {}
    binding = site.binding(**settings)
    await binding.deliver(await site.take_in(made))
    before = site.the_study()
    event = await site.delete(str(made.StudyInstanceUID))
    await binding.deliver(event)
    resource = site.the_study()
    assert (resource["status"], resource["numberOfInstances"]) == ("cancelled", 0)
    assert resource["subject"] == before["subject"]
    assert (await binding.deliver(event)).answer.startswith("unchanged")
    # And what comes back is available again.
    await binding.deliver(await site.take_in(made))
    restored = site.the_study()
    assert {k: v for k, v in restored.items() if k != "meta"} == {
        k: v for k, v in before.items() if k != "meta"
    }
    assert version(restored) == "3"


async def test_a_deleted_study_that_the_server_never_had_is_nothing_to_deliver(site: Site) -> None:
    # F3
    (made,) = study()
    await site.take_in(made)
    delivered = await site.binding().deliver(await site.delete(str(made.StudyInstanceUID)))
    assert delivered.answer.startswith("nothing to withdraw")
    assert site.studies() == []


async def test_an_event_from_elsewhere_is_delivered_as_it_is(site: Site) -> None:
    # E10: the manifest does not have this study
    found = announced(*study(PatientID="P1"))
    event = Event(
        id="x",
        source="/elsewhere",
        type=STUDY_REVISION,
        subject="studies/1",
        time="2024-01-01T00:00:00Z",
        data=msgspec.json.encode(found),
    )
    await site.binding().deliver(event)
    assert site.the_study()["identifier"][0]["value"].endswith(found.study.study_instance_uid)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"data": b"{}"}, "no StudyRevisionEvent"),
        ({"data": b"no json"}, "no StudyRevisionEvent"),
        ({}, "names no study"),
        ({"study_instance_uid": "1.2.3"}, "neither the event nor the manifest"),
    ],
)
async def test_an_event_without_a_revision_is_refused(
    site: Site, event: dict[str, Any], told: str
) -> None:
    sent = Event(id="x", source="/x", type=STUDY_REVISION, subject="s", time="t", **event)
    with pytest.raises(RefusedError, match=told):
        await site.binding().deliver(sent)


def test_endpoints_that_disagree_are_no_binding() -> None:
    target = HttpTarget(Credentials())
    database = open_database("sqlite:///nowhere.db")
    for base, studies in ((None, None), ("http://a/fhir", "http://b/fhir/ImagingStudy")):
        with pytest.raises(ValueError, match="ENDPOINT"):
            FhirBinding(target, database, endpoint=base, imaging_study_endpoint=studies)
    FhirBinding(
        target,
        database,
        endpoint="http://a/fhir/",
        imaging_study_endpoint="http://a/fhir/ImagingStudy",
    )


async def test_the_broker_drives_it_until_the_server_agrees(site: Site) -> None:
    # F13, F14, F15: from the record of instances to the resource, over a bad spell of the server
    broker = EmbeddedBroker(
        site.database,
        BrokerSettings(
            core="core",
            revisioning_delay=timedelta(milliseconds=50),
            roots_of=lambda _space: SpaceRoots(BASE, BASE),
            api_url="http://127.0.0.1/api",
        ),
    )
    bad = [Fault(status=status, headers={"Retry-After": "0"}) for status in (503, 429, 409)]
    site.receiver.faults += bad
    retry = RetryPolicy(first=0.01, longest=0.05)
    subscription = Subscription(name="fhir", event_type=STUDY_REVISION, retry=retry)
    binding, delivered = site.binding(), asyncio.Event()

    async def deliver(event: Event) -> Delivered:
        answer = await binding.deliver(event)
        delivered.set()
        return answer

    broker.subscribe(subscription, deliver)
    settling = Settling(site.database, endpoint, broker.committed)
    await broker.start()
    settling.start()
    try:
        made = [study(PatientID="P1") for _ in range(4)]
        rounds = [*made, *(more_of(first) for (first,) in made)]
        for instances in rounds:
            for one in instances:
                await broker.accept(stored_instance(one))
        async with asyncio.timeout(DEADLINE):
            while [s["numberOfSeries"] for s in site.studies()] != [2] * 4:
                await delivered.wait()
                delivered.clear()
    finally:
        await settling.stop()
        await broker.stop()
    assert len(site.patients()) == 1
    assert not site.receiver.faults
