"""Asking a server over HTTP: whatever it answers, problems included, is an answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


def ask(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    request = urllib.request.Request(
        url, body, {name.replace("_", "-"): value for name, value in headers.items()}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        is_problem = error.headers.get_content_type() == "application/problem+json"
        return error.code, json.loads(error.read()) if is_problem else None
