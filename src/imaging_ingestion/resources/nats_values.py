"""From the fields of proxies and services to the environment names that mean the same."""

from __future__ import annotations

from imaging_ingestion.resources.models import DimseIngestionServiceSpec, DimseProxySpec


def proxy_values(spec: DimseProxySpec, token: str | None) -> dict[str, str]:
    """What a DimseProxy says. `token`: of its Secret. The title is the target's, as upstream."""
    return nats_values(spec, token) | _given(
        DIMSE_PORT=spec.port,
        DIMSE_NATS_SUBJECT_CHANNEL=spec.natsSubjectChannel,
        DIMSE_TARGET_AE=spec.applicationEntityTitle,
        DIMSE_TARGET_HOST=spec.targetDimseHost,
        DIMSE_TARGET_PORT=spec.targetDimsePort,
        DIMSE_PROXY_MODE=None if spec.mode == "relay" else spec.mode,
        DIMSE_SPOOL_DIRECTORY=spec.spoolDirectory,
        DIMSE_SPOOL_QUOTA=spec.spoolQuota,
        DIMSE_SPOOL_MIN_FREE=spec.spoolMinFree,
    )


def nats_values(
    spec: DimseProxySpec | DimseIngestionServiceSpec, token: str | None
) -> dict[str, str]:
    """What either says of NATS."""
    return _given(
        DIMSE_NATS_URL=spec.natsUrl,
        DIMSE_NATS_TLS_ENABLED="true" if spec.natsSecure else None,
        DIMSE_NATS_SUBJECT_ROOT=spec.natsSubjectRoot,
        DIMSE_NATS_AUTH_TOKEN=token,
    )


def _given(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
