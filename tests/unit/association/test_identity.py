"""Verifying user identities (PS3.7 D.3.3.7)."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imaging_ingestion.association.identity import (
    IdentityConfigError,
    TokenSettings,
    UserIdentities,
    hash_passcode,
)
from imaging_ingestion.dimse.pdu_items import UserIdentity

SECRET = "a secret that is long enough for any HMAC of them all, and a bit more than that"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


async def accepted(
    identities: UserIdentities, kind: int, primary: str | bytes, secondary: bytes = b""
) -> bool:
    field = primary.encode() if isinstance(primary, str) else primary
    verdict = await identities(UserIdentity(kind, field, secondary, True))
    assert verdict.response == b""
    return verdict.accepted


async def test_a_username_is_accepted_if_it_is_one_of_those() -> None:
    identities = UserIdentities(usernames=["alice", "jörg"])
    assert identities.kinds == {1}
    assert await accepted(identities, 1, "alice")
    assert await accepted(identities, 1, "jörg")
    assert not await accepted(identities, 1, "Alice")
    assert not await accepted(identities, 1, "")
    assert not await accepted(identities, 1, b"j\xf6rg")


@pytest.mark.parametrize("hashed", [False, True])
async def test_a_passcode_is_accepted_if_it_is_the_users(hashed: bool) -> None:
    kept = {name: hash_passcode(text) if hashed else text for name, text in (
        ("alice", "wonderland"), ("bob", "builder"),
    )}  # fmt: skip
    identities = UserIdentities(passcodes=kept)
    assert identities.kinds == {2}
    assert await accepted(identities, 2, "alice", b"wonderland")
    assert await accepted(identities, 2, "bob", b"builder")
    assert not await accepted(identities, 2, "alice", b"builder")
    assert not await accepted(identities, 2, "alice", b"")
    assert not await accepted(identities, 2, "alice", b"wonderland ")
    assert not await accepted(identities, 2, "carol", b"wonderland")
    assert not await accepted(identities, 2, b"\xff", b"wonderland")


async def test_the_hash_itself_is_no_passcode() -> None:
    kept = hash_passcode("wonderland")
    identities = UserIdentities(passcodes={"alice": kept})
    assert not await accepted(identities, 2, "alice", kept.encode())


async def test_other_kinds_are_not_accepted() -> None:
    identities = UserIdentities(usernames=["alice"], passcodes={"alice": "x"})
    for kind in (0, 3, 4, 6):
        assert not await accepted(identities, kind, "alice", b"x")


async def test_secrets_reach_no_log() -> None:  # A15
    identities = UserIdentities(
        passcodes={"alice": "wonderland"}, tokens=TokenSettings(SECRET, ("HS256",))
    )
    with structlog.testing.capture_logs() as logs:
        await accepted(identities, 2, "alice", b"looking-glass")
        await accepted(identities, 5, token(SECRET, "HS256") + "x")
    text = repr(logs) + repr(TokenSettings(SECRET, ("HS256",)))
    assert len(logs) >= 2
    assert "glass" not in text
    assert "wonderland" not in text
    assert SECRET not in text
    assert token(SECRET, "HS256")[:20] not in text


def token(key: Any, algorithm: str, **claims: Any) -> str:
    content = {"sub": "alice", "exp": time.time() + 60} | claims
    return jwt.encode({k: v for k, v in content.items() if v is not None}, key, algorithm)


@pytest.mark.parametrize(
    ("algorithm", "private", "public"),
    [("RS256", RSA_KEY, pem(RSA_KEY)), ("ES256", EC_KEY, pem(EC_KEY)), ("HS256", SECRET, SECRET)],
)
async def test_a_token_is_accepted_by_its_signature(
    algorithm: str, private: Any, public: str
) -> None:
    identities = UserIdentities(tokens=TokenSettings(public, (algorithm,)))
    assert identities.kinds == {5}
    good = token(private, algorithm)
    assert await accepted(identities, 5, good)
    head, body, signature = good.split(".")
    assert not await accepted(identities, 5, f"{head}.{body}.{signature[::-1]}")
    assert not await accepted(identities, 5, f"{head}.{body}.")
    assert not await accepted(identities, 5, "no token at all")
    assert not await accepted(identities, 5, b"\xff\xfe")


async def test_a_token_without_a_signature_is_not_accepted() -> None:
    identities = UserIdentities(tokens=TokenSettings(SECRET, ("HS256",)))
    unsigned = jwt.encode({"exp": time.time() + 60}, None, algorithm="none")
    assert not await accepted(identities, 5, unsigned)


async def test_a_token_cannot_choose_the_algorithm() -> None:
    """The public key, taken for the secret of an HMAC: anybody could sign by it."""
    identities = UserIdentities(tokens=TokenSettings(pem(RSA_KEY), ("RS256",)))
    import base64
    import hashlib
    import hmac
    import json

    def part(content: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"exp": time.time() + 60})
    digest = hmac.new(pem(RSA_KEY).encode(), signed, hashlib.sha256).digest()
    forged = signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
    assert not await accepted(identities, 5, forged)


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({}, True),
        ({"exp": time.time() - 3600}, False),
        ({"exp": None}, False),
        ({"nbf": time.time() + 3600}, False),
        ({"iss": "another"}, False),
        ({"iss": None}, False),
        ({"aud": "another"}, False),
        ({"aud": ["another", "ingestion"]}, True),
        ({"aud": None}, False),
    ],
)
async def test_a_token_must_claim_what_is_configured(claims: dict[str, Any], is_good: bool) -> None:
    settings = TokenSettings(SECRET, ("HS256",), issuer="the site", audience="ingestion")
    identities = UserIdentities(tokens=settings)
    made = token(SECRET, "HS256", **{"iss": "the site", "aud": "ingestion"} | claims)
    assert await accepted(identities, 5, made) is is_good


@pytest.mark.parametrize(
    "settings",
    [
        TokenSettings(SECRET, ("none",)),
        TokenSettings(SECRET, ()),
        TokenSettings("no key", ("RS256",)),
        TokenSettings(pem(RSA_KEY), ("ES256",)),
        TokenSettings(pem(RSA_KEY), ("HS256",)),
    ],
)
def test_settings_of_tokens_that_cannot_work_are_refused(settings: TokenSettings) -> None:
    with pytest.raises(IdentityConfigError):
        UserIdentities(tokens=settings)


@pytest.mark.parametrize("kept", ["scrypt$", "scrypt$1$2$3$AAAA$AAAA", "scrypt$16384$8$1$?$AAAA"])
def test_a_hash_that_cannot_be_read_is_refused(kept: str) -> None:
    with pytest.raises(IdentityConfigError):
        UserIdentities(passcodes={"alice": kept})
