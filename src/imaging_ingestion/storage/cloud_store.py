"""The library's store for a space's settings.

The library reads whatever variables of the environment it knows, wherever its caller is silent.
Where the settings say who uses the store, credentials are given by a function, which goes before
all of them; where they do not, the environment is what is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from imaging_ingestion.storage.cloud_settings import (
    AzureSettings,
    CloudSettings,
    GcsSettings,
    S3Settings,
)

if TYPE_CHECKING:
    from obstore.store import (
        AzureConfig,
        AzureCredential,
        ClientConfig,
        GCSConfig,
        RetryConfig,
        S3Config,
        S3Credential,
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store is waited for, and how often it is asked again."""

    connect: timedelta = timedelta(seconds=5)
    #: For an answer, and for more of one; within it a part must have been sent, too.
    answer: timedelta = timedelta(seconds=60)
    retries: int = 12
    retry: timedelta = timedelta(seconds=60)  # from the first try on
    longest_pause: timedelta = timedelta(seconds=5)


def cloud_store(settings: CloudSettings, patience: Patience) -> ObjectStore:
    """The library's store. Raises ValueError for what the library does not take."""
    try:
        match settings:
            case S3Settings():
                return _s3(settings, patience)
            case AzureSettings():
                return _azure(settings, patience)
            case GcsSettings():
                return _gcs(settings, patience)
    except BaseError as error:
        # Its message may quote a key.
        what = f"the settings of {settings.place} cannot be used ({type(error).__name__})"
        raise ValueError(what) from None


def _s3(settings: S3Settings, patience: Patience) -> S3Store:
    config: S3Config = {
        "region": settings.region,
        "virtual_hosted_style_request": not settings.path_style,
        # The request for many at once is not known to every store, and we delete one by one.
        "disable_bulk_delete": True,
    }
    endpoint = settings.endpoint
    if endpoint is not None:
        if not settings.path_style:
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{settings.bucket}.{host}"
        config["endpoint"] = endpoint
        config["aws_endpoint_url_s3"] = endpoint  # else a variable of that name would win
    if settings.encryption is not None:
        config["server_side_encryption"] = settings.encryption
    if settings.encryption_key_id is not None:
        config["sse_kms_key_id"] = settings.encryption_key_id
    credentials = _s3_credentials(settings)
    if credentials is not None:
        config["skip_signature"] = False
    return S3Store(
        settings.bucket,
        prefix=settings.prefix,
        config=config,
        client_options=_client(settings, patience),
        retry_config=_retry(patience),
        credential_provider=credentials,
    )


def _s3_credentials(settings: S3Settings) -> Callable[[], S3Credential] | None:
    key, secret, token = (
        settings.access_key_id,
        settings.secret_access_key,
        settings.session_token,
    )
    if key is None or secret is None:
        return None
    return lambda: {
        "access_key_id": key.get_secret_value(),
        "secret_access_key": secret.get_secret_value(),
        "token": None if token is None else token.get_secret_value(),
        "expires_at": None,
    }


def _azure(settings: AzureSettings, patience: Patience) -> AzureStore:
    config: AzureConfig = {"account_name": settings.account}
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
    credentials = _azure_credentials(settings)
    if credentials is not None:
        config["skip_signature"] = False
    return AzureStore(
        settings.bucket,
        prefix=settings.prefix,
        config=config,
        client_options=_client(settings, patience),
        retry_config=_retry(patience),
        credential_provider=credentials,
    )


def _azure_credentials(settings: AzureSettings) -> Callable[[], AzureCredential] | None:
    key, sas = settings.account_key, settings.sas_token
    if sas is not None:  # says more narrowly than the key what is allowed
        return lambda: {"sas_token": sas.get_secret_value(), "expires_at": None}
    if key is not None:
        return lambda: {"access_key": key.get_secret_value(), "expires_at": None}
    return None


def _gcs(settings: GcsSettings, patience: Patience) -> GCSStore:
    config: GCSConfig = {}
    if settings.endpoint is not None:
        config["base_url"] = settings.endpoint
    if settings.service_account_key is not None:
        config["service_account_key"] = settings.service_account_key.get_secret_value()
        config["skip_signature"] = False
    return GCSStore(
        settings.bucket,
        prefix=settings.prefix,
        config=config,
        client_options=_client(settings, patience),
        retry_config=_retry(patience),
    )


def _client(settings: CloudSettings, patience: Patience) -> ClientConfig:
    options: ClientConfig = {
        "allow_http": urlsplit(settings.endpoint or "").scheme == "http",
        "connect_timeout": patience.connect,
        "read_timeout": patience.answer,
        # Of a whole answer: a stream takes as long as its reader does.
        "timeout": timedelta(days=1),
        "user_agent": "imaging-ingestion",
    }
    if settings.ca_certificate is not None:
        options["root_certificate"] = settings.ca_certificate
    return options


def _retry(patience: Patience) -> RetryConfig:
    return {
        "max_retries": patience.retries,
        "retry_timeout": patience.retry,
        "backoff": {"max_backoff": patience.longest_pause},
    }
