"""Versions and cipher suites of TLS by the names that sites write (PS3.15 B.9 to B.13, RFC 9325).

Java's names, which are the IANA registry's, and OpenSSL's own are understood.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: What is offered and accepted by default: the suites of PS3.15 B.10 and B.11 (DHE for peers that
#: have nothing better), all with authenticated encryption and forward secrecy.
DEFAULT_SUITES: Final = (
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256",
)
DEFAULT_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")

_VERSIONS: Final = {
    "TLSV1": ssl.TLSVersion.TLSv1,
    "TLSV1.0": ssl.TLSVersion.TLSv1,
    "TLSV1.1": ssl.TLSVersion.TLSv1_1,
    "TLSV1.2": ssl.TLSVersion.TLSv1_2,
    "TLSV1.3": ssl.TLSVersion.TLSv1_3,
}
#: OpenSSL offers all of TLS 1.3's suites, which are good, and Python cannot choose among them.
_TLS_1_3 = re.compile(r"TLS_(AES_(128|256)_(GCM|CCM|CCM_8)|CHACHA20_POLY1305)_SHA(256|384)")
_NAME = re.compile(
    r"(?:TLS|SSL)_(?P<exchange>[A-Za-z_]+?)_WITH_(?P<cipher>[A-Z0-9_]+?)_(?P<mac>SHA(?:256|384)?)"
)
_EXCHANGES: Final = {
    "RSA": "",
    "DHE_RSA": "DHE-RSA-",
    "DHE_DSS": "DHE-DSS-",
    "ECDHE_RSA": "ECDHE-RSA-",
    "ECDHE_ECDSA": "ECDHE-ECDSA-",
}
_SECURE = re.compile(r"(ECDHE-(RSA|ECDSA)|DHE-RSA)-.*(GCM|CHACHA20|CCM)")


class UnknownNameError(ValueError):
    """No such version or cipher suite."""


@dataclass(frozen=True, slots=True)
class Suites:
    """Cipher suites as OpenSSL has them: those of TLS 1.2 and before, and whether 1.3 is wanted.

    `weak` are those that PS3.15's profiles do not have.
    """

    openssl: tuple[str, ...]
    tls_1_3: bool
    weak: tuple[str, ...]


def read_versions(names: Iterable[str]) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
    """The lowest and the highest version named. Raises UnknownNameError."""
    versions = []
    for name in names:
        version = _VERSIONS.get(name.strip().upper())
        if version is None:
            raise UnknownNameError(f"{name!r} is no version of TLS; {', '.join(DEFAULT_VERSIONS)}")
        versions.append(version)
    if not versions:
        raise UnknownNameError("no version of TLS is named")
    return min(versions), max(versions)


def read_suites(names: Iterable[str]) -> Suites:
    """Cipher suites by any of their names. Raises UnknownNameError."""
    openssl: list[str] = []
    tls_1_3 = False
    for name in map(str.strip, names):
        if _TLS_1_3.fullmatch(name):
            tls_1_3 = True
        else:
            openssl.append(openssl_name(name))
    weak = tuple(name for name in openssl if not _SECURE.match(name))
    return Suites(tuple(dict.fromkeys(openssl)), tls_1_3, weak)


def openssl_name(name: str) -> str:
    """OpenSSL's name of a suite of TLS 1.2 or before. Raises UnknownNameError."""
    found = _NAME.fullmatch(name)
    if found is None:
        if re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9]+)*", name):
            return name  # as it is: whether OpenSSL has it is seen when it is asked
        raise UnknownNameError(f"{name!r} is no cipher suite")
    exchange = _EXCHANGES.get(found["exchange"])
    if exchange is None:
        raise UnknownNameError(f"{name!r}: cipher suites with {found['exchange']} are not offered")
    cipher, mac = found["cipher"], found["mac"]
    if cipher == "3DES_EDE_CBC":
        return f"{exchange}DES-CBC3-{mac}"
    if cipher == "CHACHA20_POLY1305":
        return f"{exchange}CHACHA20-POLY1305"
    block = re.fullmatch(r"(AES|CAMELLIA|ARIA)_(128|256)_(CBC|GCM)", cipher)
    if block is None:
        raise UnknownNameError(f"{name!r}: {cipher} is not offered")
    mode = "-GCM" if block[3] == "GCM" else ""
    return f"{exchange}{block[1]}{block[2]}{mode}-{mac}"
