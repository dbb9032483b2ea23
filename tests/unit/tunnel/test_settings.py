"""Settings, titles and identities: upstream's names and what they mean."""

from __future__ import annotations

import pytest
from nats_identities import service_account_token

from imaging_ingestion.dimse.pdu import decode_pdu, encode_pdu
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.nats_client.auth import credentials, user_of
from imaging_ingestion.nats_client.settings import NatsSettings, SettingsError, server_urls
from imaging_ingestion.resources.models import DimseIngestionServiceSpec, DimseProxySpec
from imaging_ingestion.resources.nats_values import nats_values, proxy_values
from imaging_ingestion.tunnel.settings import (
    proxy_settings,
    service_settings,
)
from imaging_ingestion.tunnel.subjects import Subjects, is_root
from imaging_ingestion.tunnel.titles import Titles, rename

URL = {"DIMSE_NATS_URL": "localhost"}


def test_the_defaults_are_upstreams() -> None:
    found = proxy_settings(URL)
    assert found.nats.servers == ("nats://localhost:4222",)
    assert found.subjects == Subjects("DIMSE", "A")
    assert (found.port, found.ae_title, found.target) == (11112, None, None)
    assert found.tunnel.chunk == 262144
    assert found.tunnel.stream.patience == 60.0
    assert found.tunnel.stream.window == 4 << 20


def test_a_service_listens_on_the_other_channel_by_default() -> None:
    _, subjects, _ = service_settings(URL)
    assert subjects == proxy_settings(URL).subjects.other


@pytest.mark.parametrize("name", ["DIMSE_NATS_REPLY_TIMEOUT", "DIMSE_NATS_REPLY_TIMEOUTSECONDS"])
def test_the_patience_is_the_reply_timeout(name: str) -> None:
    stream = proxy_settings({**URL, name: "8"}).tunnel.stream
    assert (stream.patience, stream.keep_alive) == (8.0, 2.0)


@pytest.mark.parametrize(
    ("text", "tls", "urls"),
    [
        ("nats.example", False, ("nats://nats.example:4222",)),
        ("nats.example:443", True, ("tls://nats.example:443",)),
        ("a:1,b:2", False, ("nats://a:1", "nats://b:2")),
        ("nats://a:1, tls://b", False, ("nats://a:1", "tls://b:4222")),
        ("[::1]:4222", False, ("nats://[::1]:4222",)),
        ("[::1]", False, ("nats://[::1]:4222",)),
        ("nats://a:1/", True, ("nats://a:1",)),
    ],
)
def test_servers_are_a_list_with_or_without_scheme(
    text: str, tls: bool, urls: tuple[str, ...]
) -> None:
    assert server_urls(text, tls=tls) == urls


@pytest.mark.parametrize("text", ["", " , ", "http://a", "a:b", "a:0", "user:pw@a:1", "a/b"])
def test_what_is_no_server_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        server_urls(text, tls=False)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        proxy_settings(
            {
                "DIMSE_NATS_TLS_ENABLED": "maybe",
                "DIMSE_NATS_SUBJECT_ROOT": "a.*.b",
                "DIMSE_NATS_USER": "someone",
                "DIMSE_NATS_CREDS": "file",
                "DIMSE_AE": "A TITLE THAT IS TOO LONG",
                "DIMSE_TARGET_PORT": "0",
                "DIMSE_NATS_WINDOW": "1",
            }
        )
    told = " ".join(raised.value.problems)
    for name in ("URL", "TLS_ENABLED", "SUBJECT_ROOT", "USER and", "PASSWORD", "WINDOW"):
        assert f"DIMSE_NATS_{name}" in told
    assert "DIMSE_AE is" in told
    assert "DIMSE_TARGET_PORT is" in told


@pytest.mark.parametrize(
    ("values", "called", "calling"),
    [
        ({}, None, None),
        ({"DIMSE_AE": "PROXY", "DIMSE_TARGET_AE": "PACS"}, "PACS", "PROXY"),
        ({"DIMSE_AE": "PROXY", "DIMSE_CALLING_AE": "*"}, None, None),
        ({"DIMSE_CALLING_AE": "OTHER"}, None, "OTHER"),
    ],
)
def test_by_which_titles_the_target_is_called(
    values: dict[str, str], called: str | None, calling: str | None
) -> None:
    target = proxy_settings({**URL, "DIMSE_TARGET_HOST": "pacs", **values}).target
    assert target is not None
    assert (target.ae_title, target.calling_ae_title) == (called, calling)


@pytest.mark.parametrize(
    ("token", "user"),
    [
        (service_account_token("system:serviceaccount:imaging:edge"), "edge"),
        (service_account_token("plain"), "plain"),
        (service_account_token("odd:"), None),
        ("a-token", None),
        ("a.b.c", None),
        ("..", None),
        ("a.W10.c", None),  # a JSON list
    ],
)
def test_the_user_is_the_last_part_of_the_tokens_subject(token: str, user: str | None) -> None:
    assert user_of(token) == user


def test_a_token_is_a_password_or_a_nats_token() -> None:
    jwt = service_account_token("a:b")
    assert credentials(NatsSettings(token=jwt)) == {"user": "b", "password": jwt}
    assert credentials(NatsSettings(token="plain")) == {"token": "plain"}
    assert credentials(NatsSettings()) == {}


def test_secrets_do_not_show() -> None:
    shown = repr(proxy_settings({**URL, "DIMSE_NATS_AUTH_TOKEN": "s3cret"}))
    assert "s3cret" not in shown


def test_a_resource_says_the_same_in_its_own_words() -> None:
    spec = DimseProxySpec(
        applicationEntityTitle="PACS",
        targetDimseHost="pacs",
        targetDimsePort=104,
        natsUrl="a:1,b:2",
        natsSecure=True,
        natsSubjectRoot="X.Y",
        natsSubjectChannel="B",
    )
    found = proxy_settings(proxy_values(spec, "token"))
    assert found.target is not None
    assert (found.target.host, found.target.port, found.target.ae_title) == ("pacs", 104, "PACS")
    assert found.nats.servers == ("tls://a:1", "tls://b:2")
    assert found.nats.token == "token"
    assert found.subjects == Subjects("X.Y", "B")


def test_a_service_says_the_same_in_its_own_words() -> None:
    spec = DimseIngestionServiceSpec(
        dicomEventDrivenIngestionName="core", natsUrl="a", natsSubjectRoot="X"
    )
    nats, subjects, tunnel = service_settings(nats_values(spec, None))
    assert nats.servers == ("nats://a:4222",)
    assert subjects == Subjects("X", "B")
    assert tunnel.name == "proxy"  # the site says better


def test_subjects_are_below_the_root() -> None:
    ours = Subjects("DIMSE", "A")
    assert (ours.open, ours.gone) == ("DIMSE.A.open", "DIMSE.A.gone")
    assert ours.process(b"\x01\x02") == "DIMSE.A.at.0102"
    assert ours.publish == ("DIMSE.B.>",)
    assert ours.subscribe == ("DIMSE.A.>", "DIMSE._INBOX.>")
    assert ours.owns("DIMSE.A.at.0102.03")
    assert not ours.owns("DIMSE.A.open")
    assert ours.other.other == ours


@pytest.mark.parametrize("text", ["", ".", "a.", "a b", "a.>", "*", "a..b"])
def test_what_cannot_begin_a_subject(text: str) -> None:
    assert not is_root(text)


def test_titles_are_changed_in_place_and_put_back() -> None:
    request = build_request(
        [Proposal("1.2", ("1.2.840.10008.1.2",))], called_ae_title="PROXY", calling_ae_title="SCU"
    )
    pdu = encode_pdu(request)
    titles = Titles.of(pdu)
    assert (titles.called, titles.calling) == ("PROXY", "SCU")
    renamed = rename(pdu, "A TITLE OF 16 CH", None)
    changed = decode_pdu(renamed)
    assert (changed.called_ae_title, changed.calling_ae_title) == ("A TITLE OF 16 CH", "SCU")
    assert titles.put(renamed) == pdu
