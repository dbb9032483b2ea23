"""Where a space in an object store is, and who may use it: settings made from keys and texts.

The keys are those of the ConfigMap and the Secret of a bucket. BUCKET_* are what an
ObjectBucketClaim makes; what upstream read has the meaning it had there:

- BUCKET_HOST may begin with http:// or https://. Where it does not, BUCKET_PORT 80 means http and
  any other port https.
- AZURE_STORAGE_CONNECTION_STRING is a connection string, or only the URL of the blob service.

A store without credentials uses those of its environment: the variables, the token file or the
metadata service of the cloud it runs in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

__all__ = [
    "KEYS",
    "AzureSettings",
    "CloudSettings",
    "CloudSettingsError",
    "GcsSettings",
    "S3Settings",
    "cloud_settings",
]

T = TypeVar("T")

_S3_KEYS: Final = (
    "BUCKET_NAME",
    "BUCKET_HOST",
    "BUCKET_PORT",
    "BUCKET_SCHEME",
    "BUCKET_REGION",
    "BUCKET_PATH_STYLE",
    "BUCKET_ENCRYPTION",
    "BUCKET_ENCRYPTION_KEY_ID",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
_AZURE_KEYS: Final = (
    "AZURE_CONTAINER_NAME",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
)
_GCS_KEYS: Final = ("GCS_BUCKET_NAME", "GCS_ENDPOINT", "GOOGLE_SERVICE_ACCOUNT_KEY")
#: Every key that is read here. BUCKET_SUBREGION is known and, as upstream, not needed.
KEYS: Final = (
    *_S3_KEYS,
    *_AZURE_KEYS,
    *_GCS_KEYS,
    "BUCKET_SUBREGION",
    "BUCKET_PREFIX",
    "BUCKET_CA_CERTIFICATE",
)

_DEFAULT_REGION = "us-east-1"
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", re.ASCII)
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_PREFIX_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9!_.'()=@+,-]+", re.ASCII)
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
#: Of Microsoft's emulator, known to everybody.
_EMULATOR = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtl"
    "CDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)


class CloudSettingsError(ValueError):
    """What is wrong with the settings: `problems` are a key and what was expected of it, each."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    bucket: str
    prefix: str | None = None  # without slashes at its ends
    ca_certificate: str | None = None  # PEM, trusted beside the system's own

    @property
    def place(self) -> str:
        """It in words, without anything secret."""
        return f"bucket {self.bucket!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings(_Place):
    """A bucket of S3, or of a store that speaks S3."""

    region: str = _DEFAULT_REGION
    endpoint: str | None = None  # http(s)://HOST:PORT without the bucket; None is Amazon's
    path_style: bool = True  # the bucket is in the path of URLs, not in their host
    access_key_id: SecretStr | None = None  # None: the environment's credentials
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    encryption: str | None = None  # "AES256", "aws:kms", "aws:kms:dsse"; None is the bucket's
    encryption_key_id: str | None = None  # of aws:kms; None is the account's own


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings(_Place):
    """A container of Azure Blob Storage; `bucket` is its name."""

    account: str
    endpoint: str | None = (
        None  # of the blob service; None is https://ACCOUNT.blob.core.windows.net
    )
    account_key: SecretStr | None = None
    sas_token: SecretStr | None = None  # without its question mark

    @property
    def place(self) -> str:
        """It in words, without anything secret."""
        return f"container {self.bucket!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsSettings(_Place):
    """A bucket of Google Cloud Storage."""

    endpoint: str | None = None
    service_account_key: SecretStr | None = None  # JSON; None: the environment's credentials


CloudSettings = S3Settings | AzureSettings | GcsSettings


def cloud_settings(values: Mapping[str, str]) -> CloudSettings | None:
    """The space in an object store that the values describe; None if they describe none.

    Keys that are not known are left alone, an empty value is none. Raises CloudSettingsError, which
    tells every problem by its key and never a value that may be secret.
    """
    given = {key: text.strip() for key, text in values.items() if key in KEYS and text.strip()}
    kinds = [
        keys for keys in (_S3_KEYS, _AZURE_KEYS, _GCS_KEYS) if not given.keys().isdisjoint(keys)
    ]
    if not kinds:
        return None
    named = [keys for keys in kinds if keys[0] in given]
    if len(named) > 1:
        first, second = named[0][0], named[1][0]
        raise CloudSettingsError([(second, f"the space is in one store, but {first} is set, too")])
    reader = _Reader(given)
    match (named or kinds)[0][0]:
        case "BUCKET_NAME":
            settings: CloudSettings = _s3(reader)
        case "AZURE_CONTAINER_NAME":
            settings = _azure(reader)
        case _:
            settings = _gcs(reader)
    if reader.problems:
        raise CloudSettingsError(reader.problems)
    return settings


class _Reader:
    """The values by their keys, and what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[tuple[str, str]] = []

    def problem(self, key: str, what: str) -> None:
        self.problems.append((key, what))

    def text(self, key: str) -> str | None:
        return self._values.get(key)

    def secret(self, key: str) -> SecretStr | None:
        text = self.text(key)
        return None if text is None else SecretStr(text)

    def named(self, key: str, form: re.Pattern[str], what: str) -> str:
        text = self.text(key) or ""
        if form.fullmatch(text) is None:
            self.problem(key, f"{what} was expected")
        return text

    def one_of(self, key: str, words: Mapping[str, T], default: T) -> T:
        text = self.text(key)
        if text is None:
            return default
        if text not in words:
            self.problem(key, f"{' or '.join(words)} was expected")
        return words.get(text, default)

    def port(self, key: str) -> int | None:
        text = self.text(key)
        if text is None:
            return None
        if text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536:
            return int(text)
        self.problem(key, "a port from 1 to 65535 was expected")
        return None

    def url(self, key: str) -> str | None:
        text = self.text(key)
        if text is None:
            return None
        if not _is_service(text):
            self.problem(key, "http://HOST… or https://HOST… was expected")
        return text.rstrip("/")

    def prefix(self) -> str | None:
        text = (self.text("BUCKET_PREFIX") or "").strip("/")
        if text and not all(_PREFIX_PART.fullmatch(part) for part in text.split("/")):
            self.problem("BUCKET_PREFIX", "a path of letters, digits and !_.'()=@+,- was expected")
        return text or None

    def certificate(self) -> str | None:
        text = self.text("BUCKET_CA_CERTIFICATE")
        if text is not None and not text.startswith(_CERTIFICATE):
            self.problem("BUCKET_CA_CERTIFICATE", "a certificate in PEM was expected")
        return text


def _s3(values: _Reader) -> S3Settings:
    bucket = values.named("BUCKET_NAME", _BUCKET, "the name of a bucket")
    endpoint = _s3_endpoint(values)
    # Amazon wants the bucket in the host, where a certificate's wildcard covers it; of other
    # stores few have the names for it.
    own_style = endpoint is not None or "." in bucket
    key, secret = values.secret("AWS_ACCESS_KEY_ID"), values.secret("AWS_SECRET_ACCESS_KEY")
    for this, other, missing in (
        (key, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        (secret, "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ):
        if this is not None and values.text(missing) is None:
            values.problem(missing, f"it goes with {other}")
    encryption = values.one_of("BUCKET_ENCRYPTION", {each: each for each in _ENCRYPTIONS}, None)
    key_id = values.text("BUCKET_ENCRYPTION_KEY_ID")
    if key_id is not None and not (encryption or "").startswith("aws:kms"):
        values.problem("BUCKET_ENCRYPTION_KEY_ID", "it goes with BUCKET_ENCRYPTION aws:kms")
    return S3Settings(
        bucket=bucket,
        prefix=values.prefix(),
        ca_certificate=values.certificate(),
        region=values.text("BUCKET_REGION") or _DEFAULT_REGION,
        endpoint=endpoint,
        path_style=values.one_of("BUCKET_PATH_STYLE", {"true": True, "false": False}, own_style),
        access_key_id=key,
        secret_access_key=secret,
        session_token=values.secret("AWS_SESSION_TOKEN"),
        encryption=encryption,
        encryption_key_id=key_id,
    )


def _s3_endpoint(values: _Reader) -> str | None:
    host, port = values.text("BUCKET_HOST"), values.port("BUCKET_PORT")
    schemes = {"http": "http", "https": "https"}
    scheme = values.one_of("BUCKET_SCHEME", schemes, "http" if port == 80 else "https")
    if host is None:
        for key in ("BUCKET_PORT", "BUCKET_SCHEME"):
            if values.text(key) is not None:
                values.problem(key, "it goes with BUCKET_HOST")
        return None
    host = host.rstrip("/")
    url = host if host.startswith(("http://", "https://")) else f"{scheme}://{host}"
    parts = urlsplit(url)
    if not _is_service(url) or parts.path:
        values.problem("BUCKET_HOST", "a host, or http://HOST or https://HOST was expected")
        return None
    if parts.port is not None and port is not None and parts.port != port:
        values.problem("BUCKET_PORT", f"BUCKET_HOST says {parts.port}")
    return url if parts.port is not None or port is None else f"{url}:{port}"


def _azure(values: _Reader) -> AzureSettings:
    container = values.named("AZURE_CONTAINER_NAME", _CONTAINER, "the name of a container")
    key = "AZURE_STORAGE_CONNECTION_STRING"
    text = values.text(key)
    parts: dict[str, str] = {}
    if text is not None and text.startswith(("http://", "https://")):
        parts["BlobEndpoint"] = values.url(key) or ""
    elif text is not None:
        parts = _connection_string(_EMULATOR if _is_emulator(text) else text)
        if parts.keys().isdisjoint(("AccountName", "BlobEndpoint")):
            values.problem(key, "AccountName=…;AccountKey=… or https://HOST… was expected")
    endpoint = parts.get("BlobEndpoint") or _endpoint_of(parts)
    if endpoint is not None and not _is_service(endpoint):
        values.problem(key, "http://HOST… or https://HOST… was expected as its BlobEndpoint")
        endpoint = None
    account = values.text("AZURE_STORAGE_ACCOUNT_NAME") or parts.get("AccountName")
    account = account or _account_of(endpoint)
    if _ACCOUNT.fullmatch(account) is None:
        values.problem("AZURE_STORAGE_ACCOUNT_NAME", "the name of a storage account was expected")
    account_key = values.text("AZURE_STORAGE_ACCOUNT_KEY") or parts.get("AccountKey")
    sas = values.text("AZURE_STORAGE_SAS_TOKEN") or parts.get("SharedAccessSignature")
    sas = None if sas is None else sas.removeprefix("?")
    if sas is not None and "sig" not in dict(parse_qsl(sas)):
        values.problem(
            "AZURE_STORAGE_SAS_TOKEN", "a shared access signature (…&sig=…) was expected"
        )
    return AzureSettings(
        bucket=container,
        prefix=values.prefix(),
        ca_certificate=values.certificate(),
        account=account,
        endpoint=endpoint,
        account_key=None if account_key is None else SecretStr(account_key),
        sas_token=None if sas is None else SecretStr(sas),
    )


def _connection_string(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _is_emulator(text: str) -> bool:
    return _connection_string(text).get("UseDevelopmentStorage", "").lower() == "true"


def _endpoint_of(parts: Mapping[str, str]) -> str | None:
    """The blob service's URL, where a connection string names another cloud or another scheme."""
    if "AccountName" not in parts or parts.keys().isdisjoint(
        ("EndpointSuffix", "DefaultEndpointsProtocol")
    ):
        return None
    scheme = parts.get("DefaultEndpointsProtocol", "https")
    return (
        f"{scheme}://{parts['AccountName']}.blob.{parts.get('EndpointSuffix', 'core.windows.net')}"
    )


def _account_of(endpoint: str | None) -> str:
    """The account in a URL like https://ACCOUNT.blob.core.windows.net."""
    host = urlsplit(endpoint or "").hostname or ""
    return host.partition(".")[0] if ".blob." in host else ""


def _gcs(values: _Reader) -> GcsSettings:
    key = values.secret("GOOGLE_SERVICE_ACCOUNT_KEY")
    if key is not None and not _is_json_object(key.get_secret_value()):
        values.problem("GOOGLE_SERVICE_ACCOUNT_KEY", "the JSON of a service account was expected")
    return GcsSettings(
        bucket=values.named("GCS_BUCKET_NAME", _BUCKET, "the name of a bucket"),
        prefix=values.prefix(),
        ca_certificate=values.certificate(),
        endpoint=values.url("GCS_ENDPOINT"),
        service_account_key=key,
    )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_service(text: str) -> bool:
    """Whether it is the URL of a service: no user in it, no query, no fragment."""
    if not text.isprintable() or " " in text or "@" in text:
        return False
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not match
        return False
    return usable and not parts.query and not parts.fragment
