"""What a FHIR server's answers say: resources, and errors in words that an operator can use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from typing import Any

import msgspec

from imaging_ingestion.bindings.fhir.imaging_study import Resource
from imaging_ingestion.bindings.http_target import Answer, classify, retry_after
from imaging_ingestion.events.broker import RefusedError, TryAgainError

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_HTML_READ = 20_000  # characters of a page that are looked at


def taken(answer: Answer) -> None:
    """Return if the server has done what was asked. Raises TryAgainError, RefusedError.

    409 (R4 3.1.0.8: the resource is being changed by another) passes by itself and is tried again;
    412 means here that a search matched several resources, which it does not.
    """
    if 300 <= answer.status < 400:
        place = _header(answer, "location") or "no address"
        raise RefusedError(
            f"{answer.status}: the server redirects to {place}; give that address to the binding"
        )
    told = replace(answer, body=explanation(answer).encode())
    if answer.status == 409:
        raise TryAgainError(told.quoted(), retry_after=retry_after(answer))
    classify(told)


def resource_of(answer: Answer) -> Resource:
    """The resource that the server answered with. Raises as `taken`."""
    taken(answer)
    resource = _resource(answer)
    if resource is None:
        kind = _header(answer, "content-type") or "no type"
        raise RefusedError(
            f"{answer.status}: no FHIR JSON but {kind}: {explanation(answer)[:200]}; "
            "is the binding's address the base of a FHIR server?"
        )
    return resource


def explanation(answer: Answer) -> str:
    """The server's own words: of its OperationOutcome, its HTML page, or as they are."""
    resource = _resource(answer)
    if resource is not None and resource["resourceType"] == "OperationOutcome":
        issues = [i for i in _list(resource.get("issue")) if isinstance(i, dict)]
        errors = [i for i in issues if i.get("severity") in {"fatal", "error"}]
        return "; ".join(map(_issue, errors or issues))
    text = answer.body.decode("utf-8", "replace").strip()
    if not text.startswith("<"):
        return text
    page = text[:_HTML_READ]
    title = _TITLE.search(page)
    return "HTML page: " + " ".join(unescape(_TAGS.sub(" ", title[1] if title else page)).split())


def version_of(resource: Resource) -> str | None:
    """The version that If-Match names; None if the server keeps none."""
    meta = resource.get("meta")
    version = meta.get("versionId") if isinstance(meta, dict) else None
    return version if isinstance(version, str) and version else None


def created_id(location: object, resource_type: str) -> str | None:
    """The id in a location, as `[base]/ImagingStudy/id/_history/1`; None if there is none."""
    if not isinstance(location, str):
        return None
    found = re.search(rf"(?:^|/){resource_type}/([A-Za-z0-9.-]{{1,64}})(?:$|[/?])", location)
    return found[1] if found else None


def location_of(answer: Answer) -> str | None:
    """Where the server put a resource."""
    return _header(answer, "location") or _header(answer, "content-location")


def _resource(answer: Answer) -> Resource | None:
    try:
        decoded = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(decoded, dict) and isinstance(decoded.get("resourceType"), str):
        return decoded
    return None


def _issue(issue: Mapping[str, Any]) -> str:
    details = issue.get("details")
    text = details.get("text") if isinstance(details, dict) else None
    words = [str(word) for word in (text, issue.get("diagnostics")) if word]
    where = ", ".join(map(str, _list(issue.get("expression")) or _list(issue.get("location"))))
    code = str(issue.get("code", "unknown"))
    return f"{code}: {' '.join(words) or 'no explanation'}" + (f" ({where})" if where else "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _header(answer: Answer, name: str) -> str | None:
    return next((v for k, v in answer.headers.items() if k.lower() == name), None)
