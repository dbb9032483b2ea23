"""NATS with TLS, and every way to say who we are, each with no more rights than are documented."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority
from nats_identities import Operator, service_account_token, user_key
from nats_servers import NatsServer, nats_server
from nats_servers import nats as nats_fixture
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from tunnel_proxies import Behind, eventually, new_root, running_proxy
from tunnel_store import digests, sender, store

from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.proxy import Proxy
from imaging_ingestion.tunnel.settings import proxy_settings
from imaging_ingestion.tunnel.subjects import Subjects

nats = nats_fixture

ROOT = "DIMSE"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem, client.pem (each with its key), other.pem: another authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority.file(folder / "ca.pem")
    authority.issue("server").pem(folder / "server.pem")
    authority.issue("elsewhere", hosts=("elsewhere.example",)).pem(folder / "elsewhere.pem")
    authority.issue("client", number=1).pem(folder / "client.pem")
    Authority("Other").file(folder / "other.pem")
    return folder


def tls_config(files: Path, certificate: str = "server.pem", *, verify: bool = False) -> str:
    ca = f'ca_file: "{files / "ca.pem"}", verify: true' if verify else ""
    own = files / certificate
    return f'tls {{ cert_file: "{own}", key_file: "{own}", {ca} }}\n'


def limited_user(channel: str, who: str) -> str:
    """A user with the rights that docs/tunnel.md tells."""
    subjects = Subjects(ROOT, "A" if channel == "A" else "B")
    publish = ", ".join(f'"{one}"' for one in subjects.publish)
    subscribe = ", ".join(f'"{one}"' for one in subjects.subscribe)
    return f"{{ {who}, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}"


async def works(server: NatsServer, near: dict[str, str], far: dict[str, str]) -> None:
    """An association goes through, and survives the server's restart."""
    async with (
        digests() as (target, port),
        running_proxy(server.address, "A", ROOT, **near) as one,
        running_proxy(server.address, "B", ROOT, **Behind(port).values(), **far) as other,
        sender(one.port) as association,
    ):
        assert await store(association, 1, 300_000) == 0
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not (one.proxy.tunnel.is_up or other.proxy.tunnel.is_up))
        await asyncio.to_thread(server.start)
        assert await store(association, 2, 300_000) == 0
        target.assert_all(range(1, 3), 300_000)


async def refusal(servers: str, **values: str) -> str:
    """What is logged of a connection that does not come to be."""
    with capture_logs() as logs:
        proxy = Proxy(
            proxy_settings(
                {
                    "DIMSE_NATS_URL": servers,
                    "DIMSE_HOST": "127.0.0.1",
                    "DIMSE_PORT": "0",
                    "DIMSE_DRAIN_TIMEOUT": "0",
                    "DIMSE_NATS_SUBJECT_ROOT": new_root(),
                    **values,
                }
            ),
            TunnelMetrics(CollectorRegistry()),
        )
        await proxy.start()
        try:
            await eventually(lambda: any("why" in one for one in logs), 20)
            assert not proxy.tunnel.is_up
            assert proxy.why_not_ready() == "there is no connection to NATS"
        finally:
            await proxy.stop()
    return str(next(one["why"] for one in logs if "why" in one))


async def test_tls_with_an_authority_of_the_sites_own(files: Path) -> None:
    values = {"DIMSE_NATS_TLS_ENABLED": "true", "DIMSE_NATS_TLS_CA": str(files / "ca.pem")}
    with nats_server(tls_config(files)) as server:
        await works(server, values, values)


async def test_a_scheme_asks_for_tls_as_well(files: Path) -> None:
    with nats_server(tls_config(files)) as server:
        address = f"tls://localhost:{server.port}"
        ca = str(files / "ca.pem")
        async with running_proxy(address, "A", new_root(), DIMSE_NATS_TLS_CA=ca) as proxy:
            assert proxy.proxy.tunnel.is_up


async def test_a_client_certificate_says_who_we_are(files: Path) -> None:
    values = {
        "DIMSE_NATS_TLS_ENABLED": "true",
        "DIMSE_NATS_TLS_CA": str(files / "ca.pem"),
        "DIMSE_NATS_TLS_CERT": str(files / "client.pem"),
    }
    with nats_server(tls_config(files, verify=True)) as server:
        await works(server, values, values)
        del values["DIMSE_NATS_TLS_CERT"]
        assert await refusal(server.address, **values)


@pytest.mark.parametrize("ca", [None, "other.pem"])
async def test_a_certificate_that_is_not_trusted_is_refused(files: Path, ca: str | None) -> None:
    values = {"DIMSE_NATS_TLS_ENABLED": "true"}
    if ca is not None:
        values["DIMSE_NATS_TLS_CA"] = str(files / ca)
    with nats_server(tls_config(files)) as server:
        assert "certificate verify failed" in await refusal(server.address, **values)


async def test_a_certificate_of_another_host_is_refused(files: Path) -> None:
    values = {"DIMSE_NATS_TLS_ENABLED": "true", "DIMSE_NATS_TLS_CA": str(files / "ca.pem")}
    with nats_server(tls_config(files, "elsewhere.pem")) as server:
        assert "certificate verify failed" in await refusal(server.address, **values)


async def test_secrets_are_not_sent_to_a_server_without_tls_where_tls_was_asked_for() -> None:
    heard = bytearray()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576}\r\n')
        while data := await reader.read(65536):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    values = {"DIMSE_NATS_TLS_ENABLED": "true", "DIMSE_NATS_AUTH_TOKEN": "s3cret"}
    with capture_logs():
        settings = proxy_settings({"DIMSE_NATS_URL": f"127.0.0.1:{port}", **values})
        settings_proxy = Proxy(settings, TunnelMetrics(CollectorRegistry()))
        settings_proxy.tunnel.start()
        await eventually(lambda: len(heard) > 5)
        await settings_proxy.tunnel.stop()
    server.close()
    assert heard[0] == 0x16  # a TLS handshake
    assert b"s3cret" not in heard
    assert b"CONNECT" not in heard


def _config(*users: str) -> str:
    return f"authorization {{ users: [ {', '.join(users)} ] }}\n"


Case = tuple[str, dict[str, str], dict[str, str]]


def by_password(_folder: Path) -> Case:
    users = [limited_user(c, f"user: proxy-{c.lower()}, password: pw-{c}") for c in "AB"]
    values = [
        {"DIMSE_NATS_USER": f"proxy-{c.lower()}", "DIMSE_NATS_PASSWORD": f"pw-{c}"} for c in "AB"
    ]
    return _config(*users), values[0], values[1]


def by_token(_folder: Path) -> Case:
    values = {"DIMSE_NATS_AUTH_TOKEN": "a-token"}
    return "authorization { token: a-token }\n", values, values


def by_service_account(_folder: Path) -> Case:
    users, values = [], []
    for channel, name in (("A", "edge"), ("B", "cloud")):
        token = service_account_token(f"system:serviceaccount:imaging:{name}")
        users.append(limited_user(channel, f'user: {name}, password: "{token}"'))
        values.append({"DIMSE_NATS_AUTH_TOKEN": token})
    return _config(*users), values[0], values[1]


def by_token_file(folder: Path) -> Case:
    config, *sides = by_service_account(folder)
    values = []
    for number, side in enumerate(sides):
        file = folder / f"token-{number}"
        file.write_text(side["DIMSE_NATS_AUTH_TOKEN"] + "\n")
        values.append({"DIMSE_NATS_AUTH_TOKEN_FILE": str(file)})
    return config, values[0], values[1]


def by_nkey(folder: Path) -> Case:
    users, values = [], []
    for channel in "AB":
        key = user_key()
        seed = folder / f"{channel}.nk"
        seed.write_bytes(key.seed)
        users.append(limited_user(channel, f"nkey: {key.public}"))
        values.append({"DIMSE_NATS_NKEY_SEED": str(seed)})
    return _config(*users), values[0], values[1]


def by_credentials(folder: Path) -> Case:
    operator, values = Operator(), []
    for subjects in (Subjects(ROOT, "A"), Subjects(ROOT, "B")):
        file = operator.credentials(
            folder / f"{subjects.channel}.creds",
            publish=subjects.publish,
            subscribe=subjects.subscribe,
        )
        values.append({"DIMSE_NATS_CREDS": str(file)})
    return operator.config, values[0], values[1]


@pytest.mark.parametrize(
    "identity",
    [by_password, by_token, by_service_account, by_token_file, by_nkey, by_credentials],
)
async def test_who_has_the_documented_rights_and_no_others_can_work(
    tmp_path: Path, identity: Callable[[Path], Case]
) -> None:
    config, near, far = identity(tmp_path)
    with nats_server(config) as server:
        await works(server, near, far)
        log = server.log.read_text()
        assert not re.search("violation", log, re.IGNORECASE), log


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"DIMSE_NATS_AUTH_TOKEN": "wrong"},
        {"DIMSE_NATS_USER": "proxy-a", "DIMSE_NATS_PASSWORD": "wrong"},
    ],
)
async def test_who_is_refused_is_told_so_and_tries_again(values: dict[str, str]) -> None:
    config, good, _ = by_password(Path())
    with nats_server(config) as server:
        why = await refusal(server.address, **values)
        assert "authorization violation" in why.lower()
        async with running_proxy(server.address, "A", ROOT, **good):
            pass


async def test_an_association_outlives_credentials_that_expire(tmp_path: Path) -> None:
    operator = Operator()
    subjects = Subjects(ROOT, "A")
    creds = tmp_path / "a.creds"

    def renew(seconds: int) -> None:
        operator.credentials(
            creds,
            publish=("DIMSE.>",),
            subscribe=(*subjects.subscribe, "DIMSE.B.>"),
            exp=int(time.time()) + seconds,
        )

    renew(2)
    with nats_server(operator.config) as server:
        values = {"DIMSE_NATS_CREDS": str(creds)}
        async with (
            digests() as (target, port),
            running_proxy(server.address, "B", ROOT, **Behind(port).values(), **values),
            running_proxy(server.address, "A", ROOT, **values) as near,
            sender(near.port) as association,
        ):
            assert await store(association, 1, 1000) == 0
            renew(3600)
            await eventually(lambda: near.metric("nats_connections_total") > 1)
            assert await store(association, 2, 1000) == 0
            target.assert_all(range(1, 3), 1000)


def test_files_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    settings = proxy_settings(
        {"DIMSE_NATS_URL": "localhost", "DIMSE_NATS_CREDS": str(tmp_path / "none.creds")}
    )
    with pytest.raises(SettingsError, match=r"none\.creds cannot be read"):
        Proxy(settings, TunnelMetrics(CollectorRegistry()))


async def test_several_servers_may_be_named_and_one_may_be_away(nats: NatsServer) -> None:
    servers = f"127.0.0.1:1, nats://{nats.address}"
    async with running_proxy(servers, "A", new_root()) as proxy:
        assert proxy.proxy.tunnel.is_up
