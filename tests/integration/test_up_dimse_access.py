"""Whom and what the DIMSE services of `up` take, as a site says; and what a site cannot say."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from certificates import Authority
from command import command
from dcmtk_peers import data_sets_in
from dimse_site import CT, ECHO, store, tool
from platform_process import Platform, free_port
from site_documents import config_map, core, dimse, secret
from up_dimse import AE_TITLE, call, instance, instances_in, running, site

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.error import AssociationError, AssociationRejectedError
from imaging_ingestion.association.identity import hash_passcode
from imaging_ingestion.association.tls import TlsFiles, TlsSettings
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.dimse.pdu_items import UserIdentity
from imaging_ingestion.dimse.requestor import Proposal

ROOT = "1.2.826.0.1.3680043.8.498.22"
CT_IMAGE_STORAGE, MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
KEY = "a-secret-that-is-long-enough-for-sha-256"


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


# ---- whom it takes


async def test_only_the_titles_that_a_site_names_may_call(tmp_path: Path) -> None:  # A2
    platform = Platform(tmp_path / "up")
    platform.site = site(platform.dimse_port, callingApplicationEntityTitles="[CT1, MR1]")
    async with running(platform):
        for calling, is_accepted in (("CT1", True), ("mr1", True), ("CT2", False)):
            code, said = await tool(
                "echoscu",
                *("-aet", calling, "-aec", AE_TITLE, "127.0.0.1", platform.dimse_port),
            )
            assert (code == 0) is is_accepted, said
        assert "Calling AE Title Not Recognized" in said
    assert "CT2" in platform.log.read_text()


async def test_user_identities_are_verified_as_the_sites_secrets_say(tmp_path: Path) -> None:
    # A14, A15
    platform = Platform(tmp_path / "up")
    hashed = hash_passcode("hunter3")
    platform.site = site(
        platform.dimse_port,
        config_map("d", DIMSE_USERNAMES="alice", DIMSE_JWT_ALGORITHMS="HS256"),
        secret("d", DIMSE_JWT_KEY=KEY)
        + f"  DIMSE_PASSCODES: |\n    bob:hunter2\n    carol:{hashed}\n",
        dimseConfigName="d",
        dimseSecretName="d",
    )
    token = jwt.encode({"exp": time.time() + 3600}, KEY, "HS256").encode()
    late = jwt.encode({"exp": time.time() - 3600}, KEY, "HS256").encode()
    expected: list[tuple[UserIdentity | None, bool]] = [
        (None, False),
        (UserIdentity(1, b"alice"), True),
        (UserIdentity(1, b"bob"), False),
        (UserIdentity(2, b"bob", b"hunter2"), True),
        (UserIdentity(2, b"bob", b"hunter3"), False),
        (UserIdentity(2, b"carol", b"hunter3"), True),
        (UserIdentity(5, token), True),
        (UserIdentity(5, late), False),
    ]
    async with running(platform):
        for identity, is_accepted in expected:
            settings = ConnectSettings(user_identity=identity)
            try:
                association = await call(platform.dimse_port, ECHO, settings=settings)
            except AssociationRejectedError:
                assert not is_accepted, identity
            else:
                await association.release()
                assert is_accepted, identity
    log = platform.log.read_text()
    assert "hunter" not in log
    assert token.decode() not in log


async def test_what_is_stored_may_be_restricted_by_files(tmp_path: Path, source: Path) -> None:
    # C7, C8
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "IMAGE_CUIDS").write_text(f"CT Image Storage:{CT_IMAGE_STORAGE}\n")
    (folder / "IMAGE_TSUIDS").write_text(f"Explicit VR Little Endian:{EXPLICIT}\n")
    platform = Platform(tmp_path / "up")
    platform.site = site(
        platform.dimse_port,
        config_map("d", DIMSE_CONFIG_PATH=str(folder)),
        dimseConfigName="d",
    )
    async with running(platform):
        proposals = (
            Proposal(CT_IMAGE_STORAGE, (IMPLICIT,)),
            Proposal(CT_IMAGE_STORAGE, (IMPLICIT, EXPLICIT)),
            Proposal(MR_IMAGE_STORAGE, (EXPLICIT,)),
            ECHO,
        )
        association = await call(platform.dimse_port, *proposals)
        accepted = [
            (context.abstract_syntax, context.transfer_syntax)
            for context in association.agreement.contexts.values()
        ]
        assert accepted == [(CT_IMAGE_STORAGE, EXPLICIT), (ECHO.abstract_syntax, IMPLICIT)]
        _, sent = instance(source, f"{ROOT}.1", 1)
        assert (await store(association, sent)).status == 0
        await association.release()


# ---- TLS


def keys(folder: Path) -> Authority:
    """Files of a service, of its callers, and of a caller whom nobody knows."""
    authority = Authority()
    authority.file(folder / "ca.pem")
    for number, name in enumerate(("server", "client")):
        issued = authority.issue(name, number=number)
        issued.pem(folder / f"{name}.pem")
        issued.key_file(folder / f"{name}.key")
        issued.certificate_file(folder / f"{name}.crt")
    Authority("Another CA").issue("stranger", number=1).pem(folder / "stranger.pem")
    return authority


def tls_of(folder: Path, name: str | None = "client") -> ConnectSettings:
    identity = None if name is None else Store(folder / f"{name}.pem")
    settings = TlsSettings(identity, Store(folder / "ca.pem"))
    return ConnectSettings(tls=TlsFiles(settings, is_server=False), artim=10.0)


def tls_keys(folder: Path, **more: str) -> str:
    return config_map(
        "tls",
        DIMSE_TLS_KEYSTORE=str(folder / "server.pem"),
        DIMSE_TLS_TRUSTSTORE=str(folder / "ca.pem"),
        **more,
    )


async def served_certificate(port: int, folder: Path) -> bytes:
    """What the service shows to those who have a certificate themselves."""
    context = (await tls_of(folder).tls.current()) if tls_of(folder).tls else None
    assert context is not None
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1"
    )
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    assert isinstance(certificate, bytes)
    return certificate


async def test_tls_verifies_both_sides_and_follows_a_renewed_certificate(
    tmp_path: Path, source: Path
) -> None:  # T1, T5, T6
    authority = keys(tmp_path)
    platform = Platform(tmp_path / "up")
    platform.site = site(
        platform.dimse_port,
        tls_keys(tmp_path, DIMSE_TLS_ENABLED="true"),
        dimseConfigName="tls",
    )
    async with running(platform):
        assert f"DIMSE     INGESTION@127.0.0.1:{platform.dimse_port} (TLS)\n" in (
            platform.log.read_text()
        )
        association = await call(platform.dimse_port, CT, settings=tls_of(tmp_path))
        _, sent = instance(source, f"{ROOT}.2", 1)
        assert (await store(association, sent)).status == 0
        for other in (tls_of(tmp_path, "stranger"), tls_of(tmp_path, None), ConnectSettings()):
            with pytest.raises(AssociationError):
                await call(platform.dimse_port, CT, settings=other)
        options = ["+tls", tmp_path / "client.key", tmp_path / "client.crt"]
        options += ["+cf", tmp_path / "ca.pem", "-aec", AE_TITLE]
        code, said = await tool("echoscu", *options, "localhost", platform.dimse_port)
        assert code == 0, said

        before = await served_certificate(platform.dimse_port, tmp_path)
        renewed = authority.issue("renewed", number=0)
        renewed.pem(tmp_path / "renewed.pem")
        os.replace(tmp_path / "renewed.pem", tmp_path / "server.pem")
        assert await served_certificate(platform.dimse_port, tmp_path) != before
        _, sent = instance(source, f"{ROOT}.2", 2)
        assert (await store(association, sent)).status == 0  # it goes on under the old one
        await association.release()
        later = await call(platform.dimse_port, ECHO, settings=tls_of(tmp_path))
        await later.release()
        assert len(instances_in(platform.dicomweb, f"{ROOT}.2")) == 2
    assert "dimse.tls_reloaded" in platform.log.read_text()


async def test_a_destination_may_be_called_over_tls(tmp_path: Path, source: Path) -> None:
    keys(tmp_path)
    port, study = free_port(), f"{ROOT}.3"
    peers = f"[{{applicationEntityTitle: VIEWER, host: localhost, port: {port}, tls: true}}]"
    platform = Platform(tmp_path / "up")
    platform.site = site(
        platform.dimse_port,
        tls_keys(tmp_path),
        dimseConfigName="tls",
        destinations=peers,
    )
    (tmp_path / "out").mkdir()
    scp = ["storescp", "-aet", "VIEWER", "-od", tmp_path / "out", "+tls"]
    scp += [tmp_path / "client.key", tmp_path / "client.crt", "+cf", tmp_path / "ca.pem", port]
    async with running(platform):
        association = await call(platform.dimse_port, CT)  # it listens without TLS
        _, sent = instance(source, study, 1)
        assert (await store(association, sent)).status == 0
        await association.release()
        viewer = await asyncio.create_subprocess_exec(
            *map(str, scp), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            to = f"{AE_TITLE}@127.0.0.1:{platform.dimse_port}"
            move = ("move", to, "--dest", "VIEWER", "-k", f"StudyInstanceUID={study}")
            deadline = time.monotonic() + 30
            while not data_sets_in(tmp_path / "out"):  # until it listens
                assert time.monotonic() < deadline
                await asyncio.to_thread(command, *move, codes=(0, 1))
        finally:
            viewer.terminate()
            await viewer.wait()
    assert set(data_sets_in(tmp_path / "out")) == {sent.sop_instance}


# ---- what cannot be run


def refused(folder: Path, *documents: str, arguments: tuple[str, ...] = ()) -> list[str]:
    """What `up` complains of."""
    file = folder / "site.yaml"
    file.write_text("---\n".join((core(), *documents)))
    done = command(
        *("up", "-f", file, "--data", folder / "data", "--http-port", "0", *arguments), codes=(2,)
    )
    assert done.stdout == ""
    return [
        line
        for line in done.stderr.splitlines()
        if not re.search(r"\[(info|warning) ", line)  # a log line
    ]


def test_files_that_cannot_be_used_are_told_together_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "IMAGE_CUIDS").write_text("CT Image Storage:1.2.x\n")
    (tmp_path / "none.pem").write_text("no key")
    Authority().file(tmp_path / "ca.pem")
    tls = {"DIMSE_TLS_ENABLED": "true", "DIMSE_TLS_TRUSTSTORE": str(tmp_path / "ca.pem")}
    settings = {
        "a": {"DIMSE_CONFIG_PATH": str(tmp_path / "nowhere")},
        "b": {"DIMSE_CONFIG_PATH": str(tmp_path / "empty")},
        "c": {"DIMSE_CONFIG_PATH": str(bad)},
        "d": tls,
        "e": {**tls, "DIMSE_TLS_KEYSTORE": str(tmp_path / "none.pem")},
        "f": {**tls, "DIMSE_TLS_KEYSTORE": str(tmp_path / "nowhere.pem")},
        "g": {"DIMSE_TLS_ENABLED": "perhaps"},
        "h": {"DIMSE_JWT_KEY": "no key in PEM"},
    }
    documents = [
        dimse(name, dimseConfigName=name, port=0) + "---\n" + config_map(name, **keys)
        for name, keys in settings.items()
    ]
    told = refused(tmp_path, *documents)
    assert told[0] == "The site cannot be run:"
    neither = "has neither IMAGE_CUIDS nor IMAGE_TSUIDS"
    expected = {
        "a": f"DIMSE_CONFIG_PATH: {tmp_path / 'nowhere'} {neither}",
        "b": f"DIMSE_CONFIG_PATH: {tmp_path / 'empty'} {neither}",
        "c": f"{bad / 'IMAGE_CUIDS'}, line 1: 'CT Image Storage:1.2.x' is no UID",
        "d": "TLS needs a key store",
        "e": f"{tmp_path / 'none.pem'}: ",
        "f": f"{tmp_path / 'nowhere.pem'}: No such file or directory",
        "g": "DIMSE_TLS_ENABLED is 'perhaps'; true or false expected",
        "h": "the key of tokens is none for RS256",
    }
    assert len(told) == 1 + len(expected)
    for line, (name, problem) in zip(told[1:], expected.items(), strict=True):
        assert line.startswith(f"  DIMSE service {name}: {problem}")
    assert not (tmp_path / "data").exists()


def test_a_destination_over_tls_needs_files_that_can_be_used(tmp_path: Path) -> None:
    (told,) = refused(
        tmp_path,
        dimse(
            "scanners",
            dimseConfigName="d",
            destinations="[{applicationEntityTitle: A, host: x, tls: true}]",
        ),
        config_map("d", DIMSE_TLS_TRUSTSTORE=str(tmp_path / "nowhere.pem")),
    )[1:]
    assert told.startswith(f"  DIMSE service scanners: {tmp_path / 'nowhere.pem'}: No such file")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        arguments = ("up", "--data", tmp_path, "--http-port", "0", "--dimse-port", str(port))
        done = command(*arguments, codes=(2,))
    assert done.stderr.splitlines()[-1] == (
        f"imaging-ingestion: cannot listen on 127.0.0.1:{port} for DIMSE: Address already in use"
    )


def test_a_port_on_the_command_line_is_for_a_site_with_one_service(tmp_path: Path) -> None:
    port = ("--dimse-port", "0")
    told = refused(tmp_path, dimse("a", port=0), dimse("b", port=0), arguments=port)
    assert told[1].startswith("  --dimse-port is for a site with one DimseIngestionService")


async def test_a_port_on_the_command_line_goes_before_the_site_files(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(core() + "---\n" + dimse("scanners", port=104))
    port = free_port()
    arguments = ("up", "-f", str(file), "--data", str(tmp_path / "data"), "--http-port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "imaging_ingestion.cli.main", *arguments, "--dimse-port", str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if b"DIMSE" in line:
                break
        assert line.decode() == f"  DIMSE     INGESTION@127.0.0.1:{port}\n"
        await (await call(port, ECHO)).release()
    finally:
        process.terminate()
        await process.communicate()


# ---- how many files


@pytest.mark.parametrize(("hard", "is_enough"), [(8192, True), (1024, False)])
def test_the_limit_of_open_files_is_raised_and_told_if_it_stays_low(
    tmp_path: Path, hard: int, is_enough: bool
) -> None:
    platform = Platform(tmp_path / "up", prefix=("prlimit", f"--nofile=256:{hard}")).start()
    try:
        assert platform.process is not None
        limits = Path(f"/proc/{platform.process.pid}/limits").read_text()
        assert re.search(rf"Max open files +{hard} +{hard} ", limits)
        assert platform.stop() == 0
    finally:
        platform.kill()
    assert ("up.few_files" in platform.log.read_text()) is not is_enough
