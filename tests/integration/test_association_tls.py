"""TLS of both roles over real sockets (PS3.15 B.9 to B.13)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import PASSWORD, Authority, Issued
from cryptography import x509
from dimse_site import CT, ECHO, DimseSite, ct, dimse_site, part10, store, tool
from loops import BOTH_LOOPS
from raw_peer import raw_peer
from stow_site import until

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.error import AssociationError, NotConnectedError
from imaging_ingestion.association.listener import ListenerSettings
from imaging_ingestion.association.tls import TlsError, TlsFiles, TlsSettings
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.dimse.pdu import encode_pdu
from imaging_ingestion.dimse.requestor import build_request

pytestmark = BOTH_LOOPS

REQUEST = encode_pdu(build_request([CT], called_ae_title="INGESTION", calling_ae_title="RAW"))


@dataclass
class Keys:
    """Files of a server, of its clients, and of clients it must not take."""

    folder: Path
    authority: Authority
    stranger: Authority

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def settings(self, name: str = "server") -> TlsSettings:
        """Of one who has a good certificate, and trusts the authority."""
        return TlsSettings(Store(self.folder / f"{name}.pem"), Store(self.ca))

    def client_context(
        self, name: str | None = "client", *, ca: Path | None = None
    ) -> ssl.SSLContext:
        """Python's own, independent of ours."""
        context = ssl.create_default_context(cafile=ca or self.ca)
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem")
        return context


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    authority, stranger = Authority(), Authority("Another CA")
    authority.file(folder / "ca.pem")
    stranger.file(folder / "stranger-ca.pem")
    _write(authority.issue("server", number=0), folder, "server")
    _write(authority.issue("server EC", kind="EC"), folder, "server-ec")
    _write(authority.issue("client", number=1), folder, "client")
    _write(authority.issue("old", number=1, lifetime=timedelta(days=-1)), folder, "expired")
    _write(stranger.issue("client", number=1), folder, "strange")
    _write(authority.issue("elsewhere", hosts=("elsewhere.test",)), folder, "elsewhere")
    return Keys(folder, authority, stranger)


def _write(issued: Issued, folder: Path, name: str) -> None:
    issued.pem(folder / f"{name}.pem")
    issued.key_file(folder / f"{name}.key")
    issued.certificate_file(folder / f"{name}.crt")


@asynccontextmanager
async def tls_site(
    tmp_path: Path, settings: TlsSettings, listener: ListenerSettings | None = None
) -> AsyncIterator[DimseSite]:
    tls = TlsFiles(settings, is_server=True)
    async with dimse_site(tmp_path / "site", tls=tls, settings=listener) as site:
        yield site


@pytest.fixture
async def site(tmp_path: Path, keys: Keys) -> AsyncIterator[DimseSite]:
    async with tls_site(tmp_path, keys.settings()) as running:
        yield running


def calling(settings: TlsSettings, **more: object) -> ConnectSettings:
    """How our own requestor calls."""
    return ConnectSettings(tls=TlsFiles(settings, is_server=False), **more)  # type: ignore[arg-type]


def dcmtk_options(keys: Keys, name: str = "client", ca: str = "ca.pem") -> list[str]:
    key, certificate = keys.folder / f"{name}.key", keys.folder / f"{name}.crt"
    return ["+tls", str(key), str(certificate), "+cf", str(keys.folder / ca)]


async def assert_serves(site: DimseSite, keys: Keys) -> None:
    """It still stores for those who have the right certificate."""
    sent = ct(number=900)
    ours = await site.call(CT, settings=calling(keys.settings("client")))
    assert (await store(ours, sent)).status == 0
    await ours.release()
    assert await site.data_set_of(sent.sop_instance) == sent.data_set


# ---- what works


async def test_our_requestor_stores_over_tls(site: DimseSite, keys: Keys) -> None:
    await assert_serves(site, keys)


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
async def test_dcmtk_echoes_and_stores_in_each_profile(
    site: DimseSite, keys: Keys, tmp_path: Path, profile: str
) -> None:  # T1, T2, T3
    options = [*dcmtk_options(keys), profile, "-aec", "INGESTION", "localhost", site.tls_port]
    code, output = await tool("echoscu", *options)
    assert code == 0, output
    sent = ct()
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "1.dcm").write_bytes(part10(sent))
    code, output = await tool("storescu", "+sd", *options, tmp_path / "file")
    assert code == 0, output
    await site.site.assert_holds(sent.sop_instance)


async def test_pynetdicom_echoes_over_tls(site: DimseSite, keys: Keys) -> None:
    from pynetdicom import AE, build_context
    from pynetdicom.sop_class import Verification

    def run() -> int:
        context = keys.client_context()
        assoc = AE().associate(
            "localhost", site.tls_port, contexts=[build_context(Verification)],
            ae_title="INGESTION", tls_args=(context, "localhost"),
        )  # fmt: skip
        assert assoc.is_established
        status = int(assoc.send_c_echo().Status)
        assoc.release()
        return status

    assert await asyncio.to_thread(run) == 0


async def test_both_ports_serve_at_the_same_time(site: DimseSite, keys: Keys) -> None:  # T4
    plain = await site.call(ECHO)
    await assert_serves(site, keys)
    assert plain.is_open
    await plain.release()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_work(site: DimseSite, keys: Keys, version: ssl.TLSVersion) -> None:
    context = keys.client_context()  # T3
    context.minimum_version = context.maximum_version = version
    async with raw_peer(site.tls_port, context) as peer:
        await peer.associate(CT)
        assert peer.writer.get_extra_info("ssl_object").version() == version.name.replace(
            "_", ".", 1
        ).replace("_", ".")
        await peer.release()


RSA_SUITES = (
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-AES128-GCM-SHA256",
)


@pytest.mark.parametrize("suite", RSA_SUITES)
async def test_each_suite_of_the_profiles_works(
    site: DimseSite, keys: Keys, suite: str
) -> None:  # T1
    context = keys.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    async with raw_peer(site.tls_port, context) as peer:
        assert peer.writer.get_extra_info("cipher")[0] == suite
        await peer.associate(CT)


async def test_an_elliptic_curve_certificate_works(tmp_path: Path, keys: Keys) -> None:
    async with tls_site(tmp_path, keys.settings("server-ec")) as site:
        await assert_serves(site, keys)


async def test_pkcs12_stores_work_in_both_roles(tmp_path: Path, keys: Keys) -> None:
    server = keys.authority.issue("server", number=0).p12(tmp_path / "server.p12")
    client = keys.authority.issue("client", number=1).p12(tmp_path / "client.p12")
    trust = Store(keys.authority.p12(tmp_path / "trust.p12"), "PKCS12", PASSWORD)
    settings = TlsSettings(Store(server, "PKCS12", PASSWORD), trust)
    async with tls_site(tmp_path, settings) as site:
        ours = await site.call(
            CT, settings=calling(TlsSettings(Store(client, None, PASSWORD), trust))
        )
        assert (await store(ours, ct())).status == 0
        await ours.release()


async def test_without_verification_a_client_needs_no_certificate(
    tmp_path: Path, keys: Keys
) -> None:
    settings = replace(keys.settings(), verify_peer=False, trust=None)
    async with (
        tls_site(tmp_path, settings) as site,
        raw_peer(site.tls_port, keys.client_context(None)) as peer,
    ):
        await peer.associate(CT)


# ---- what does not


@pytest.mark.parametrize("name", [None, "expired", "strange"])
async def test_a_client_without_a_good_certificate_gets_no_association(
    site: DimseSite, keys: Keys, name: str | None
) -> None:  # T5
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with raw_peer(site.tls_port, keys.client_context(name)) as peer:
            await peer.associate(CT)
    await assert_serves(site, keys)


async def test_dcmtk_without_a_certificate_fails(site: DimseSite, keys: Keys) -> None:  # T5
    code, output = await tool(
        "echoscu", "+tla", "+cf", keys.ca, "-aec", "INGESTION", "localhost", site.tls_port
    )
    assert code != 0, output
    await assert_serves(site, keys)


async def test_plain_dicom_on_the_tls_port_is_closed(site: DimseSite, keys: Keys) -> None:  # T5
    async with raw_peer(site.tls_port) as peer:
        await peer.send(REQUEST)
        answer = await peer.closed()
        assert not answer.startswith(b"\x02")
    code, _ = await tool("echoscu", "-aec", "INGESTION", "127.0.0.1", site.tls_port)
    assert code != 0
    await assert_serves(site, keys)


async def test_silence_on_the_tls_port_is_ended(tmp_path: Path, keys: Keys) -> None:  # A17
    async with tls_site(tmp_path, keys.settings(), ListenerSettings(artim=1.0)) as site:
        async with raw_peer(site.tls_port) as peer:
            assert await peer.closed() == b""
        await assert_serves(site, keys)


async def test_silence_after_the_handshake_is_ended(tmp_path: Path, keys: Keys) -> None:
    async with tls_site(tmp_path, keys.settings(), ListenerSettings(artim=1.0)) as site:
        async with raw_peer(site.tls_port, keys.client_context()) as peer:
            assert await peer.closed() == b""
        await assert_serves(site, keys)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(
    site: DimseSite, keys: Keys, version: ssl.TLSVersion
) -> None:  # T1
    context = keys.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with raw_peer(site.tls_port, context):
            pass


@pytest.mark.parametrize("suite", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA256"])
async def test_suites_without_forward_secrecy_or_authentication_are_refused(
    site: DimseSite, keys: Keys, suite: str
) -> None:  # T2
    context = keys.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with raw_peer(site.tls_port, context):
            pass


async def test_a_suite_that_the_site_names_is_accepted_though_it_is_weak(
    tmp_path: Path, keys: Keys
) -> None:
    settings = replace(
        keys.settings(), cipher_suites=("TLS_RSA_WITH_AES_128_CBC_SHA",), versions=("TLSv1.2",)
    )
    context = keys.client_context()
    context.set_ciphers("AES128-SHA")
    async with tls_site(tmp_path, settings) as site, raw_peer(site.tls_port, context) as peer:
        assert peer.writer.get_extra_info("cipher")[0] == "AES128-SHA"
        await peer.associate(CT)


async def test_our_requestor_wants_the_name_of_the_host(tmp_path: Path, keys: Keys) -> None:
    async with tls_site(tmp_path, keys.settings("elsewhere")) as site:
        client = keys.settings("client")
        with pytest.raises(NotConnectedError, match="IP address mismatch"):
            await site.call(CT, settings=calling(client))
        for settings in (
            calling(client, tls_name="elsewhere.test"),
            calling(replace(client, verify_host=False)),
        ):
            ours = await site.call(CT, settings=settings)
            await ours.release()


async def test_our_requestor_wants_a_certificate_it_trusts(site: DimseSite, keys: Keys) -> None:
    distrustful = replace(keys.settings("client"), trust=Store(keys.folder / "stranger-ca.pem"))
    with pytest.raises(NotConnectedError, match=r"self.signed|unable to get"):
        await site.call(CT, settings=calling(distrustful))


async def test_our_requestor_wants_a_certificate_that_has_not_expired(
    tmp_path: Path, keys: Keys
) -> None:
    async with tls_site(tmp_path, keys.settings("expired")) as site:
        with pytest.raises(NotConnectedError, match="expired"):
            await site.call(CT, settings=calling(keys.settings("client")))


async def test_our_requestor_gets_no_association_where_its_certificate_is_not_trusted(
    site: DimseSite, keys: Keys
) -> None:  # T5
    with pytest.raises(AssociationError, match=r"TLS|connection"):
        await site.call(CT, settings=calling(keys.settings("strange")))
    await assert_serves(site, keys)


async def test_our_requestor_does_not_fall_back_to_plain_dicom(site: DimseSite, keys: Keys) -> None:
    plain = replace(site, tls_port=site.port)
    with pytest.raises(NotConnectedError):
        await plain.call(CT, settings=calling(keys.settings("client")))


# ---- the files


async def presented(site: DimseSite, keys: Keys) -> int:
    """The serial number of the certificate that the listener shows."""
    async with raw_peer(site.tls_port, keys.client_context()) as peer:
        der = peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number


async def test_a_new_certificate_is_used_without_a_restart(
    tmp_path: Path, keys: Keys
) -> None:  # T6
    file = tmp_path / "server.pem"
    first, second = (keys.authority.issue(f"server {n}", number=n) for n in range(2))
    first.pem(file)
    async with tls_site(tmp_path, replace(keys.settings(), identity=Store(file))) as site:
        assert await presented(site, keys) == first.certificate.serial_number
        old = await site.call(CT, settings=calling(keys.settings("client")))
        replacement = second.pem(tmp_path / "new.pem")
        os.replace(replacement, file)
        assert await presented(site, keys) == second.certificate.serial_number
        assert (await store(old, ct())).status == 0  # goes on with the old one
        await old.release()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nnone\n", None])
async def test_a_broken_certificate_does_not_replace_a_good_one(
    tmp_path: Path, keys: Keys, content: bytes | None
) -> None:  # T6
    file = tmp_path / "server.pem"
    good = keys.authority.issue("server", number=0)
    good.pem(file)
    async with tls_site(tmp_path, replace(keys.settings(), identity=Store(file))) as site:
        assert await presented(site, keys) == good.certificate.serial_number
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        assert await presented(site, keys) == good.certificate.serial_number
        better = keys.authority.issue("server", number=1)
        better.pem(file)
        assert await presented(site, keys) == better.certificate.serial_number


async def test_trust_that_is_withdrawn_is_withdrawn_without_a_restart(
    tmp_path: Path, keys: Keys
) -> None:  # T6
    file = tmp_path / "trust.pem"
    keys.authority.file(file)
    async with tls_site(tmp_path, replace(keys.settings(), trust=Store(file))) as site:
        await assert_serves(site, keys)
        keys.stranger.file(file)
        with pytest.raises(AssociationError):
            await site.call(CT, settings=calling(keys.settings("client")))


async def test_a_session_is_not_resumed_after_its_trust_was_withdrawn(
    tmp_path: Path, keys: Keys
) -> None:  # T6
    """With TLS 1.2 a resumed session shows no certificate again."""
    file = tmp_path / "trust.pem"
    keys.authority.file(file)
    context = keys.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connected(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool]:
        """The session of a connection that is answered, and whether it was resumed."""
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as link,
        ):
            link.sendall(REQUEST)
            assert link.recv(1) == b"\x02"  # A-ASSOCIATE-AC
            assert link.session is not None
            return link.session, bool(link.session_reused)

    async with tls_site(tmp_path, replace(keys.settings(), trust=Store(file))) as site:
        session, was_resumed = await asyncio.to_thread(connected, site.tls_port, None)
        assert not was_resumed
        session, _ = await asyncio.to_thread(connected, site.tls_port, session)
        keys.stranger.file(file)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(connected, site.tls_port, session)


async def test_bytes_changed_on_the_way_end_the_association(
    tmp_path: Path, keys: Keys
) -> None:  # T6
    async with tls_site(tmp_path, keys.settings()) as site:

        async def forward(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            change: Callable[[bytes], bytes],
        ) -> None:
            while data := await reader.read(65536):
                writer.write(change(data))
            writer.close()

        changing = False

        def change(data: bytes) -> bytes:
            return data[:-1] + bytes((data[-1] ^ 1,)) if changing else data

        tasks = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner, outer = await asyncio.open_connection("127.0.0.1", site.tls_port)
            tasks.append(asyncio.ensure_future(forward(reader, outer, change)))
            tasks.append(asyncio.ensure_future(forward(inner, writer, lambda data: data)))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        through = replace(site, tls_port=server.sockets[0].getsockname()[1])
        ours = await through.call(CT, settings=calling(keys.settings("client")))
        changing = True
        with pytest.raises(AssociationError):
            await store(ours, ct())
        await until(lambda: site.listener.associations == 0, "the association is forgotten")
        await site.site.assert_holds()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        await assert_serves(site, keys)


async def test_settings_that_cannot_work_are_told_at_once(tmp_path: Path, keys: Keys) -> None:
    settings = replace(keys.settings(), identity=Store(tmp_path / "missing.pem"))
    with pytest.raises(TlsError, match=r"missing\.pem: No such file"):
        await TlsFiles(settings, is_server=True).current()
