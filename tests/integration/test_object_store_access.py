"""How a space gets to its bucket: addresses, TLS, credentials, encryption; what it says if not."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import ssl
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority
from cloud_spaces import cloud_space
from http_recorder import Answer, Recorded, http_recorder
from object_stores import AZURE_ACCOUNT, AZURE_KEY, AzuriteStore, SwiftStore
from spaces import get, names, put
from store_link import store_link

from imaging_ingestion.storage import cloud_buffers
from imaging_ingestion.storage.cloud_buffers import PART
from imaging_ingestion.storage.cloud_store import Patience
from imaging_ingestion.storage.space import (
    SpaceDeniedError,
    SpaceFullError,
    SpaceMissingError,
    SpaceUnavailableError,
)

Store = SwiftStore | AzuriteStore
VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the library reads."""
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)


def certified(folder: Path) -> tuple[str, ssl.SSLContext]:
    """An authority's certificate, and what a server with one from it needs."""
    issuer = Authority()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(issuer.issue("localhost").pem(folder / "server.pem"))
    return issuer.file(folder / "ca.pem").read_text(), tls


async def test_a_space_that_is_there_is_found(object_store: Store, tmp_path: Path) -> None:
    values = object_store.settings(object_store.new_bucket())
    async with cloud_space(values, tmp_path) as space:
        await space.probe()
        await put(space, "a/b", b"x")
        await space.probe()


async def test_a_bucket_that_is_not_there_is_told_and_is_not_a_missing_object(
    object_store: Store, tmp_path: Path
) -> None:
    async with cloud_space(object_store.settings("not-there"), tmp_path) as space:
        message = "'clinical'.*'not-there'.*none of that name"
        with pytest.raises(SpaceMissingError, match=message):
            await space.probe()
        with pytest.raises(SpaceMissingError, match=message):
            await space.open("a/b")
        for size in (10, 2 * PART):
            with pytest.raises(SpaceMissingError, match=message):
                await put(space, "a/b", b"x" * size)
        with pytest.raises(SpaceMissingError, match=message):
            await names(space)


@pytest.mark.parametrize(
    "wrong",
    [
        {"AWS_SECRET_ACCESS_KEY": "c2VjcmV0", "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"},
        {"AWS_ACCESS_KEY_ID": "nobody", "AZURE_STORAGE_SAS_TOKEN": "sv=2018-11-09&sig=c2VjcmV0"},
    ],
)
async def test_wrong_credentials_are_told_without_showing_them(
    object_store: Store, tmp_path: Path, wrong: dict[str, str]
) -> None:
    values = object_store.settings(object_store.new_bucket())
    kind = "AZURE" if "AZURE_CONTAINER_NAME" in values else "AWS"
    values |= {key: text for key, text in wrong.items() if key.startswith(kind)}
    async with cloud_space(values, tmp_path) as space:
        for size in (10, 2 * PART):
            with pytest.raises(SpaceDeniedError, match="writing 'a/b': access was denied") as told:
                await put(space, "a/b", b"x" * size)
            shown = "".join(traceback.format_exception(told.value))
            assert "c2VjcmV0" not in shown
            assert "sig=" not in shown
        with pytest.raises(SpaceDeniedError, match="listing: access was denied"):
            await space.probe()


async def test_a_full_bucket_is_told_as_full(swift: SwiftStore, tmp_path: Path) -> None:
    bucket = swift.new_bucket()
    swift.limit(bucket, bytes=1000)
    async with cloud_space(swift.settings(bucket), tmp_path) as space:
        with pytest.raises(SpaceFullError, match="writing 'a/b': it is full"):
            await put(space, "a/b", b"x" * 5000)
        await put(space, "a/c", b"x" * 500)


async def test_a_full_scratch_folder_is_told_as_full(
    swift: SwiftStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None: ...

    async with cloud_space(swift.settings(swift.new_bucket()), tmp_path) as space:
        monkeypatch.setattr(cloud_buffers.tempfile, "TemporaryFile", lambda **_: Full())
        writer = space.writer()
        with pytest.raises(SpaceFullError, match=r"'clinical'.*scratch folder is full"):
            await writer.write(b"x" * (PART + 1))
        with pytest.raises(ValueError, match="spent"):  # no object with a hole in it
            await writer.write(b"more")
        await writer.abort()
        assert space.gathered == 0


async def test_the_bucket_may_be_in_the_host_name(
    swift: SwiftStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = swift.new_bucket()
    async with http_recorder(forward_to=swift.port) as proxy:
        # No name server knows BUCKET.localhost here; a proxy is not asked for one.
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        values = swift.settings(bucket) | {
            "BUCKET_HOST": "http://localhost",
            "BUCKET_PATH_STYLE": "false",
            "BUCKET_PREFIX": "/of/a/",
        }
        async with cloud_space(values, tmp_path) as space:
            await put(space, "a/b", b"content")
            await put(space, "a/c", b"x" * (PART + 1))
            assert await get(space, "a/b") == b"content"
            assert await names(space) == ["a/b", "a/c"]
        assert {request.headers["host"] for request in proxy.requests} == {
            f"{bucket}.localhost:{swift.port}"
        }
    assert set(swift.behind("GET", bucket).split()) == {"of/a/a/b", "of/a/a/c"}


async def test_https_needs_a_certificate_that_is_trusted(swift: SwiftStore, tmp_path: Path) -> None:
    certificate, tls = certified(tmp_path)
    async with store_link(swift.port, tls) as link:
        values = swift.settings(swift.new_bucket(), link.port) | {
            "BUCKET_HOST": "localhost",  # and the port is not 80
        }
        async with cloud_space(values, tmp_path) as space:
            with pytest.raises(SpaceUnavailableError, match="certificate is not trusted"):
                await space.probe()
        async with cloud_space(values | {"BUCKET_CA_CERTIFICATE": certificate}, tmp_path) as space:
            await put(space, "a/b", b"content")
            assert await get(space, "a/b") == b"content"


async def test_without_credentials_those_of_the_environment_are_used(
    swift: SwiftStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test:tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    values = swift.settings(swift.new_bucket())
    del values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
    async with cloud_space(values, tmp_path) as space:
        await put(space, "a/b", b"x")


async def test_declared_settings_go_before_those_of_the_environment(
    object_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SECRET_ACCESS_KEY": "another",
        "AWS_SESSION_TOKEN": "another",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ROLE_ARN": "arn:another",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/none",
        "AZURE_STORAGE_SAS_TOKEN": "sv=2018-11-09&sig=another",
        "AZURE_STORAGE_TOKEN": "another",
        "AZURE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    async with cloud_space(object_store.settings(object_store.new_bucket()), tmp_path) as space:
        await put(space, "a/b", b"x")
        assert await get(space, "a/b") == b"x"


STS_ANSWER = b"""<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>test:tester</AccessKeyId><SecretAccessKey>testing</SecretAccessKey>
<SessionToken>session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


async def test_a_service_account_of_kubernetes_gets_its_credentials_by_its_token(
    swift: SwiftStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("the token of the pod")
    certificate, tls = certified(tmp_path)
    async with http_recorder(lambda _: Answer(200, STS_ANSWER)) as sts:
        async with store_link(sts.port, tls) as link:  # it is asked by https only
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/images")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"https://localhost:{link.port}")
            values = swift.settings(swift.new_bucket()) | {"BUCKET_CA_CERTIFICATE": certificate}
            del values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
            async with cloud_space(values, tmp_path / "scratch") as space:
                await put(space, "a/b", b"x")
                assert await get(space, "a/b") == b"x"
        assert len(sts.requests) == 1
        asked = sts.requests[0].target + sts.requests[0].body.decode()
        assert "AssumeRoleWithWebIdentity" in asked
        assert "role%2Fimages" in asked


@pytest.mark.parametrize("kind", ["whole", "with a signature", "url and a signature"])
async def test_azure_takes_a_connection_string_or_a_signature(
    azurite: AzuriteStore, tmp_path: Path, kind: str
) -> None:
    container = azurite.new_bucket()
    signature = azurite.signature(container)
    values = {"AZURE_CONTAINER_NAME": container}
    endpoint = f"BlobEndpoint={azurite.url()}"
    if kind == "whole":
        values["AZURE_STORAGE_CONNECTION_STRING"] = (
            "DefaultEndpointsProtocol=http;"
            f"AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};{endpoint};"
        )
    elif kind == "with a signature":
        values["AZURE_STORAGE_CONNECTION_STRING"] = (
            f"{endpoint};AccountName={AZURE_ACCOUNT};SharedAccessSignature={signature}"
        )
    else:
        values["AZURE_STORAGE_CONNECTION_STRING"] = azurite.url()
        values["AZURE_STORAGE_ACCOUNT_NAME"] = AZURE_ACCOUNT
        values["AZURE_STORAGE_SAS_TOKEN"] = f"?{signature}"
    async with cloud_space(values, tmp_path) as space:
        await put(space, "a/b", b"x" * (PART + 1))
        assert await get(space, "a/b") == b"x" * (PART + 1)
        assert await names(space) == ["a/b"]
        await space.delete("a/b")
        assert await names(space) == []


async def test_a_signature_that_does_not_allow_writing_is_told(
    azurite: AzuriteStore, tmp_path: Path
) -> None:
    container = azurite.new_bucket()
    values = azurite.settings(container)
    values["AZURE_STORAGE_SAS_TOKEN"] = azurite.signature(container, "rl")
    async with cloud_space(values, tmp_path) as space:
        await space.probe()
        with pytest.raises(SpaceDeniedError, match="writing 'a/b': access was denied"):
            await put(space, "a/b", b"x")


@pytest.mark.parametrize("key_id", [None, "arn:aws:kms:eu-central-1:1:key/k"])
async def test_encryption_is_asked_for_with_every_object(
    tmp_path: Path, key_id: str | None
) -> None:
    def answer(request: Recorded) -> Answer:
        if request.method == "POST" and "uploads" in request.target:
            return Answer(200, b"<R><UploadId>u</UploadId></R>")
        if request.method == "POST":
            return Answer(200, b'<R><ETag>"e"</ETag></R>')
        return Answer()

    async with http_recorder(answer) as store:
        values = {
            "BUCKET_HOST": store.url,
            "BUCKET_NAME": "images",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "BUCKET_ENCRYPTION": "aws:kms" if key_id else "AES256",
        }
        if key_id:
            values["BUCKET_ENCRYPTION_KEY_ID"] = key_id
        async with cloud_space(values, tmp_path) as space:
            await put(space, "a/b", b"x")
            await put(space, "a/c", b"x" * (PART + 1))
        beginnings = [
            r for r in store.requests if r.target in {"/images/a/b", "/images/a/c?uploads="}
        ]
        assert len(beginnings) == 2
        for request in beginnings:
            headers = request.headers
            assert headers["x-amz-server-side-encryption"] == values["BUCKET_ENCRYPTION"]
            assert headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key_id
            assert headers["content-type"] == "application/dicom"
            assert len(headers["x-amz-meta-sha256"]) == 64


async def test_a_store_that_is_too_busy_is_asked_again_and_then_told_as_such(
    tmp_path: Path,
) -> None:
    busy = Answer(503, b"<Error><Code>SlowDown</Code></Error>")
    async with http_recorder(lambda _: busy) as store:
        values = {"BUCKET_HOST": store.url, "BUCKET_NAME": "images"}
        values |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        async with cloud_space(values, tmp_path) as space:
            with pytest.raises(SpaceUnavailableError, match=r"too busy.*503 SlowDown"):
                await put(space, "a/b", b"x")
        assert len(store.requests) == 3


async def test_a_store_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    silent: set[asyncio.StreamWriter] = set()
    server = await asyncio.start_server(lambda _, writer: silent.add(writer), "127.0.0.1", 0)
    values = {"BUCKET_HOST": "http://127.0.0.1", "BUCKET_NAME": "images"}
    values |= {"BUCKET_PORT": str(server.sockets[0].getsockname()[1])}
    values |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    soon = Patience(answer=timedelta(milliseconds=300), retries=1, retry=timedelta(seconds=1))
    async with server, cloud_space(values, tmp_path, soon) as space:
        for work in (put(space, "a/b", b"x"), space.open("a/b"), space.probe()):
            with pytest.raises(SpaceUnavailableError, match="there was no answer in time"):
                await work
        for writer in silent:
            writer.transport.abort()


async def test_a_host_that_is_not_known_is_told(tmp_path: Path) -> None:
    values = {"BUCKET_HOST": "no-such-host.invalid", "BUCKET_NAME": "images"}
    values |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    async with cloud_space(values, tmp_path) as space:
        with pytest.raises(SpaceUnavailableError, match="listing: the host is not known"):
            await space.probe()


async def test_google_s_store_is_asked_in_its_way(tmp_path: Path) -> None:
    """The requests' shape only: no server of that kind can be had here."""

    def answer(request: Recorded) -> Answer:
        if request.method == "GET":
            headers = {"ETag": '"e"', "Content-Range": "bytes 0-6/7"}
            return Answer(206, b"content", headers | {"Last-Modified": DATE})
        return Answer()

    async with http_recorder(answer) as store:
        account = {"gcs_base_url": store.url, "disable_oauth": True}
        account |= {"client_email": "", "private_key": "", "private_key_id": ""}
        values = {
            "GCS_BUCKET_NAME": "images",
            "GCS_ENDPOINT": store.url,
            "BUCKET_PREFIX": "of/a",
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
        }
        async with cloud_space(values, tmp_path) as space:
            await put(space, "a/b", b"content")
            assert await get(space, "a/b") == b"content"
            await space.delete("a/b")
        asked = [(request.method, request.target) for request in store.requests]
        assert asked == [(how, "/images/of%2Fa%2Fa%2Fb") for how in ("PUT", "GET", "DELETE")]
        assert store.requests[0].headers["content-type"] == "application/dicom"
        assert len(store.requests[0].headers["x-goog-meta-sha256"]) == 64
        assert store.requests[0].body == b"content"


DATE = "Tue, 24 Nov 2026 12:00:00 GMT"
