"""Who may use a NATS server: NKeys, and the JWTs of an operator, as its own tools make them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys


@dataclass(frozen=True)
class Key:
    """An NKey."""

    seed: bytes

    @classmethod
    def new(cls, kind: int) -> Key:
        return cls(bytes(nkeys.encode_seed(os.urandom(32), kind)))

    @property
    def public(self) -> str:
        return nkeys.from_seed(bytearray(self.seed)).public_key.decode()

    def sign(self, data: bytes) -> bytes:
        return nkeys.from_seed(bytearray(self.seed)).sign(data)


def user_key() -> Key:
    return Key.new(nkeys.PREFIX_BYTE_USER)


def token(issuer: Key, subject: str, name: str, claims: dict[str, Any], **more: Any) -> str:
    """A JWT of NATS."""
    body = {
        "iat": int(time.time()),
        "iss": issuer.public,
        "name": name,
        "sub": subject,
        "nats": {"version": 2, **claims},
        **more,
    }
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = b".".join(_base64(json.dumps(part).encode()) for part in (head, body))
    return (signed + b"." + _base64(issuer.sign(signed))).decode()


class Operator:
    """An operator with one account."""

    def __init__(self) -> None:
        self._key = Key.new(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """For a server."""
        operator = token(self._key, self._key.public, "operator", {"type": "operator"})
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1}
        limits |= {"wildcards": True, "conn": -1, "leaf": -1}  # type: ignore[dict-item]
        claims = {"type": "account", "limits": limits}
        account = token(self._key, self._account.public, "account", claims)
        return (
            f"operator: {operator}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {self._account.public}: {account} }}\n"
        )

    def credentials(
        self, path: Path, *, publish: tuple[str, ...], subscribe: tuple[str, ...], **more: Any
    ) -> Path:
        """A file of a user that may do this and nothing else."""
        user = user_key()
        claims = {
            "type": "user",
            "pub": {"allow": list(publish)},
            "sub": {"allow": list(subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        jwt = token(self._account, user.public, "user", claims, **more)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return path


def service_account_token(subject: str) -> str:
    """A JWT as Kubernetes gives it to a service account; nobody here verifies it."""
    head, body = {"alg": "RS256"}, {"sub": subject, "iss": "kubernetes/serviceaccount"}
    parts = [_base64(json.dumps(part).encode()) for part in (head, body)]
    return b".".join((*parts, _base64(b"signature"))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
