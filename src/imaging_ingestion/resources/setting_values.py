"""The keys of ConfigMaps and Secrets: what is meant by them, and where each of them stands."""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import SecretStr

from imaging_ingestion.dimse.error import EncodingError
from imaging_ingestion.dimse.pdu import check_ae_title
from imaging_ingestion.resources.models import ConfigMap, Secret
from imaging_ingestion.resources.settings import SETTINGS
from imaging_ingestion.resources.site_file import Site

_KNOWN = frozenset(setting.name for setting in SETTINGS)
#: How alike an unknown key must be to a known one to be taken for a slip of the pen. Other keys may
#: stand there: a ConfigMap is often shared with programs that are not ours.
_ALIKE = 0.85


@dataclass(frozen=True, slots=True)
class _Value:
    text: str = field(repr=False)
    place: str  # "site.yaml, document 3 (ConfigMap stow): data.STOW_ENDPOINT"


class Settings:
    """What a ConfigMap and a Secret say together; of a key that both have, the Secret's counts.

    Values that cannot be used are told to `problem`; reading them again gives None.
    """

    def __init__(
        self, values: Mapping[str, _Value], owner: str, problem: Callable[[str], None]
    ) -> None:
        self._values = values
        self._owner = owner
        self._problem = problem

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def any_of(self, keys: Iterable[str]) -> str | None:
        """The first of the keys that is there."""
        return next((key for key in keys if key in self._values), None)

    def place(self, key: str) -> str:
        """Where the key stands, or where it is missed."""
        found = self._values.get(key)
        return found.place if found else f"{self._owner}: {key}"

    def text(self, key: str) -> str | None:
        """A value, without blanks around it; None if there is none or it is empty."""
        found = self._values.get(key)
        return (found.text if found else "") or None

    def secret(self, key: str) -> SecretStr | None:
        """A value nobody is to see."""
        value = self.text(key)
        return None if value is None else SecretStr(value)

    def secrets(self, prefix: str) -> dict[str, SecretStr]:
        """All values whose keys begin so."""
        keys = (key for key in self._values if key.startswith(prefix))
        return {key: value for key in keys if (value := self.secret(key)) is not None}

    def ae_title(self, key: str, default: str | None) -> str | None:
        """An AE title; without a default it is required."""
        title = self.text(key) or default
        try:
            if title is not None:
                check_ae_title(title)
                return title
        except EncodingError as error:
            self._problem(f"{self.place(key)}: {error}")
            return None
        self._problem(f"{self.place(key)}: an AE title was expected")
        return None

    def number(self, key: str, default: int, most: int, *, least: int = 1) -> int:
        """A whole number from `least` to `most`."""
        text = self.text(key)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
            return int(text)
        self._problem(f"{self.place(key)}: a number from {least} to {most} was expected")
        return default

    def flag(self, key: str, *, default: bool) -> bool:
        """`true` or `false`."""
        text = self.text(key)
        if text is None:
            return default
        if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        self._problem(f"{self.place(key)}: true or false was expected")
        return default

    def words(self, key: str) -> tuple[str, ...]:
        """What stands between commas."""
        return tuple(word.strip() for word in (self.text(key) or "").split(",") if word.strip())

    def url(self, key: str, *, path: bool = True) -> str | None:
        """An absolute http(s) URL or, if `path`, a path on this server."""
        text = self.text(key)
        if text is None or is_url(text):
            return text
        if path and text.startswith("/") and is_url(f"http://here{text}"):
            return text
        forms = "http://HOST…, https://HOST… or /PATH" if path else "http://HOST… or https://HOST…"
        self._problem(f"{self.place(key)}: {forms} was expected")
        return None


def read_settings(
    site: Site,
    owner: str,
    config: tuple[str, str | None],
    secret: tuple[str, str | None],
    problem: Callable[[str], None],
) -> Settings:
    """The settings of a resource (`owner`, its place) from what it names.

    `config` and `secret` are a field and the name in it. What is not there, or cannot be read, is
    told to `problem`.
    """
    values: dict[str, _Value] = {}
    named_in, name = config
    if name is not None:
        found = site.find(ConfigMap, name)
        if found is None:
            problem(f"{owner}: {named_in}: there is no ConfigMap named {name}")
        else:
            config_map, place = found
            for key, text in config_map.data.items():
                values[key] = _Value(text.strip(), f"{place}: data.{key}")
    named_in, name = secret
    if name is not None:
        named = site.find(Secret, name)
        if named is None:
            problem(f"{owner}: {named_in}: there is no Secret named {name}")
        else:
            values |= _secret_values(*named, problem)
    for key, value in values.items():
        if key not in _KNOWN:
            meant = difflib.get_close_matches(key.upper(), _KNOWN, n=1, cutoff=_ALIKE)
            if meant:
                problem(f"{value.place}: the key is not known; did you mean {meant[0]}?")
    return Settings(values, owner, problem)


def _secret_values(secret: Secret, place: str, problem: Callable[[str], None]) -> dict[str, _Value]:
    values = {}
    for key, encoded in secret.data.items():
        where = f"{place}: data.{key}"
        try:
            # As in Go, lines may be broken anywhere.
            data = base64.b64decode(encoded.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):
            problem(f"{where}: base64 was expected (stringData takes plain text)")
            continue
        try:
            values[key] = _Value(data.decode().strip(), where)
        except UnicodeDecodeError:
            if key in _KNOWN:
                problem(f"{where}: base64 of a text was expected")
    for key, text in secret.stringData.items():
        values[key] = _Value(text.strip(), f"{place}: stringData.{key}")
    return values


def is_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not match
        return False
