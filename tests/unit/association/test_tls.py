"""TLS as sites configure it: names of suites and versions, stores, and the DIMSE_TLS_* keys."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from certificates import PASSWORD, Authority

from imaging_ingestion.association.tls import (
    TlsError,
    TlsSettings,
    client_context,
    server_context,
    tls_settings,
)
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.association.tls_suites import (
    DEFAULT_SUITES,
    UnknownNameError,
    openssl_name,
    read_suites,
    read_versions,
)

AUTHORITY = Authority()
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture
def good(tmp_path: Path) -> TlsSettings:
    identity = AUTHORITY.issue("entity", kind="EC").pem(tmp_path / "entity.pem")
    return TlsSettings(Store(identity), Store(AUTHORITY.file(tmp_path / "ca.pem")))


def names(context: ssl.SSLContext) -> set[str]:
    """The suites of TLS 1.2 and before."""
    return {c["name"] for c in context.get_ciphers() if not c["name"].startswith("TLS_")}


# ---- names


def test_each_name_is_what_openssl_says_it_is() -> None:
    listed = subprocess.run(
        ["openssl", "ciphers", "-stdname", "ALL:@SECLEVEL=0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    checked = 0
    for line in listed.stdout.splitlines():
        standard, _, openssl, *_ = line.split()
        try:
            mine = openssl_name(standard)
        except UnknownNameError:
            continue
        if not standard.startswith("TLS_") or "_WITH_" not in standard:
            continue
        if "ARIA" in standard and "RSA" in standard:
            continue  # OpenSSL leaves RSA out of some of these names
        assert mine == openssl, standard
        checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("name", "openssl"),
    [
        ("TLS_RSA_WITH_AES_128_CBC_SHA", "AES128-SHA"),  # Alvearie's defaults
        ("SSL_RSA_WITH_3DES_EDE_CBC_SHA", "DES-CBC3-SHA"),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ],
)
def test_javas_and_openssls_names_are_understood(name: str, openssl: str) -> None:
    assert openssl_name(name) == openssl


@pytest.mark.parametrize(
    "name",
    ["", "aes", "TLS_", "TLS_RSA_WITH_RC4_128_MD5", "TLS_KRB5_WITH_AES_128_CBC_SHA", "A:B",
     "ECDHE:!aNULL", "TLS_DH_anon_WITH_AES_128_GCM_SHA256"],
)  # fmt: skip
def test_a_name_that_means_nothing_is_told(name: str) -> None:
    with pytest.raises(UnknownNameError):
        read_suites([name])


def test_weak_suites_are_known_as_such() -> None:
    assert read_suites(DEFAULT_SUITES).weak == ()
    suites = read_suites(
        ["TLS_RSA_WITH_AES_128_CBC_SHA", *DEFAULT_SUITES, "TLS_AES_128_GCM_SHA256"]
    )
    assert suites.weak == ("AES128-SHA",)
    assert suites.tls_1_3


def test_versions_are_a_range() -> None:
    assert read_versions(["TLSv1.3", " tlsv1.2"]) == (V12, V13)
    assert read_versions(["TLSv1.0"])[0].name == "TLSv1"
    for wrong in (["SSLv3"], [], ["TLSv1.2", "1.3"]):
        with pytest.raises(UnknownNameError):
            read_versions(wrong)


# ---- contexts


def test_the_default_is_the_profiles(good: TlsSettings) -> None:  # T1, T2, T3
    for context in (server_context(good), client_context(good)):
        assert names(context) == {openssl_name(name) for name in DEFAULT_SUITES}
        assert (context.minimum_version, context.maximum_version) == (V12, V13)
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert client_context(good).check_hostname


def test_suites_of_tls_1_3_alone_mean_tls_1_3_alone(good: TlsSettings) -> None:
    context = server_context(replace(good, cipher_suites=("TLS_AES_256_GCM_SHA384",)))
    assert context.minimum_version is V13


def test_what_is_weak_is_logged(good: TlsSettings) -> None:
    weak = replace(good, cipher_suites=("TLS_RSA_WITH_AES_128_CBC_SHA",), versions=("TLSv1.2",))
    with structlog.testing.capture_logs() as logs:
        assert names(server_context(weak)) == {"AES128-SHA"}
    assert [log["because_of"] for log in logs] == [["AES128-SHA"]]
    with structlog.testing.capture_logs() as logs:
        server_context(good)
    assert not logs


def test_a_suite_that_openssl_lacks_is_passed_over_unless_it_is_the_only_one(
    good: TlsSettings,
) -> None:
    lacking = "SSL_RSA_WITH_3DES_EDE_CBC_SHA"
    context = server_context(replace(good, cipher_suites=(lacking, DEFAULT_SUITES[0])))
    assert names(context) == {openssl_name(DEFAULT_SUITES[0])}
    with pytest.raises(TlsError, match="none of these cipher suites"):
        server_context(replace(good, cipher_suites=(lacking,)))


def test_a_server_needs_a_key_and_whom_to_trust(good: TlsSettings) -> None:
    with pytest.raises(TlsError, match="key store"):
        server_context(replace(good, identity=None))
    with pytest.raises(TlsError, match="trust store"):
        server_context(replace(good, trust=None))
    assert server_context(replace(good, trust=None, verify_peer=False)).verify_mode is ssl.CERT_NONE


def test_a_client_may_have_no_certificate_and_trust_the_systems(good: TlsSettings) -> None:
    context = client_context(replace(good, identity=None, trust=None))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not client_context(replace(good, verify_host=False)).check_hostname
    assert client_context(replace(good, verify_peer=False)).verify_mode is ssl.CERT_NONE


# ---- stores


def test_key_and_certificate_may_be_two_files(tmp_path: Path, good: TlsSettings) -> None:
    issued = AUTHORITY.issue(kind="EC")
    store = Store(
        issued.certificate_file(tmp_path / "cert.pem"), key=issued.key_file(tmp_path / "key.pem")
    )
    server_context(replace(good, identity=store))


def test_a_key_may_be_encrypted(tmp_path: Path, good: TlsSettings) -> None:
    file = AUTHORITY.issue(kind="EC").pem(tmp_path / "encrypted.pem", password=PASSWORD)
    server_context(replace(good, identity=Store(file, password=PASSWORD)))
    for password in (None, "", "wrong"):
        with pytest.raises(TlsError, match=r"encrypted\.pem"):
            server_context(replace(good, identity=Store(file, password=password)))


def test_pkcs12_is_told_by_its_content_and_leaves_no_file(
    tmp_path: Path, good: TlsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AUTHORITY.issue(kind="EC").p12(tmp_path / "entity.store")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    server_context(replace(good, identity=Store(file, password=PASSWORD)))
    assert not list(empty.iterdir())
    with pytest.raises(TlsError, match=r"entity\.store"):
        server_context(replace(good, identity=Store(file, password="wrong")))
    assert not list(empty.iterdir())


def test_trust_stores_may_be_pkcs12(tmp_path: Path, good: TlsSettings) -> None:
    trust = Store(AUTHORITY.p12(tmp_path / "trust.p12"), password=PASSWORD)
    context = server_context(replace(good, trust=trust))
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"\xfe\xed\xfe\xed\0\0\0\2", None, "JKS is Java's own format"),
        (b"anything", "JKS", "keytool"),
        (b"anything", "BKS", "neither PEM nor PKCS12"),
        (b"", None, "store"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None, "store"),
        (None, None, "No such file"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(
    tmp_path: Path, good: TlsSettings, content: bytes | None, kind: str | None, message: str
) -> None:
    file = tmp_path / "a.store"
    if content is not None:
        file.write_bytes(content)
    for settings in (
        replace(good, identity=Store(file, kind, PASSWORD)),
        replace(good, trust=Store(file, kind, PASSWORD)),
    ):
        with pytest.raises(TlsError, match=message) as caught:
            server_context(settings)
        assert "a.store" in str(caught.value)
        assert PASSWORD not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    assert PASSWORD not in repr(TlsSettings(Store(Path("a"), password=PASSWORD)))


# ---- keys of a site


def test_the_keys_of_a_site_are_read() -> None:
    settings = tls_settings(
        {
            "DIMSE_TLS_ENABLED": "true",
            "DIMSE_TLS_KEYSTORE": "/etc/keys/entity.p12",
            "DIMSE_TLS_KEYSTORE_TYPE": "PKCS12",
            "DIMSE_TLS_KEYSTORE_PASSWORD": "one",
            "DIMSE_TLS_TRUSTSTORE": "/etc/keys/trust.p12",
            "DIMSE_TLS_TRUSTSTORE_PASSWORD": "two",
            "DIMSE_TLS_PROTOCOL_VERSIONS": "TLSv1.2, TLSv1.3",
            "DIMSE_TLS_CIPHER_SUITES": "TLS_RSA_WITH_AES_128_CBC_SHA, ",
        }
    )
    assert settings == TlsSettings(
        Store(Path("/etc/keys/entity.p12"), "PKCS12", "one"),
        Store(Path("/etc/keys/trust.p12"), None, "two"),
        ("TLSv1.2", "TLSv1.3"),
        ("TLS_RSA_WITH_AES_128_CBC_SHA",),
    )


def test_tls_is_off_unless_it_is_enabled() -> None:
    assert tls_settings({}) is None
    assert tls_settings({"DIMSE_TLS_ENABLED": "FALSE", "DIMSE_TLS_KEYSTORE": "x"}) is None
    assert tls_settings({"DIMSE_TLS_ENABLED": "true"}) == TlsSettings(None)
    with pytest.raises(TlsError, match="DIMSE_TLS_ENABLED"):
        tls_settings({"DIMSE_TLS_ENABLED": "yes"})


def test_verification_is_on_unless_it_is_switched_off() -> None:
    on = tls_settings({"DIMSE_TLS_ENABLED": "true"})
    assert on is not None
    assert on.verify_peer
    assert on.verify_host
    off = tls_settings(
        {
            "DIMSE_TLS_ENABLED": "true",
            "DIMSE_TLS_VERIFY_PEER": "false",
            "DIMSE_TLS_VERIFY_HOST": "false",
        }
    )
    assert off is not None
    assert not off.verify_peer
    assert not off.verify_host
