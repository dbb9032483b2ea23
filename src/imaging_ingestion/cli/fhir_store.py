"""FHIR R4 resources in memory, with versions, conditional interactions and transactions.

For the demonstration and the tests: what it holds is gone when the process ends. What it does, it
does as R4 3.1.0 says, and it is strict where servers may be: nothing empty, no reference to what is
not there, a new version for every update, even one that changes nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

Resource = dict[str, Any]

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_LITERAL = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]+)?")
_REFERRING = ("subject", "patient")
_REQUIRED = {"ImagingStudy": ("status", "subject")}
_RESULT_PARAMETERS = frozenset({"_count", "_offset", "_format", "_pretty"})


class FhirError(Exception):
    """An answer that is no success; `code` is of the value set issue-type."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code

    def outcome(self) -> Resource:
        """The error as a resource."""
        issue = {"severity": "error", "code": self.code, "diagnostics": str(self)}
        return {"resourceType": "OperationOutcome", "issue": [issue]}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a create or an update."""

    resource: Resource
    status: int  # 201 created, 200 updated or found


class FhirStore:
    """The resources of one server."""

    def __init__(self) -> None:
        # Every version of a resource; None is a deletion.
        self._versions: dict[tuple[str, str], list[Resource | None]] = {}
        self._next_id = itertools.count(1)

    def all(self, resource_type: str) -> list[Resource]:
        """The current resources of a type, in the order in which they came."""
        current = (v[-1] for (kind, _), v in self._versions.items() if kind == resource_type)
        return [deepcopy(resource) for resource in current if resource is not None]

    def read(self, resource_type: str, key: str) -> Resource:
        """The current version. Raises FhirError 404, 410."""
        versions = self._versions.get((resource_type, key))
        if versions is None:
            raise FhirError(404, "not-found", f"there is no {resource_type}/{key}")
        if versions[-1] is None:
            raise FhirError(410, "deleted", f"{resource_type}/{key} was deleted")
        return deepcopy(versions[-1])

    def history(self, resource_type: str, key: str) -> list[Resource]:
        """The versions, the newest first, deletions left out. Raises FhirError 404."""
        versions = self._versions.get((resource_type, key))
        if versions is None:
            raise FhirError(404, "not-found", f"there is no {resource_type}/{key}")
        return [deepcopy(version) for version in reversed(versions) if version is not None]

    def search(self, resource_type: str, query: str, *, strict: bool = False) -> list[Resource]:
        """What matches a search. Raises FhirError 400 for what is no search here."""
        criteria = parse_qsl(query, keep_blank_values=True)
        found = self.all(resource_type)
        for name, value in criteria:
            if name == "identifier":
                tokens = [_token(token) for token in _split(value, ",")]
                found = [r for r in found if any(_has_identifier(r, *token) for token in tokens)]
            elif name == "_id":
                found = [r for r in found if r["id"] in _split(value, ",")]
            elif name in _REFERRING:
                found = [r for r in found if _refers(r, value)]
            elif name not in _RESULT_PARAMETERS and strict:
                raise FhirError(400, "not-supported", f"no search by {name!r}")
        return found

    def create(self, resource_type: str, resource: Resource, if_none_exist: str | None) -> Done:
        """Make a resource, unless one matches the condition (R4 3.1.0.8.1).

        Raises FhirError 412 if several match.
        """
        if if_none_exist is not None:
            found = self._one(resource_type, if_none_exist)
            if found is not None:
                return Done(found, 200)
        return Done(self._write(resource_type, str(next(self._next_id)), resource), 201)

    def update(
        self, resource_type: str, key: str, resource: Resource, if_match: str | None = None
    ) -> Done:
        """Replace a resource, or make it under this id (R4 3.1.0.7).

        Raises FhirError 412 if `if_match` is not the ETag of the current version.
        """
        if resource.get("id") != key:
            raise FhirError(400, "invalid", f"the resource's id is not {key}")
        versions = self._versions.get((resource_type, key), [])
        current = versions[-1] if versions else None
        if if_match is not None and (current is None or if_match != etag(current)):
            raise FhirError(412, "conflict", f"{resource_type}/{key} is not at version {if_match}")
        return Done(self._write(resource_type, key, resource), 201 if current is None else 200)

    def conditional_update(
        self, resource_type: str, query: str, resource: Resource, if_match: str | None = None
    ) -> Done:
        """Replace the resource that matches, or make one (R4 3.1.0.7.1). Raises FhirError 412."""
        found = self._one(resource_type, query)
        key = str(resource.get("id") or next(self._next_id)) if found is None else found["id"]
        return self.update(resource_type, key, {**resource, "id": key}, if_match)

    def delete(self, resource_type: str, key: str) -> None:
        """Delete a resource; what is not there is deleted already."""
        versions = self._versions.get((resource_type, key))
        if versions and versions[-1] is not None:
            versions.append(None)

    def transaction(self, bundle: Resource) -> Resource:
        """Do all that the bundle asks for, or nothing (R4 3.1.0.11.2). Raises FhirError."""
        if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
            raise FhirError(400, "invalid", "a Bundle of type transaction was expected")
        before = {key: list(versions) for key, versions in self._versions.items()}
        try:
            return self._transact([_Entry.of(entry) for entry in bundle.get("entry", ())])
        except FhirError:
            self._versions = before
            raise

    def _transact(self, entries: Sequence[_Entry]) -> Resource:
        # First what each entry is to be, so that entries may refer to each other in any order.
        ids: dict[str, str] = {}
        found: dict[int, Resource] = {}
        for number, entry in enumerate(entries):
            if entry.method == "POST":
                match = None
                if entry.if_none_exist is not None:
                    match = self._one(entry.resource_type, entry.if_none_exist)
                if match is not None:
                    found[number] = match
                entry.key = str(next(self._next_id)) if match is None else match["id"]
            elif entry.query is not None:
                match = self._one(entry.resource_type, entry.query)
                entry.key = str(next(self._next_id)) if match is None else match["id"]
            if entry.full_url is not None:
                ids[entry.full_url] = f"{entry.resource_type}/{entry.key}"
        done: dict[int, Done] = {}
        # POST before PUT (R4 3.1.0.11.2), whatever the order in the bundle.
        for number, entry in sorted(enumerate(entries), key=lambda each: each[1].method):
            resource = {**_resolved(entry.resource, ids), "id": entry.key}
            if number in found:
                done[number] = Done(found[number], 200)
            elif entry.method == "POST":
                done[number] = Done(self._write(entry.resource_type, entry.key, resource, ids), 201)
            else:
                done[number] = self.update(entry.resource_type, entry.key, resource, entry.if_match)
        responses = [{"response": _response(done[number])} for number in range(len(entries))]
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": responses}

    def _write(
        self,
        resource_type: str,
        key: str,
        resource: Resource,
        promised: Mapping[str, str] | None = None,
    ) -> Resource:
        self._check(resource_type, key, resource, promised or {})
        versions = self._versions.setdefault((resource_type, key), [])
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        meta = {**resource.get("meta", {}), "versionId": str(len(versions) + 1), "lastUpdated": now}
        written = {**deepcopy(resource), "id": key, "meta": meta}
        versions.append(written)
        return deepcopy(written)

    def _check(
        self, resource_type: str, key: str, resource: Resource, promised: Mapping[str, str]
    ) -> None:
        if not _TYPE.fullmatch(resource_type) or resource.get("resourceType") != resource_type:
            raise FhirError(400, "invalid", f"a resource of type {resource_type} was expected")
        if not _ID.fullmatch(key):
            raise FhirError(400, "invalid", f"{key!r} is no id")
        for name in _REQUIRED.get(resource_type, ()):
            if name not in resource:
                raise FhirError(422, "required", f"{resource_type}.{name} is missing")
        for path, value in _walk(resource, resource_type):
            if value in (None, "", [], {}):
                raise FhirError(422, "structure", f"{path} is empty")
            if not path.endswith(".reference") or not isinstance(value, str):
                continue
            if value.startswith("#"):
                if value[1:] not in {c.get("id") for c in resource.get("contained", ())}:
                    raise FhirError(422, "invalid", f"{path}: nothing is contained as {value}")
            elif value.startswith("urn:"):
                raise FhirError(422, "invalid", f"{path}: {value} is no entry of the transaction")
            elif value not in promised.values() and not self._is_there(value):
                raise FhirError(422, "not-found", f"{path}: there is no {value}")

    def _is_there(self, reference: str) -> bool:
        """Whether a reference leads somewhere; one to another server is believed."""
        literal = _LITERAL.fullmatch(reference)
        return literal is None or bool(self._versions.get((literal[1], literal[2]), [None])[-1])

    def _one(self, resource_type: str, query: str) -> Resource | None:
        """The only match of a condition. Raises FhirError 412 if there are more."""
        found = self.search(resource_type, query.lstrip("?"), strict=True)
        if len(found) > 1:
            raise FhirError(412, "multiple-matches", f"{len(found)} {resource_type} match")
        return found[0] if found else None


@dataclass(slots=True)
class _Entry:
    """One entry of a transaction; `query` is that of a conditional update."""

    method: str
    resource_type: str
    key: str
    query: str | None
    resource: Resource
    full_url: str | None
    if_none_exist: str | None
    if_match: str | None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> _Entry:
        """Read an entry. Raises FhirError."""
        request, resource = entry.get("request", {}), entry.get("resource")
        method, url = request.get("method"), str(request.get("url", ""))
        if method not in {"POST", "PUT"} or not isinstance(resource, dict):
            raise FhirError(422, "not-supported", f"a transaction does POST and PUT, not {method}")
        path, _, query = url.partition("?")
        resource_type, _, key = path.partition("/")
        if method == "PUT" and not key and not query:
            raise FhirError(400, "invalid", f"PUT {url}: an id or a search was expected")
        return cls(
            method,
            resource_type,
            key,
            query or None,
            resource,
            entry.get("fullUrl"),
            request.get("ifNoneExist"),
            request.get("ifMatch"),
        )


def etag(resource: Resource) -> str:
    """The ETag of a version (R4 3.1.0.5)."""
    return f'W/"{resource["meta"]["versionId"]}"'


def location(resource: Resource) -> str:
    """The version's place below the base."""
    version = resource["meta"]["versionId"]
    return f"{resource['resourceType']}/{resource['id']}/_history/{version}"


def _response(done: Done) -> Resource:
    return {
        "status": "201 Created" if done.status == 201 else "200 OK",
        "location": location(done.resource),
        "etag": etag(done.resource),
        "lastModified": done.resource["meta"]["lastUpdated"],
    }


def _token(text: str) -> tuple[str | None, str]:
    """A token of a search (R4 3.1.1.4.10): system (None: any, "": none) and value."""
    first, *rest = _split(text, "|")
    return (_unescaped(first), _unescaped(rest[0])) if rest else (None, _unescaped(first))


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that are not escaped (R4 3.1.1.5.7)."""
    return re.findall(rf"(?:^|{re.escape(separator)})((?:\\.|[^\\{separator}])*)", text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\$,|])", r"\1", text)


def _has_identifier(resource: Resource, system: str | None, value: str) -> bool:
    return any(
        (not value or identifier.get("value") == value)
        and (system is None or identifier.get("system", "") == system)
        for identifier in resource.get("identifier", ())
    )


def _refers(resource: Resource, value: str) -> bool:
    found = {resource.get(name, {}).get("reference") for name in _REFERRING}
    return bool(found & {value, f"Patient/{value}"})


def _resolved(value: Any, ids: Mapping[str, str]) -> Any:
    """The resource with references to entries replaced by those to what they became."""
    if isinstance(value, dict):
        return {
            key: ids.get(item, item)
            if key == "reference" and isinstance(item, str)
            else _resolved(item, ids)
            for key, item in value.items()
        }
    return [_resolved(item, ids) for item in value] if isinstance(value, list) else value


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}[{number}]")
