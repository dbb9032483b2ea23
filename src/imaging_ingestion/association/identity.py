"""Verifies user identities of association requests (PS3.7 D.3.3.7).

A username alone proves nothing: it is accepted where it is one of those configured. A passcode is
compared in constant time, against a slow hash where the site keeps hashes. A JSON Web Token is
verified by its signature, its time and what it must claim. Kerberos tickets and SAML assertions are
not among these kinds, so the acceptor refuses them. Secrets never reach a log (D.3.3.7).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from imaging_ingestion.dimse.acceptor import IdentityVerdict
from imaging_ingestion.dimse.pdu_items import UserIdentity

log = structlog.get_logger(__name__)

USERNAME, USERNAME_AND_PASSCODE, JSON_WEB_TOKEN = 1, 2, 5
#: Of the signature of tokens, where the site says nothing.
DEFAULT_ALGORITHMS: Final = ("RS256", "ES256")

#: Costs of a hash: 16 MiB and some 50 ms of one core.
_SCRYPT_N: Final = 1 << 14
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_SCRYPT_MEMORY: Final = 64 << 20
_PREFIX: Final = "scrypt$"
#: Passcodes that are hashed at once, whoever asks: more would only take the cores from others.
_AT_ONCE: Final = 2
_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
    | {"HS256", "HS384", "HS512"}
)


class IdentityConfigError(ValueError):
    """The verification is not configured so that it could work; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What JSON Web Tokens are accepted.

    `key`: the issuer's public key in PEM, or the secret of HMAC algorithms. `algorithms`: of the
    signature; a token cannot choose another. `issuer` and `audience` are claimed as they stand
    here, if they do. `leeway` is how many seconds clocks may differ.
    """

    key: str = field(repr=False)
    algorithms: Sequence[str] = DEFAULT_ALGORITHMS
    issuer: str | None = None
    audience: str | None = None
    leeway: float = 30.0


def hash_passcode(passcode: str) -> str:
    """A passcode as a site's Secret should keep it."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(passcode.encode(), salt, (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    numbers = f"{_SCRYPT_N}${_SCRYPT_R}${_SCRYPT_P}"
    return f"{_PREFIX}{numbers}${_base64(salt)}${_base64(digest)}"


class UserIdentities:
    """Judges user identities; a `Verifier` of a listener.

    `passcodes` are by username, each a passcode or the hash of one (`hash_passcode`).
    """

    def __init__(
        self,
        *,
        usernames: Collection[str] = (),
        passcodes: Mapping[str, str] | None = None,
        tokens: TokenSettings | None = None,
    ) -> None:
        """Raises IdentityConfigError."""
        self._usernames = frozenset(usernames)
        self._passcodes = {name: _Passcode(text) for name, text in (passcodes or {}).items()}
        self._tokens = tokens
        # For a name that nobody has, so that it takes as long as for one that somebody has.
        self._nobody = _Passcode(hash_passcode(secrets.token_urlsafe()))
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        if tokens is not None:
            _check_tokens(tokens)

    @property
    def kinds(self) -> frozenset[int]:
        """The kinds that are verified: `AcceptorPolicy.verified_identity_kinds`."""
        kinds = set()
        if self._usernames:
            kinds.add(USERNAME)
        if self._passcodes:
            kinds.add(USERNAME_AND_PASSCODE)
        if self._tokens is not None:
            kinds.add(JSON_WEB_TOKEN)
        return frozenset(kinds)

    async def __call__(self, identity: UserIdentity) -> IdentityVerdict:
        """Judge one. The server's response is empty for all these kinds (table D.3-15)."""
        match identity.kind:
            case 1:
                accepted, who = _text(identity.primary_field) in self._usernames, "username"
            case 2:
                accepted, who = await self._is_passcode(identity), "passcode"
            case 5:
                accepted, who = self._is_token(identity.primary_field), "token"
            case _:
                accepted, who = False, "kind"
        if not accepted:
            log.warning("dimse.identity_refused", because_of=who)
        return IdentityVerdict(accepted)

    async def _is_passcode(self, identity: UserIdentity) -> bool:
        known = self._passcodes.get(_text(identity.primary_field) or "")
        passcode = known or self._nobody
        async with self._at_once:
            is_right = await asyncio.to_thread(passcode.is_right, identity.secondary_field)
        return is_right and known is not None

    def _is_token(self, token: bytes) -> bool:
        import jwt

        settings = self._tokens
        assert settings is not None
        try:
            jwt.decode(
                token,
                settings.key,
                algorithms=list(settings.algorithms),
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=settings.leeway,
                options=_options(settings),
            )
        except jwt.PyJWTError as error:
            log.info("dimse.token_refused", why=type(error).__name__)
            return False
        return True


class _Passcode:
    """A passcode that is known, or its hash."""

    def __init__(self, text: str) -> None:
        self._digest = text.encode()
        self._salt: bytes | None = None
        self._costs = (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P)
        if text.startswith(_PREFIX):
            try:
                n, r, p, salt, digest = text.removeprefix(_PREFIX).split("$")
                self._costs = int(n), int(r), int(p)
                self._salt, self._digest = (
                    base64.b64decode(part, validate=True) for part in (salt, digest)
                )
                if len(self._digest) != len(_scrypt(b"", self._salt, self._costs)):
                    raise ValueError("the digest has another length")
            except (ValueError, binascii.Error, MemoryError) as error:
                raise IdentityConfigError("the hash of a passcode cannot be read") from error

    def is_right(self, passcode: bytes) -> bool:
        """Whether it is this one; takes as long if it is not."""
        salt = self._salt if self._salt is not None else b"unsalted"
        offered = _scrypt(passcode, salt, self._costs)
        if self._salt is None:
            offered = passcode
        return hmac.compare_digest(offered, self._digest)


def _check_tokens(tokens: TokenSettings) -> None:
    import jwt

    unknown = sorted(set(tokens.algorithms) - _ALGORITHMS)
    if unknown or not tokens.algorithms:
        raise IdentityConfigError(f"{', '.join(unknown) or 'nothing'} is no signature of a token")
    for name in tokens.algorithms:
        try:
            jwt.get_algorithm_by_name(name).prepare_key(tokens.key)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise IdentityConfigError(f"the key of tokens is none for {name}: {error}") from error


def _options(settings: TokenSettings) -> Any:
    required = ["exp"]
    if settings.issuer is not None:
        required.append("iss")
    if settings.audience is not None:
        required.append("aud")
    return {"require": required, "verify_aud": settings.audience is not None}


def _scrypt(passcode: bytes, salt: bytes, costs: tuple[int, int, int]) -> bytes:
    n, r, p = costs
    return hashlib.scrypt(passcode, salt=salt, n=n, r=r, p=p, maxmem=_SCRYPT_MEMORY, dklen=32)


def _text(field: bytes) -> str | None:
    try:
        return field.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
