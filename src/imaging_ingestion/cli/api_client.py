"""Asking a running server's API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

_TIMEOUT = 30.0  # seconds
_PAGE = 1000  # rows
_QUOTED = 500  # characters of an answer that nobody expected


class ApiError(Exception):
    """The server did not answer, or not as it should; a sentence for people."""


class Api:
    """The API below a server's root URL. Raises ValueError if `url` is none."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isprintable() or " " in url:
            raise ValueError(f"{url}: http://HOST:PORT was expected")
        self._root = url.rstrip("/")
        # Straight to the server: what the environment says of proxies is meant for the internet.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, parameters: Mapping[str, object] | None = None) -> Any:
        """GET a resource below /api; parameters that are None are left out. Raises ApiError."""
        query = urlencode({k: v for k, v in (parameters or {}).items() if v is not None})
        return self._call(f"/api/{path}{'?' if query else ''}{query}", None)

    def post(self, path: str, body: object, parameters: Mapping[str, object] | None = None) -> Any:
        """POST to a resource below /api. Raises ApiError."""
        query = urlencode({k: v for k, v in (parameters or {}).items() if v is not None})
        return self._call(f"/api/{path}{'?' if query else ''}{query}", json.dumps(body).encode())

    def delete(self, path: str, parameters: Mapping[str, object] | None = None) -> Any:
        """DELETE a resource below /api. Raises ApiError."""
        query = urlencode({k: v for k, v in (parameters or {}).items() if v is not None})
        return self._call(f"/api/{path}{'?' if query else ''}{query}", None, "DELETE")

    def rows(self, resource: str, parameters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """All rows of a list, page by page. Raises ApiError."""
        after = None
        while True:
            answer = self.get(resource, {**parameters, "after": after, "limit": _PAGE})
            yield from answer[resource]
            after = answer["next"]
            if after is None:
                return

    def _call(self, path: str, data: bytes | None, method: str | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._root + path,
            data=data,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(4 * _QUOTED).decode("utf-8", "replace")
            raise ApiError(f"{self._root}{path}: HTTP {error.code}: {_words(said)}") from error
        except urllib.error.URLError as error:
            raise ApiError(f"{self._root} does not answer: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise ApiError(f"{self._root} does not answer: {reason}") from error
        except ValueError as error:
            raise ApiError(f"{self._root}{path}: the answer is no JSON: not one of ours") from error


def _words(said: str) -> str:
    """What a problem document (RFC 9457) says, else the answer as it is."""
    try:
        decoded = json.loads(said)
    except ValueError:
        return " ".join(said.split())[:_QUOTED]
    detail = decoded.get("detail") if isinstance(decoded, dict) else None
    return str(detail or said)[:_QUOTED]
