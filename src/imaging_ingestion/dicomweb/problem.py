"""Errors as the client reads them: RFC 9457 problem documents (PS3.18 8.5)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response


class HttpProblemError(Exception):
    """A request that cannot be answered as asked: status, what is wrong, what would be right."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def response(self) -> Response:
        """The answer."""
        answer = problem(self.status, self.title, self.detail, **self.members)
        answer.headers.update(self.headers)
        return answer


def problem(status: int, title: str, detail: str, **members: object) -> Response:
    """A problem document; `members` are further facts (e.g. what is available)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **members}
    return Response(
        msgspec.json.encode(body), status_code=status, media_type="application/problem+json"
    )


def bad_request(detail: str, **members: object) -> HttpProblemError:
    """400: the request contradicts the standard; `detail` names the part and what is expected."""
    return HttpProblemError(400, "Bad Request", detail, headers=None, **members)


def not_found(detail: str) -> HttpProblemError:
    """404: no such resource."""
    return HttpProblemError(404, "Not Found", detail)


def not_acceptable(available: object) -> HttpProblemError:
    """406, with the representations there are (H6)."""
    return HttpProblemError(
        406,
        "Not Acceptable",
        "none of the accepted media types is available for this resource",
        available=available,
    )


def not_implemented(detail: str) -> HttpProblemError:
    """501: a part of the standard that a later version answers."""
    return HttpProblemError(501, "Not Implemented", detail)


async def answer_problem(_request: Request, error: Exception) -> Response:
    """Starlette's handler for HttpProblemError."""
    assert isinstance(error, HttpProblemError)
    return error.response()
