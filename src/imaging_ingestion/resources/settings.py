"""Every key of ConfigMaps and Secrets that means something to us, upstream's names first.

The same keys are the environment names of a single component.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """A key; `reader` is the kind that names the ConfigMap or Secret in which it stands."""

    name: str
    reader: str
    meaning: str
    default: str = ""
    is_secret: bool = False


_CORE = "DicomEventDrivenIngestion"
_SERVICE = "DicomwebIngestionService"
_DIMSE_SERVICE = "DimseIngestionService"
_SERVICES = f"{_SERVICE}, {_DIMSE_SERVICE}"
_INSTANCE_BINDING = "DicomInstanceBinding"
_STUDY_BINDING = "DicomStudyBinding"
_BINDINGS = f"{_INSTANCE_BINDING}, {_STUDY_BINDING}"
_DIMSE = f"{_DIMSE_SERVICE}, DimseProxy"
_LATER = "Not read by this version."

_OBJECT_STORE = tuple(
    Setting(name, _SERVICES, what, default, is_secret=secret)
    for name, what, default, secret in (
        ("BUCKET_NAME", "Bucket of S3, or of a store that speaks S3.", "", False),
        ("BUCKET_HOST", "Host of the store; may begin with a scheme.", "Amazon's", False),
        ("BUCKET_PORT", "Its port.", "", False),
        ("BUCKET_SCHEME", "Ours: `http` or `https`.", "`http` for port 80, else `https`", False),
        ("BUCKET_REGION", "Region of the bucket.", "`us-east-1`", False),
        ("BUCKET_SUBREGION", "Upstream's; not needed.", "", False),
        (
            "BUCKET_PATH_STYLE",
            "Ours: whether the bucket is in the path of URLs, or in the host's name.",
            "`true` with a host",
            False,
        ),
        ("BUCKET_PREFIX", "Ours: a path before every name, in any store.", "", False),
        (
            "BUCKET_ENCRYPTION",
            "Ours: `AES256`, `aws:kms` or `aws:kms:dsse`.",
            "the bucket's",
            False,
        ),
        ("BUCKET_ENCRYPTION_KEY_ID", "Ours: the key of the latter two.", "", False),
        (
            "BUCKET_CA_CERTIFICATE",
            "Ours: a certificate in PEM to trust, beside the system's, in any store.",
            "",
            False,
        ),
        ("AWS_ACCESS_KEY_ID", "Access key of the bucket.", "the environment's", True),
        ("AWS_SECRET_ACCESS_KEY", "Its secret.", "", True),
        ("AWS_SESSION_TOKEN", "Ours: of temporary credentials.", "", True),
        ("AZURE_CONTAINER_NAME", "Container of Azure Blob Storage.", "", False),
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "Everything about an account, or the URL of its blob service.",
            "",
            True,
        ),
        ("AZURE_STORAGE_ACCOUNT_NAME", "Name of the account.", "", False),
        ("AZURE_STORAGE_ACCOUNT_KEY", "Key of the account.", "the environment's", True),
        ("AZURE_STORAGE_SAS_TOKEN", "Ours: a shared access signature.", "", True),
        ("GCS_BUCKET_NAME", "Ours: bucket of Google Cloud Storage.", "", False),
        ("GCS_ENDPOINT", "Ours: another endpoint than Google's.", "", False),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", "Ours: JSON of an account.", "the environment's", True),
    )
)

#: The fields of the resources, where there are any, go before them.
_NATS_KEYS = tuple(
    Setting(f"DIMSE_NATS_{name}", _DIMSE, what, default, is_secret=secret)
    for name, what, default, secret in (
        (
            "URL",
            "NATS servers between the networks: `HOST:PORT`, several between commas.",
            "a server of the site's own, on loopback",
            False,
        ),
        ("TLS_ENABLED", "Whether they are spoken to over TLS.", "`false`", False),
        (
            "TLS_CA",
            "Ours: file of the certificates that are trusted.",
            "those of the operating system",
            False,
        ),
        ("TLS_CERT", "Ours: file of our certificate.", "", False),
        ("TLS_KEY", "Ours: file of its key.", "", False),
        ("SUBJECT_ROOT", "First word of the subjects.", "`DIMSE`", False),
        (
            "SUBJECT_CHANNEL",
            "A or B, the other one than the peer's.",
            "a proxy's `A`, a service's `B`",
            False,
        ),
        ("AUTH_TOKEN", "Token, a JWT perhaps.", "", True),
        ("AUTH_TOKEN_FILE", "Ours: file of the token, read at each connection.", "", False),
        ("USER", "Ours: user name.", "", False),
        ("PASSWORD", "Ours: its password.", "", True),
        ("NKEY_SEED", "Ours: file of an NKey's seed.", "", False),
        ("CREDS", "Ours: file of a user's JWT and seed.", "", False),
        (
            "REPLY_TIMEOUT",
            "Seconds for which an association outlives the connection.",
            "`60`",
            False,
        ),
        ("WINDOW", "Ours: bytes of an association on their way, at most.", "`4194304`", False),
        ("CHUNK_SIZE", "Ours: bytes of a message, at most.", "`262144`", False),
    )
)

_PROXY_KEYS = tuple(
    Setting(f"DIMSE_{name}", reader, meaning, default)
    for name, reader, meaning, default in (
        (
            "NATS_REPLY_TIMEOUTSECONDS",
            _DIMSE,
            "Upstream's other name of DIMSE_NATS_REPLY_TIMEOUT.",
            "",
        ),
        (
            "MAX_ASSOCIATIONS",
            _DIMSE,
            "Ours: associations over NATS at a time, of one proxy or service.",
            "`600`",
        ),
        (
            "HOST",
            "DimseProxy",
            "Ours: address that local peers call.",
            "of `run proxy` all, of `up` its `--host`",
        ),
        (
            "CALLING_AE",
            "DimseProxy",
            "Ours: AE title by which the target is called; `*` is the caller's own.",
            "`DIMSE_AE`, or the caller's own",
        ),
        (
            "DRAIN_TIMEOUT",
            "DimseProxy",
            "Ours: seconds that associations have to end when the proxy stops.",
            "`20`",
        ),
    )
)

#: Where `spec.mode` and its like say nothing.
_SPOOL_KEYS = tuple(
    Setting(name, "DimseProxy", meaning, default)
    for name, meaning, default in (
        (
            "DIMSE_PROXY_MODE",
            "Ours: `relay`, or `spool`: instances are taken by the proxy and sent on.",
            "`relay`",
        ),
        (
            "DIMSE_SPOOL_DIRECTORY",
            "Ours: folder where they wait.",
            "required by `run proxy`; `spools/NAME` in the data folder of `up`",
        ),
        ("DIMSE_SPOOL_QUOTA", "Ours: bytes they may take, such as `50Gi`.", "as the disk has room"),
        ("DIMSE_SPOOL_MIN_FREE", "Ours: bytes of the disk that stay free.", "`1Gi`"),
        ("DIMSE_SPOOL_STREAMS", "Ours: studies that are sent at a time.", "`4`"),
        (
            "DIMSE_SPOOL_KEEP",
            "Ours: seconds for which the ledger tells what was delivered.",
            "`604800`",
        ),
    )
)

_DIMSE_SERVICE_KEYS = tuple(
    Setting(f"DIMSE_{name}", _DIMSE_SERVICE, what, default, is_secret=secret)
    for name, what, default, secret in (
        (
            "PORT",
            "Port it listens on, where `spec.port` says nothing (also a DimseProxy).",
            "`11112`",
            False,
        ),
        (
            "CONFIG_PATH",
            "Folder with IMAGE_CUIDS and IMAGE_TSUIDS, the SOP classes and transfer syntaxes that "
            "are taken (also by a DimseProxy in mode `spool`).",
            "all of the standard, and private SOP classes",
            False,
        ),
        (
            "USERNAMES",
            "Ours: user names that may call without a passcode, comma-separated. They prove "
            "nothing.",
            "",
            False,
        ),
        (
            "PASSCODES",
            "Ours: who may call with a passcode, a line each: `NAME:PASSCODE`, or `NAME:` and the "
            "passcode's scrypt hash.",
            "",
            True,
        ),
        (
            "JWT_KEY",
            "Ours: who has a JSON Web Token signed for this key may call. A public key in PEM, or "
            "the secret of HMAC algorithms.",
            "",
            True,
        ),
        ("JWT_ALGORITHMS", "Ours: algorithms of its signature.", "`RS256,ES256`", False),
        ("JWT_ISSUER", "Ours: issuer that the token must name.", "any", False),
        ("JWT_AUDIENCE", "Ours: audience that the token must name.", "any", False),
        (
            "IDENTITY_REQUIRED",
            "Ours: whether nobody may call without one of these identities.",
            "`true` if any is configured",
            False,
        ),
    )
)

#: Of those who call, and of those who are called.
_DIMSE_TARGET_KEYS = (
    Setting(
        "DIMSE_TARGET_HOST",
        f"{_INSTANCE_BINDING}, DimseProxy",
        "Host of the C-STORE target.",
        "this or `STOW_ENDPOINT` is required",
    ),
    Setting(
        "DIMSE_TARGET_PORT",
        f"{_INSTANCE_BINDING}, DimseProxy",
        "Its port.",
        "a binding's `104`, a proxy's `11112`",
    ),
    Setting(
        "DIMSE_TARGET_AE",
        f"{_INSTANCE_BINDING}, DimseProxy",
        "Its AE title.",
        "required with a host",
    ),
    Setting(
        "DIMSE_AE",
        f"{_INSTANCE_BINDING}, {_DIMSE}",
        "AE title by which we call, and are called; `spec.applicationEntityTitle` goes before it.",
        "`INGESTION`",
    ),
    *(
        Setting(
            f"DIMSE_TLS_{name}",
            f"{_INSTANCE_BINDING}, {_DIMSE}",
            meaning,
            default,
            is_secret=name.endswith("_PASSWORD"),
        )
        for name, meaning, default in (
            (
                "ENABLED",
                "Whether DIMSE is spoken over TLS: `true` or `false`. A service's destinations say "
                "so themselves.",
                "`false`",
            ),
            ("KEYSTORE", "File of our certificate and its key, PEM or PKCS#12.", ""),
            ("KEYSTORE_TYPE", "Its format.", "by its content"),
            ("KEYSTORE_PASSWORD", "Its password.", ""),
            ("KEY", "Ours: file of the key, where the key store has only the certificate.", ""),
            (
                "TRUSTSTORE",
                "File of the certificates that are trusted.",
                "those of the operating system",
            ),
            ("TRUSTSTORE_TYPE", "Its format.", "by its content"),
            ("TRUSTSTORE_PASSWORD", "Its password.", ""),
            ("PROTOCOL_VERSIONS", "Versions of TLS that are spoken.", "`TLSv1.2,TLSv1.3`"),
            ("CIPHER_SUITES", "Cipher suites that are offered.", "those of BCP 195"),
            ("VERIFY_PEER", "Ours: whether the peer's certificate has to be trusted.", "`true`"),
            ("VERIFY_HOST", "Ours: whether it has to be for the host that is called.", "`true`"),
        )
    ),
)

SETTINGS: tuple[Setting, ...] = (
    Setting("DB_KIND", _CORE, "`postgresql` or `sqlite`.", "`postgresql`"),
    Setting("DB_HOST", _CORE, "Host of the PostgreSQL server.", "`localhost`"),
    Setting("DB_PORT", _CORE, "Its port.", "`5432`"),
    Setting(
        "DB_NAME",
        _CORE,
        "Name of the database; with `sqlite` its file, in the data folder unless absolute.",
        "`postgres`; with `sqlite` the core's name and `.db`",
    ),
    Setting("DB_USER", _CORE, "User name."),
    Setting("DB_PASS", _CORE, "Password.", is_secret=True),
    Setting(
        "DATASOURCE_MAX_SIZE",
        _CORE,
        "Connections to PostgreSQL at most, of each process.",
        "`16`",
    ),
    Setting(
        "DB_POOL_TIMEOUT",
        _CORE,
        "Ours: seconds to wait for one of them when all are in use.",
        "`10`",
    ),
    Setting("DB_CONNECT_TIMEOUT", _CORE, "Ours: seconds to wait for the server.", "`5`"),
    Setting(
        "DB_STATEMENT_TIMEOUT",
        _CORE,
        "Ours: seconds after which PostgreSQL ends a statement; a migration is not limited.",
        "`30`",
    ),
    Setting(
        "DB_SSLMODE",
        _CORE,
        "Ours: TLS to PostgreSQL, as libpq has it: `disable`, `prefer`, `require`, `verify-ca`,"
        " `verify-full`. Only the last is safe from whoever is in between.",
        "`prefer`",
    ),
    Setting(
        "DB_SSLROOTCERT",
        _CORE,
        "Ours: file of the certificates that are trusted for it (PEM).",
        "those of the operating system",
    ),
    Setting(
        "LOCAL_STORAGE_PATH",
        _SERVICES,
        "Folder of the space, in the data folder unless absolute.",
        "`spaces/` and the space's name",
    ),
    Setting(
        "WADO_INTERNAL_ENDPOINT",
        _SERVICES,
        "DICOMweb root of the space that events name.",
        "this server's",
    ),
    Setting(
        "WADO_EXTERNAL_ENDPOINT",
        _SERVICES,
        "DICOMweb root of the space that clients see in answers.",
        "as the request came",
    ),
    Setting(
        "QIDO_AUTH_TOKEN",
        _SERVICES,
        "Ours: bearer token of a source; in the Secret that the source names.",
        is_secret=True,
    ),
    Setting(
        "STOW_ENDPOINT",
        _INSTANCE_BINDING,
        "DICOMweb root of the STOW-RS target, or its `/studies`; a path is one of this server.",
        "this or `DIMSE_TARGET_HOST` is required",
    ),
    Setting("STOW_AUTH_TOKEN", _INSTANCE_BINDING, "Bearer token.", is_secret=True),
    Setting(
        "SELECTOR",
        _BINDINGS,
        "Comma-separated regular expressions, one of which the whole provider name must match.",
        "every provider",
    ),
    Setting(
        "FHIR_ENDPOINT",
        _STUDY_BINDING,
        "Base URL of the FHIR R4 server; a path is one of this server.",
        "this or the next is required",
    ),
    Setting(
        "IMAGINGSTUDY_ENDPOINT",
        _STUDY_BINDING,
        "URL of the ImagingStudy resources, where a server takes nothing else.",
    ),
    Setting("IMAGING_STUDY_ENDPOINT", _STUDY_BINDING, "The same."),
    Setting("FHIR_AUTH_TOKEN", _STUDY_BINDING, "Bearer token.", is_secret=True),
    Setting("FHIR_AUTH_USERNAME", _STUDY_BINDING, "User name, where there is no token."),
    Setting("FHIR_AUTH_PASSWORD", _STUDY_BINDING, "Its password.", is_secret=True),
    Setting(
        "FHIR_TIME_ZONE",
        _STUDY_BINDING,
        "Ours: IANA name of the time zone of times that come without an offset.",
        "`UTC`",
    ),
    Setting(
        "FHIR_PATIENT_ID_SYSTEM",
        _STUDY_BINDING,
        "Ours: namespace URI of Patient IDs that come without an issuer.",
    ),
    *_OBJECT_STORE,
    *_DIMSE_TARGET_KEYS,
    *_DIMSE_SERVICE_KEYS,
    *_NATS_KEYS,
    *_PROXY_KEYS,
    *_SPOOL_KEYS,
    Setting("PROVIDER_NAME", _SERVICE, f"Of a single component: `providerName`. {_LATER}"),
    Setting("EVENT_SOURCE", _CORE, f"Source of CloudEvents. {_LATER}"),
    Setting(
        "K_SINK",
        _CORE,
        "Where Knative wants CloudEvents sent: in the environment, if `broker.sink` is not given; "
        "for the built-in site it says that Knative is the broker.",
    ),
    Setting(
        "K_CE_OVERRIDES",
        _CORE,
        "In the environment: extensions that every event gets, as a SinkBinding sets it.",
    ),
    Setting("K_CA_CERTS", _CORE, "In the environment: certificates in PEM to trust at the sink."),
)
