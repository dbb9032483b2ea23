"""What a bucket's ConfigMap and Secret say about a space, and what is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from imaging_ingestion.storage.cloud_settings import (
    AzureSettings,
    CloudSettings,
    CloudSettingsError,
    GcsSettings,
    S3Settings,
    cloud_settings,
)
from imaging_ingestion.storage.open_space import open_space

S3 = {"BUCKET_NAME": "images"}
AZURE = {"AZURE_CONTAINER_NAME": "images", "AZURE_STORAGE_ACCOUNT_NAME": "hospital"}
GCS = {"GCS_BUCKET_NAME": "images"}


def s3(**values: str) -> S3Settings:
    settings = cloud_settings(S3 | values)
    assert isinstance(settings, S3Settings)
    return settings


def azure(**values: str) -> AzureSettings:
    settings = cloud_settings(AZURE | values)
    assert isinstance(settings, AzureSettings)
    return settings


def test_values_that_tell_of_no_store_are_no_space_in_one() -> None:
    assert cloud_settings({}) is None
    assert cloud_settings({"LOCAL_STORAGE_PATH": "/data", "BUCKET_SUBREGION": "x"}) is None
    assert cloud_settings({"BUCKET_NAME": " ", "BUCKET_HOST": "", "OTHER": "x"}) is None


def test_a_bucket_alone_is_amazon_s_with_the_credentials_of_the_environment() -> None:
    assert s3() == S3Settings(bucket="images", path_style=False)
    assert s3(BUCKET_NAME="my.images").path_style  # no certificate covers BUCKET.s3.amazonaws.com
    assert s3(BUCKET_REGION="eu-central-1").region == "eu-central-1"


@pytest.mark.parametrize(
    ("host", "port", "scheme", "endpoint"),
    [  # the first five as upstream has them
        ("s3.example.org", "443", "", "https://s3.example.org:443"),
        ("s3.example.org", "80", "", "http://s3.example.org:80"),
        ("s3.example.org", "9000", "", "https://s3.example.org:9000"),
        ("http://minio", "9000", "", "http://minio:9000"),
        ("https://s3.example.org", "443", "", "https://s3.example.org:443"),
        ("s3.example.org", "", "", "https://s3.example.org"),
        ("minio", "9000", "http", "http://minio:9000"),
        ("http://minio:9000/", "", "", "http://minio:9000"),
        ("http://[::1]", "9000", "", "http://[::1]:9000"),
    ],
)
def test_host_and_port_make_the_endpoint(host: str, port: str, scheme: str, endpoint: str) -> None:
    settings = s3(BUCKET_HOST=host, BUCKET_PORT=port, BUCKET_SCHEME=scheme)
    assert (settings.endpoint, settings.path_style) == (endpoint, True)


def test_everything_of_s3_may_be_said() -> None:
    settings = s3(
        BUCKET_HOST="s3.example.org",
        BUCKET_PATH_STYLE="false",
        BUCKET_PREFIX="/hospital/ct/",
        BUCKET_ENCRYPTION="aws:kms",
        BUCKET_ENCRYPTION_KEY_ID="arn:key",
        BUCKET_CA_CERTIFICATE="-----BEGIN CERTIFICATE-----\n…",
        AWS_ACCESS_KEY_ID=" id ",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_SESSION_TOKEN="token",
    )
    assert not settings.path_style
    assert settings.prefix == "hospital/ct"
    assert (settings.encryption, settings.encryption_key_id) == ("aws:kms", "arn:key")
    assert settings.ca_certificate is not None
    assert settings.access_key_id == SecretStr("id")
    assert settings.secret_access_key == SecretStr("secret")
    assert settings.session_token == SecretStr("token")
    assert "secret" not in repr(settings).replace("secret_access_key", "")


def test_a_connection_string_says_everything_about_an_account() -> None:
    text = "DefaultEndpointsProtocol=https;AccountName=clinic;AccountKey=a2V5;EndpointSuffix=x.cn"
    settings = cloud_settings(
        {"AZURE_CONTAINER_NAME": "images", "AZURE_STORAGE_CONNECTION_STRING": text}
    )
    assert isinstance(settings, AzureSettings)
    assert (settings.account, settings.endpoint) == ("clinic", "https://clinic.blob.x.cn")
    assert settings.account_key == SecretStr("a2V5")
    assert "a2V5" not in repr(settings)


def test_a_connection_string_may_be_only_the_url_as_upstream_has_it() -> None:
    settings = azure(
        AZURE_STORAGE_CONNECTION_STRING="https://hospital.blob.core.windows.net/",
        AZURE_STORAGE_ACCOUNT_KEY="a2V5",
    )
    assert settings.endpoint == "https://hospital.blob.core.windows.net"
    assert settings.account == "hospital"
    settings = azure(
        AZURE_STORAGE_ACCOUNT_NAME="",
        AZURE_STORAGE_CONNECTION_STRING="https://clinic.blob.core.windows.net",
    )
    assert settings.account == "clinic"


def test_azure_takes_a_signature_with_or_without_its_question_mark() -> None:
    for text in ("?sv=1&sig=s", "sv=1&sig=s"):
        assert azure(AZURE_STORAGE_SAS_TOKEN=text).sas_token == SecretStr("sv=1&sig=s")
    text = "BlobEndpoint=https://clinic.blob.core.windows.net;SharedAccessSignature=sv=1&sig=s"
    settings = azure(AZURE_STORAGE_ACCOUNT_NAME="", AZURE_STORAGE_CONNECTION_STRING=text)
    assert (settings.account, settings.sas_token) == ("clinic", SecretStr("sv=1&sig=s"))


def test_the_emulator_is_known_by_its_short_name() -> None:
    settings = azure(
        AZURE_STORAGE_ACCOUNT_NAME="", AZURE_STORAGE_CONNECTION_STRING="UseDevelopmentStorage=true"
    )
    assert settings.endpoint == "http://127.0.0.1:10000/devstoreaccount1"
    assert settings.account == "devstoreaccount1"


def test_a_bucket_of_google_may_have_a_key() -> None:
    assert cloud_settings(GCS) == GcsSettings(bucket="images")
    settings = cloud_settings(GCS | {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"client_email": "e"}'})
    assert isinstance(settings, GcsSettings)
    assert settings.service_account_key is not None
    assert "client_email" not in repr(settings)


@pytest.mark.parametrize(
    ("values", "key", "what"),
    [
        ({"BUCKET_HOST": "h"}, "BUCKET_NAME", "the name of a bucket was expected"),
        (S3 | {"BUCKET_NAME": "a/b"}, "BUCKET_NAME", "the name of a bucket was expected"),
        (S3 | AZURE, "AZURE_CONTAINER_NAME", "but BUCKET_NAME is set"),
        (S3 | {"BUCKET_PORT": "80"}, "BUCKET_PORT", "it goes with BUCKET_HOST"),
        (S3 | {"BUCKET_HOST": "h", "BUCKET_PORT": "x"}, "BUCKET_PORT", "from 1 to 65535"),
        (S3 | {"BUCKET_HOST": "h:1", "BUCKET_PORT": "2"}, "BUCKET_PORT", "BUCKET_HOST says 1"),
        (S3 | {"BUCKET_HOST": "h/path"}, "BUCKET_HOST", "a host, or"),
        (S3 | {"BUCKET_HOST": "https://user:hidden@h"}, "BUCKET_HOST", "a host, or"),
        (S3 | {"BUCKET_HOST": "h", "BUCKET_SCHEME": "ftp"}, "BUCKET_SCHEME", "http or https"),
        (S3 | {"BUCKET_PATH_STYLE": "yes"}, "BUCKET_PATH_STYLE", "true or false"),
        (S3 | {"BUCKET_PREFIX": "a/../b"}, "BUCKET_PREFIX", "a path of letters"),
        (S3 | {"BUCKET_PREFIX": "a//b"}, "BUCKET_PREFIX", "a path of letters"),
        (S3 | {"BUCKET_ENCRYPTION": "rot13"}, "BUCKET_ENCRYPTION", "AES256 or aws:kms or"),
        (S3 | {"BUCKET_ENCRYPTION_KEY_ID": "k"}, "BUCKET_ENCRYPTION_KEY_ID", "goes with"),
        (S3 | {"AWS_ACCESS_KEY_ID": "k"}, "AWS_SECRET_ACCESS_KEY", "goes with AWS_ACCESS_KEY_ID"),
        (S3 | {"AWS_SECRET_ACCESS_KEY": "hidden"}, "AWS_ACCESS_KEY_ID", "it goes with"),
        (S3 | {"BUCKET_CA_CERTIFICATE": "hidden"}, "BUCKET_CA_CERTIFICATE", "in PEM"),
        (AZURE | {"AZURE_CONTAINER_NAME": "A--b"}, "AZURE_CONTAINER_NAME", "of a container"),
        (
            {"AZURE_CONTAINER_NAME": "images"},
            "AZURE_STORAGE_ACCOUNT_NAME",
            "the name of a storage account was expected",
        ),
        (
            AZURE | {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=hidden"},
            "AZURE_STORAGE_CONNECTION_STRING",
            "AccountName=…;AccountKey=… or https://HOST… was expected",
        ),
        (
            AZURE | {"AZURE_STORAGE_SAS_TOKEN": "hidden"},
            "AZURE_STORAGE_SAS_TOKEN",
            "a shared access signature",
        ),
        (GCS | {"GOOGLE_SERVICE_ACCOUNT_KEY": "hidden"}, "GOOGLE_SERVICE_ACCOUNT_KEY", "the JSON"),
        (GCS | {"GCS_ENDPOINT": "h"}, "GCS_ENDPOINT", "http://HOST… or https://HOST…"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_key_and_without_its_value(
    values: dict[str, str], key: str, what: str
) -> None:
    with pytest.raises(CloudSettingsError) as told:
        cloud_settings(values)
    assert [problem for problem in told.value.problems if problem[0] == key and what in problem[1]]
    assert "hidden" not in str(told.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(CloudSettingsError) as told:
        cloud_settings({"BUCKET_NAME": "?", "BUCKET_PATH_STYLE": "?", "BUCKET_PREFIX": "?"})
    assert sorted(key for key, _ in told.value.problems) == [
        "BUCKET_NAME",
        "BUCKET_PATH_STYLE",
        "BUCKET_PREFIX",
    ]


@pytest.mark.parametrize("values", [S3, AZURE, GCS])
async def test_a_space_opens_without_asking_its_store(
    values: dict[str, str], tmp_path: Path
) -> None:
    space = open_space("clinical", _settings(values), tmp_path)
    assert space.name == "clinical"
    await space.close()


async def test_what_the_library_does_not_take_is_told_without_its_value(tmp_path: Path) -> None:
    settings = _settings(GCS | {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "hidden"}'})
    with pytest.raises(ValueError, match="the settings of bucket 'images' cannot be used") as told:
        open_space("clinical", settings, tmp_path)
    assert "hidden" not in str(told.value)


def test_without_the_library_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("imaging_ingestion.storage.cloud"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(RuntimeError, match=r"pip install 'imaging-ingestion\[cloud\]'"):
        open_space("clinical", S3Settings(bucket="images"), tmp_path)


def _settings(values: dict[str, str]) -> CloudSettings:
    settings = cloud_settings(values)
    assert settings is not None
    return settings
