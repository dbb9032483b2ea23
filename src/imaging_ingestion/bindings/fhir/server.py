"""A FHIR R4 server as the binding needs it: search, read, conditional create, update (R4 3.1.0)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from imaging_ingestion.bindings.fhir.imaging_study import Resource
from imaging_ingestion.bindings.fhir.outcome import (
    created_id,
    location_of,
    resource_of,
    taken,
    version_of,
)
from imaging_ingestion.bindings.fhir.reconcile import has_study_uid
from imaging_ingestion.bindings.http_target import Answer, HttpTarget
from imaging_ingestion.events.broker import RefusedError

_JSON = "application/fhir+json"
_MAX_PAGES = 10
_GONE = (404, 410)
#: Some servers answer a repeated search from a cache, which must not be believed here. Without
#: strict handling a server may pass over the identifier and list every study.
_SEARCH = {"Cache-Control": "no-cache", "Prefer": "handling=strict"}
_READ = {"Cache-Control": "no-cache"}


class RacedError(Exception):
    """Another changed the study in between: it is to be read again, by its `key` if that is known.

    `key` is the id of the resource.
    """

    def __init__(self, key: str | None = None) -> None:
        super().__init__("the study was changed by another in between")
        self.key = key


class FhirServer:
    """The ImagingStudy resources of one server.

    Every method raises TryAgainError if the server is away, overloaded or broken, RefusedError if
    it refuses or is no FHIR server.
    """

    def __init__(
        self, target: HttpTarget, base: str | None, studies: str, traceparent: str | None = None
    ) -> None:
        """`studies` is the URL of the resource type, `base` that of the server for transactions
        (None: the server takes no other resource than ImagingStudy).
        """
        self._target = target
        self._base = base
        self._studies = studies
        self._common = {"Accept": _JSON}
        if traceparent:
            self._common["traceparent"] = traceparent

    async def find(self, identifier: Mapping[str, Any]) -> Resource | None:
        """The study with this identifier. Raises RefusedError if there are several."""
        url: str | None = f"{self._studies}?{query_of(identifier)}"
        found: list[Resource] = []
        for _ in range(_MAX_PAGES):
            if url is None or len(found) > 1:
                break
            page = resource_of(await self._request("GET", url, _SEARCH))
            if page["resourceType"] != "Bundle":
                raise RefusedError(f"a search was answered by a {page['resourceType']}")
            found += _matches(page)
            if not all(has_study_uid(resource, identifier) for resource in found):
                raise RefusedError("the server does not search ImagingStudy by identifier")
            url = self._next_page(page)
        if len(found) > 1:
            names = ", ".join(f"ImagingStudy/{resource.get('id')}" for resource in found)
            raise RefusedError(f"the study is there several times: {names}; keep one of them")
        return found[0] if found else None

    async def read(self, key: str) -> Resource | None:
        """The study with this id; None if it is gone."""
        answer = await self._request("GET", f"{self._studies}/{key}", _READ)
        return None if answer.status in _GONE else resource_of(answer)

    async def create(
        self, study: Resource, identifier: Mapping[str, Any], patient: Resource | None
    ) -> str:
        """Make the study unless it is there, and first the patient it refers to.

        Returns what was made, in words. Raises RacedError if the study is there, RefusedError if
        the server has several such studies or patients.
        """
        condition = query_of(identifier)
        if patient is None:
            answer = await self._request("POST", self._studies, {"If-None-Exist": condition}, study)
            taken(answer)
            status, location = str(answer.status), location_of(answer)
        else:
            request = {"method": "POST", "url": "ImagingStudy", "ifNoneExist": condition}
            answer = await self._transact(study, request, patient)
            status, location = _second_response(resource_of(answer))
        key = created_id(location, "ImagingStudy")
        if not status.startswith("201"):
            raise RacedError(key)
        return f"created ImagingStudy/{key or '?'}"

    async def update(self, study: Resource, patient: Resource | None) -> str:
        """Replace the study, if it still is as it was read.

        Returns what was done, in words. Raises RacedError if another changed the study meanwhile or
        took it away, RefusedError if the server has several such patients.
        """
        key, version = study["id"], version_of(study)
        match = None if version is None else f'W/"{version}"'
        if patient is None:
            headers = {} if match is None else {"If-Match": match}
            answer = await self._request("PUT", f"{self._studies}/{key}", headers, study)
        else:
            request = {"method": "PUT", "url": f"ImagingStudy/{key}"}
            answer = await self._transact(
                study, request if match is None else {**request, "ifMatch": match}, patient
            )
        # A transaction says 412 for a changed study and for several patients alike.
        if answer.status in {412, *_GONE} and await self._changed(key, version):
            raise RacedError(key)
        taken(answer)
        return f"updated ImagingStudy/{key}"

    async def _changed(self, key: str, version: str | None) -> bool:
        now = await self.read(key)
        return now is None or version_of(now) != version

    async def _transact(
        self, study: Resource, request: Mapping[str, str], patient: Resource
    ) -> Answer:
        """Patient and study, all or nothing; the patient is made only if it is not there (F4)."""
        identifier = patient["identifier"][0]
        name = f"{identifier['system']}|{identifier['value']}"
        patient_url = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
        study_url = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, study['identifier'][0]['value'])}"
        if request["method"] == "PUT":
            study_url = f"{self._studies}/{study['id']}"
        bundle = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {
                    "fullUrl": patient_url,
                    "resource": patient,
                    "request": {
                        "method": "POST",
                        "url": "Patient",
                        "ifNoneExist": query_of(identifier),
                    },
                },
                {
                    "fullUrl": study_url,
                    "resource": {
                        **study,
                        "subject": {"reference": patient_url, **study["subject"]},
                    },
                    "request": request,
                },
            ],
        }
        assert self._base is not None
        return await self._request("POST", self._base, {}, bundle)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: Resource | None = None
    ) -> Answer:
        sent = {**self._common, **headers}
        if body is not None:
            sent |= {"Content-Type": f"{_JSON}; charset=utf-8", "Prefer": "return=minimal"}
        data = None if body is None else msgspec.json.encode(body)
        return await self._target.request(method, url, headers=sent, data=data)

    def _next_page(self, page: Resource) -> str | None:
        """The URL of a search's next page. Raises RefusedError if it is another server's."""
        for link in page.get("link") or ():
            if link.get("relation") == "next" and link.get("url"):
                url = urljoin(self._studies, str(link["url"]))
                if urlsplit(url)[:2] != urlsplit(self._studies)[:2]:
                    # Our credentials go to the server that they are for, and to no other.
                    raise RefusedError("the server pages its answers to another host or scheme")
                return url
        return None


def query_of(identifier: Mapping[str, Any]) -> str:
    """A search for an identifier (R4 3.1.1.4.10: token), as it is in a URL."""
    token = f"{_escaped(identifier.get('system', ''))}|{_escaped(identifier['value'])}"
    return f"identifier={quote(token, safe='')}"


def _escaped(text: str) -> str:
    """R4 3.1.1.5.7: what has a meaning in search values is escaped."""
    return "".join(f"\\{character}" if character in "\\$,|" else character for character in text)


def _matches(page: Resource) -> list[Resource]:
    """The resources that were searched for; others may come along (R4 3.1.1.1)."""
    found = []
    for entry in page.get("entry") or ():
        mode = (entry.get("search") or {}).get("mode", "match")
        resource = entry.get("resource") or {}
        if mode == "match" and resource.get("resourceType") != "OperationOutcome":
            found.append(resource)
    return found


def _second_response(bundle: Resource) -> tuple[str, str | None]:
    """Status and location of a transaction's second entry. Raises RefusedError."""
    entries = bundle.get("entry") or []
    response = entries[1].get("response") if len(entries) == 2 else None
    if not isinstance(response, dict) or "status" not in response:
        raise RefusedError("the answer to a transaction does not tell what became of its entries")
    return str(response["status"]), response.get("location")
