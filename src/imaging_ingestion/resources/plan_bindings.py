"""Bindings: which target a resource's keys name."""

from __future__ import annotations

from collections.abc import Sequence

from imaging_ingestion.resources.models import DicomInstanceBinding, DicomStudyBinding
from imaging_ingestion.resources.plan import (
    DEFAULT_AE_TITLE,
    DEFAULT_CONCURRENCY,
    DICOM_PORT,
    CStorePlan,
    FhirPlan,
    StowPlan,
)
from imaging_ingestion.resources.setting_values import Settings, read_settings
from imaging_ingestion.resources.site_file import Site


def instance_binding_plan(
    site: Site, binding: DicomInstanceBinding, place: str, problems: list[str]
) -> StowPlan | CStorePlan | None:
    """The target of an instance binding; None if there is none, which is a problem."""
    needed = ("STOW_ENDPOINT", "DIMSE_TARGET_HOST")
    settings = _settings(site, binding, place, needed, problems)
    if settings is None:
        return None
    host = settings.text("DIMSE_TARGET_HOST")
    if host is not None:
        return _cstore_plan(binding, settings, host, problems)
    endpoint = settings.url("STOW_ENDPOINT")
    if endpoint is None:
        return None
    return StowPlan(
        binding.name,
        endpoint,
        settings.secret("STOW_AUTH_TOKEN"),
        settings.text("SELECTOR"),
        binding.spec.instanceBinding.concurrency or DEFAULT_CONCURRENCY,
    )


def study_binding_plan(
    site: Site, binding: DicomStudyBinding, place: str, problems: list[str]
) -> FhirPlan | None:
    """The target of a study binding; None if there is none, which is a problem."""
    needed = ("FHIR_ENDPOINT", "IMAGINGSTUDY_ENDPOINT", "IMAGING_STUDY_ENDPOINT")
    settings = _settings(site, binding, place, needed, problems)
    if settings is None:
        return None
    endpoint, *imaging_study = [settings.url(key) for key in needed]
    return FhirPlan(
        name=binding.name,
        endpoint=endpoint,
        imaging_study_endpoint=next(filter(None, imaging_study), None),
        token=settings.secret("FHIR_AUTH_TOKEN"),
        username=settings.text("FHIR_AUTH_USERNAME"),
        password=settings.secret("FHIR_AUTH_PASSWORD"),
        selector=settings.text("SELECTOR"),
        concurrency=binding.spec.studyBinding.concurrency or DEFAULT_CONCURRENCY,
        time_zone=settings.text("FHIR_TIME_ZONE"),
        patient_id_system=settings.text("FHIR_PATIENT_ID_SYSTEM"),
    )


def _settings(
    site: Site,
    binding: DicomInstanceBinding | DicomStudyBinding,
    place: str,
    needed: Sequence[str],
    problems: list[str],
) -> Settings | None:
    """A binding's settings; None if none of the `needed` keys is there, which is a problem."""
    spec, before = binding.spec, len(problems)
    settings = read_settings(
        site,
        place,
        ("spec.bindingConfigName", spec.bindingConfigName),
        ("spec.bindingSecretName", spec.bindingSecretName),
        problems.append,
    )
    if settings.any_of(key for key in needed if settings.text(key)) is not None:
        return settings
    if len(problems) == before:  # else the reason is told already
        what = " or ".join(needed)
        where = f"ConfigMap {spec.bindingConfigName}" if spec.bindingConfigName else "ConfigMap"
        problems.append(f"{place}: spec.bindingConfigName: a {where} with {what} was expected")
    return None


def _cstore_plan(
    binding: DicomInstanceBinding, settings: Settings, host: str, problems: list[str]
) -> CStorePlan | None:
    if settings.text("STOW_ENDPOINT") is not None:
        problems.append(
            f"{settings.place('DIMSE_TARGET_HOST')}: STOW_ENDPOINT is there, too; a binding "
            "has one target"
        )
    titles = [
        settings.ae_title(key, default)
        for key, default in (("DIMSE_TARGET_AE", None), ("DIMSE_AE", DEFAULT_AE_TITLE))
    ]
    if None in titles:
        return None
    ae_title, calling_ae_title = map(str, titles)
    return CStorePlan(
        name=binding.name,
        host=host,
        port=settings.number("DIMSE_TARGET_PORT", DICOM_PORT, 65535),
        ae_title=ae_title,
        calling_ae_title=calling_ae_title,
        tls=settings.secrets("DIMSE_TLS_"),
        selector=settings.text("SELECTOR"),
        concurrency=binding.spec.instanceBinding.concurrency or DEFAULT_CONCURRENCY,
    )
