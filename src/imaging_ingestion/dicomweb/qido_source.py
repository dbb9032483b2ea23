"""How many instances of a study its sender has, asked by QIDO-RS (PS3.18 10.6)."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import msgspec

from imaging_ingestion.brokers.settle_hints import SourceError

#: Bytes of an answer that are read: one study's attributes are a few thousand.
_LONGEST: Final = 1 << 20
_NUMBER: Final = "00201208"  # Number of Study Related Instances


class QidoSource:
    """A sender with a DICOMweb root."""

    def __init__(self, root: str, token: str | None = None) -> None:
        """`token` is sent as a bearer token, if there is one."""
        self._url = f"{root.rstrip('/')}/studies"
        self._headers = {"Accept": "application/dicom+json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None

    async def expected(self, study_instance_uid: str) -> int | None:
        """See `brokers.settle_hints.Source`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        asked = {
            "StudyInstanceUID": study_instance_uid,
            "includefield": "NumberOfStudyRelatedInstances",
        }
        try:
            async with self._session.get(
                self._url, params=asked, allow_redirects=False
            ) as response:
                if response.status == 204:
                    return None
                if response.status != 200:
                    raise SourceError(f"{self._url} answers {response.status}")
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > _LONGEST:
                        raise SourceError(f"{self._url}: an answer of over {_LONGEST} bytes")
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(f"{self._url}: {type(error).__name__}") from error
        return _number(body, study_instance_uid)

    async def close(self) -> None:
        """Close its connections. Harmless twice."""
        if self._session is not None:
            await self._session.close()


def _number(body: bytearray, study_instance_uid: str) -> int | None:
    """The number in a QIDO answer about that study. Raises SourceError."""
    try:
        studies: list[dict[str, dict[str, Any]]] = msgspec.json.decode(
            body, type=list[dict[str, dict[str, Any]]]
        )
    except msgspec.DecodeError as error:
        raise SourceError(f"the answer is no DICOM JSON: {error}") from error
    for found in studies:
        if found.get("0020000D", {}).get("Value") == [study_instance_uid]:
            values = found.get(_NUMBER, {}).get("Value")
            match values:
                case [int(number)] if number >= 0:
                    return number
                case [str(text)] if text.isascii() and text.isdigit():
                    return int(text)
    return None
