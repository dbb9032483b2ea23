"""From resources to a plan: what is run, and everything that stands in the way."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from site_documents import (
    binding,
    config_map,
    core,
    core_of,
    dimse,
    plan,
    problems_of,
    resource,
    secret,
    service,
)
from sqlalchemy.engine import URL

from imaging_ingestion.resources.plan import (
    CStorePlan,
    DatabasePlan,
    DimsePlan,
    FhirPlan,
    SpacePlan,
    StowPlan,
)
from imaging_ingestion.resources.planner import built_in_plan


def test_the_built_in_site_is_one_space_in_the_data_folder():
    assert built_in_plan() == plan(core(), service("any"), dimse("dimse"))
    (only,) = built_in_plan().cores
    assert only.name == "core"
    assert only.revisioning_delay == timedelta(seconds=30)
    assert only.database == DatabasePlan(file=Path("core.db"))
    assert only.spaces == (SpacePlan("default", Path("spaces/default")),)
    assert only.bindings == ()
    assert only.dimse == (DimsePlan("dimse", "default"),)


def test_a_whole_site_becomes_a_plan():
    found = core_of(
        core(revisioningDelay=5, databaseConfigName="db", databaseSecretName="db"),
        config_map("db", DB_HOST="db.example", DB_PORT="6432", DB_NAME="manifest"),
        secret("db", DB_USER="me", DB_PASS="p@ss"),
        service("clinical", bucketConfigName="clinical", providerName="hospital"),
        config_map(
            "clinical",
            LOCAL_STORAGE_PATH="/srv/clinical",
            WADO_INTERNAL_ENDPOINT="http://inside/dicom-web",
            WADO_EXTERNAL_ENDPOINT="https://pacs.example/dicom-web",
        ),
        service("research", bucketConfigName="research", conflictPolicy="keep"),
        config_map("research", LOCAL_STORAGE_PATH="elsewhere"),
        binding("DicomInstanceBinding", "forward", bindingConfigName="f", bindingSecretName="f"),
        config_map("f", STOW_ENDPOINT="/spaces/research/dicom-web", SELECTOR="hospital.*"),
        secret("f", STOW_AUTH_TOKEN="hunter2"),
        binding(
            "DicomStudyBinding", "fhir", bindingConfigName="g", studyBinding="{concurrency: 2}"
        ),
        config_map(
            "g",
            FHIR_ENDPOINT="https://fhir.example/r4",
            FHIR_AUTH_USERNAME="me",
            FHIR_AUTH_PASSWORD="hunter2",
            FHIR_TIME_ZONE="Europe/Berlin",
            FHIR_PATIENT_ID_SYSTEM="urn:x",
        ),
    )
    assert found.database == DatabasePlan(
        url=URL.create("postgresql", "me", "p@ss", "db.example", 6432, "manifest"), max_size=16
    )
    assert found.revisioning_delay == timedelta(seconds=5)
    assert found.spaces == (
        SpacePlan(
            "clinical",
            Path("/srv/clinical"),
            "hospital",
            "replace",
            "http://inside/dicom-web",
            "https://pacs.example/dicom-web",
        ),
        SpacePlan("research", Path("elsewhere"), "default", "keep"),
    )
    forward, fhir = found.bindings
    assert isinstance(forward, StowPlan)
    assert forward.token is not None
    assert forward.token.get_secret_value() == "hunter2"
    assert (forward.name, forward.endpoint) == ("forward", "/spaces/research/dicom-web")
    assert (forward.selector, forward.concurrency) == ("hospital.*", 8)
    assert isinstance(fhir, FhirPlan)
    assert (fhir.endpoint, fhir.imaging_study_endpoint) == ("https://fhir.example/r4", None)
    assert (fhir.token, fhir.username, fhir.concurrency) == (None, "me", 2)
    assert (fhir.time_zone, fhir.patient_id_system) == ("Europe/Berlin", "urn:x")
    assert fhir.selector is None
    assert "hunter2" not in repr(found)
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize("key", ["IMAGINGSTUDY_ENDPOINT", "IMAGING_STUDY_ENDPOINT"])
def test_both_spellings_of_the_imaging_study_endpoint_are_read(key):
    (fhir,) = core_of(
        core(),
        service("any"),
        binding("DicomStudyBinding", "fhir", bindingConfigName="f"),
        config_map("f", **{key: "http://fhir.example/ImagingStudy"}),
    ).bindings
    assert isinstance(fhir, FhirPlan)
    assert fhir.imaging_study_endpoint == "http://fhir.example/ImagingStudy"
    assert fhir.endpoint is None


def test_the_values_of_a_secret_are_base64_and_may_be_broken_into_lines():
    encoded = base64.b64encode(b"a secret of some length, \xc3\xa9").decode()
    (forward,) = core_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f", bindingSecretName="f"),
        config_map("f", STOW_ENDPOINT="http://h/", STOW_AUTH_TOKEN="the secret counts"),
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: f}}\ndata:\n  STOW_AUTH_TOKEN: |\n"
        f"    {encoded[:10]}\n    {encoded[10:]}\n",
    ).bindings
    assert isinstance(forward, StowPlan)
    assert forward.token is not None
    assert forward.token.get_secret_value() == "a secret of some length, é"


def test_a_secret_that_is_no_base64_is_told_without_its_value():
    (problem,) = problems_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f", bindingSecretName="f"),
        config_map("f", STOW_ENDPOINT="http://h/"),
        secret("f", "data", STOW_AUTH_TOKEN="hunter2!"),
    )
    assert problem == (
        "site.yaml, document 5 (Secret f): data.STOW_AUTH_TOKEN: base64 was expected "
        "(stringData takes plain text)"
    )


def test_a_value_of_a_secret_that_is_no_text_matters_only_if_it_is_ours():
    binary = base64.b64encode(b"\xff\xfe").decode()
    documents = [
        core(),
        service("any"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f", bindingSecretName="f"),
        config_map("f", STOW_ENDPOINT="http://h/"),
    ]
    assert len(core_of(*documents, secret("f", "data", keystore=binary)).bindings) == 1
    (problem,) = problems_of(*documents, secret("f", "data", STOW_AUTH_TOKEN=binary))
    assert problem.endswith("data.STOW_AUTH_TOKEN: base64 of a text was expected")


def test_what_is_named_and_not_there_is_told_with_the_field():
    assert problems_of(
        core(databaseConfigName="db", databaseSecretName="db"),
        service("lost", of="nowhere"),
        service("any", bucketConfigName="bucket", bucketSecretName="bucket"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f", bindingSecretName="f"),
        binding("DicomStudyBinding", "g", of="nowhere", bindingConfigName="g"),
    ) == (
        "site.yaml, document 2 (DicomwebIngestionService lost): spec.dicomEventDrivenIngestionName:"
        " there is no DicomEventDrivenIngestion named nowhere",
        "site.yaml, document 3 (DicomwebIngestionService any): spec.bucketConfigName: there is no "
        "ConfigMap named bucket",
        "site.yaml, document 3 (DicomwebIngestionService any): spec.bucketSecretName: there is no "
        "Secret named bucket",
        "site.yaml, document 4 (DicomInstanceBinding f): spec.bindingConfigName: there is no "
        "ConfigMap named f",
        "site.yaml, document 4 (DicomInstanceBinding f): spec.bindingSecretName: there is no "
        "Secret named f",
        "site.yaml, document 5 (DicomStudyBinding g): spec.dicomEventDrivenIngestionName: there is "
        "no DicomEventDrivenIngestion named nowhere",
        "site.yaml, document 5 (DicomStudyBinding g): spec.bindingConfigName: there is no "
        "ConfigMap named g",
        "site.yaml, document 1 (DicomEventDrivenIngestion core): spec.databaseConfigName: there is "
        "no ConfigMap named db",
        "site.yaml, document 1 (DicomEventDrivenIngestion core): spec.databaseSecretName: there is "
        "no Secret named db",
    )


def test_a_c_store_binding_is_planned():
    found = core_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "pacs", bindingConfigName="f"),
        config_map(
            "f",
            DIMSE_TARGET_HOST="pacs.example",
            DIMSE_TARGET_PORT="11112",
            DIMSE_TARGET_AE="PACS",
            DIMSE_AE="US",
            DIMSE_TLS_ENABLED="true",
            DIMSE_TLS_KEYSTORE_PASSWORD="hunter2",
            SELECTOR="hospital.*",
        ),
    )
    (pacs,) = found.bindings
    assert isinstance(pacs, CStorePlan)
    assert (pacs.name, pacs.host, pacs.port) == ("pacs", "pacs.example", 11112)
    assert (pacs.ae_title, pacs.calling_ae_title) == ("PACS", "US")
    assert (pacs.selector, pacs.concurrency) == ("hospital.*", 8)
    assert {key: value.get_secret_value() for key, value in pacs.tls.items()} == {
        "DIMSE_TLS_ENABLED": "true",
        "DIMSE_TLS_KEYSTORE_PASSWORD": "hunter2",
    }
    assert "hunter2" not in repr(found)


def test_a_c_store_binding_needs_no_more_than_host_and_title():
    found = core_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "pacs", bindingConfigName="f"),
        config_map("f", DIMSE_TARGET_HOST="pacs.example", DIMSE_TARGET_AE="PACS"),
    )
    (pacs,) = found.bindings
    assert isinstance(pacs, CStorePlan)
    assert (pacs.port, pacs.calling_ae_title, pacs.tls) == (104, "INGESTION", {})


def test_an_empty_site_has_nothing_to_run():
    assert problems_of("") == ("the site has no DicomEventDrivenIngestion: one core is needed",)
    assert problems_of(core()) == (
        "the site has neither a DicomwebIngestionService nor a DimseIngestionService: one space is "
        "needed",
    )


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("DicomEventBridge", {"dicomEventDrivenIngestionName": "core"}),
    ],
)
def test_kinds_of_later_versions_are_read_but_not_run(kind, spec):
    assert problems_of(core(), service("any"), resource(kind, "x", **spec)) == (
        f"site.yaml, document 3 ({kind} x): {kind} is not run by this version; take it out of the "
        "site",
    )


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        (
            [binding("DicomInstanceBinding", "f")],
            "site.yaml, document 3 (DicomInstanceBinding f): spec.bindingConfigName: a ConfigMap "
            "with STOW_ENDPOINT or DIMSE_TARGET_HOST was expected",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map("f", SELECTOR="x"),
            ],
            "site.yaml, document 3 (DicomInstanceBinding f): spec.bindingConfigName: a ConfigMap f "
            "with STOW_ENDPOINT or DIMSE_TARGET_HOST was expected",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map("f", DIMSE_TARGET_HOST="x"),
            ],
            "site.yaml, document 3 (DicomInstanceBinding f): DIMSE_TARGET_AE: an AE title was "
            "expected",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map("f", DIMSE_TARGET_HOST="x", DIMSE_TARGET_AE="SEVENTEEN-LETTERS"),
            ],
            "site.yaml, document 4 (ConfigMap f): data.DIMSE_TARGET_AE: an AE title has 1 to 16 "
            "characters of ASCII, without backslash or spaces at its ends",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map(
                    "f", DIMSE_TARGET_HOST="x", DIMSE_TARGET_AE="PACS", DIMSE_TARGET_PORT="70000"
                ),
            ],
            "site.yaml, document 4 (ConfigMap f): data.DIMSE_TARGET_PORT: a number from 1 to 65535 "
            "was expected",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map(
                    "f", DIMSE_TARGET_HOST="x", DIMSE_TARGET_AE="PACS", STOW_ENDPOINT="http://h/"
                ),
            ],
            "site.yaml, document 4 (ConfigMap f): data.DIMSE_TARGET_HOST: STOW_ENDPOINT is there, "
            "too; a binding has one target",
        ),
        (
            [
                binding("DicomStudyBinding", "f", bindingConfigName="f"),
                config_map("f", FHIR_ENDPOINT=""),
            ],
            "site.yaml, document 3 (DicomStudyBinding f): spec.bindingConfigName: a ConfigMap f "
            "with FHIR_ENDPOINT or IMAGINGSTUDY_ENDPOINT or IMAGING_STUDY_ENDPOINT was expected",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map("f", STOW_ENDPIONT="http://h/"),
            ],
            "site.yaml, document 4 (ConfigMap f): data.STOW_ENDPIONT: the key is not known; did "
            "you mean STOW_ENDPOINT?",
        ),
        (
            [
                binding("DicomInstanceBinding", "f", bindingConfigName="f"),
                config_map("f", STOW_ENDPOINT="http://h/", selector="x"),
            ],
            "site.yaml, document 4 (ConfigMap f): data.selector: the key is not known; did you "
            "mean SELECTOR?",
        ),
        (
            [service("other", providerName="other")],
            "site.yaml, document 3 (DicomwebIngestionService other): another service declares the "
            "space default differently",
        ),
        (
            [core("second"), service("second", of="second")],
            "the space default belongs to two cores: core and second",
        ),
        (
            [
                service("other", bucketConfigName="x"),
                config_map("x", LOCAL_STORAGE_PATH="spaces/../spaces/default/"),
            ],
            "the spaces default and x share the folder spaces/default: each needs a "
            "LOCAL_STORAGE_PATH of its own",
        ),
        (
            [service("other", bucketConfigName="x"), config_map("x", LOCAL_STORAGE_PATH="spaces")],
            "the spaces default and x share the folder spaces: each needs a LOCAL_STORAGE_PATH of "
            "its own",
        ),
        (
            [
                core("second", databaseConfigName="db"),
                config_map("db", DB_KIND="sqlite", DB_NAME="./core.db"),
            ],
            "site.yaml, document 3 (DicomEventDrivenIngestion second): the core core uses the same "
            "database",
        ),
        (
            [
                binding("DicomInstanceBinding", "twice", bindingConfigName="f"),
                config_map("f", STOW_ENDPOINT="http://h/", FHIR_ENDPOINT="http://h/"),
                binding("DicomStudyBinding", "twice", bindingConfigName="f"),
            ],
            "site.yaml, document 5 (DicomStudyBinding twice): a binding named twice is declared in "
            "site.yaml, document 3 (DicomInstanceBinding twice) already; the delivery ledger goes "
            "by the name",
        ),
        (
            [core("second", databaseConfigName="db"), config_map("db", DB_KIND="oracle")],
            "site.yaml, document 4 (ConfigMap db): data.DB_KIND: sqlite or postgresql was expected",
        ),
    ],
)
def test_what_cannot_be_run_is_told(documents, problem):
    assert problems_of(core(), service("any"), *documents) == (problem,)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "²", "٣", "9" * 5000, "1.0"])
def test_a_number_that_is_none_is_told_with_its_key(port):
    (problem,) = problems_of(
        core(databaseConfigName="db"), config_map("db", DB_PORT=port), service("any")
    )
    assert problem == (
        "site.yaml, document 2 (ConfigMap db): data.DB_PORT: a number from 1 to 65535 was expected"
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://h/",
        "h:80/x",
        "http://",
        "http:///x",
        "http://h:x/",
        "http://h:0/",
        "http://h:70000/",
        "http://[::1/",
        "http://a b/",
        "/with space",
        "http://h/\\x00",
        "dicom-web",
        "http:h",
    ],
)
def test_an_endpoint_that_is_none_is_told_without_its_value(endpoint):
    problems = problems_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\n"
        f'data: {{STOW_ENDPOINT: "{endpoint}"}}\n',
    )
    assert problems == (
        "site.yaml, document 4 (ConfigMap f): data.STOW_ENDPOINT: http://HOST…, https://HOST… or "
        "/PATH was expected",
    )


@pytest.mark.parametrize(
    "endpoint", ["http://h", "https://h:1/x?y=z", "http://[::1]:8080/", "/spaces/x/dicom-web"]
)
def test_urls_and_paths_on_this_server_are_endpoints(endpoint):
    (forward,) = core_of(
        core(),
        service("any"),
        binding("DicomInstanceBinding", "f", bindingConfigName="f"),
        config_map("f", STOW_ENDPOINT=f"  {endpoint} "),
    ).bindings
    assert isinstance(forward, StowPlan)
    assert forward.endpoint == endpoint


def test_the_public_root_of_a_space_must_be_a_whole_url():
    (problem,) = problems_of(
        core(),
        service("any", bucketConfigName="x"),
        config_map("x", WADO_EXTERNAL_ENDPOINT="/dicom-web"),
    )
    assert problem.endswith(
        "data.WADO_EXTERNAL_ENDPOINT: http://HOST… or https://HOST… was expected"
    )


@pytest.mark.parametrize(
    ("name", "file"), [("x/manifest.db", "x/manifest.db"), ("/srv/m.db", "/srv/m.db")]
)
def test_a_sqlite_file_may_be_named(name, file):
    found = core_of(
        core(databaseConfigName="db"),
        config_map("db", DB_KIND="SQLite", DB_NAME=name),
        service("any"),
    )
    assert found.database == DatabasePlan(file=Path(file))


def test_a_database_server_has_limits_and_tls():
    found = core_of(
        core(databaseConfigName="db"),
        config_map(
            "db",
            DB_HOST="db.example",
            DATASOURCE_MAX_SIZE="4",
            DB_STATEMENT_TIMEOUT="60",
            DB_CONNECT_TIMEOUT="2",
            DB_POOL_TIMEOUT="3",
            DB_SSLMODE="Verify-Full",
            DB_SSLROOTCERT="/etc/db-ca.pem",
        ),
        service("any"),
    )
    assert found.database == DatabasePlan(
        url=URL.create("postgresql", host="db.example", port=5432, database="postgres"),
        max_size=4,
        statement_timeout=timedelta(seconds=60),
        connect_timeout=timedelta(seconds=2),
        pool_timeout=timedelta(seconds=3),
        tls="verify-full",
        tls_ca=Path("/etc/db-ca.pem"),
    )


def test_keys_of_other_programs_may_stand_in_a_config_map():
    found = core_of(
        core(databaseConfigName="db"),
        config_map("db", DB_KIND="sqlite", JAVA_OPTS="-Xmx1g", LOG_LEVEL="info"),
        service("any"),
    )
    assert found.database == DatabasePlan(file=Path("core.db"))


def test_several_services_may_serve_one_space_if_they_agree():
    found = core_of(core(), service("stow"), service("wado"))
    assert [space.name for space in found.spaces] == ["default"]


def test_the_first_core_with_a_space_comes_first():
    found = plan(core("empty"), core("full"), service("any", of="full"))
    assert [one.name for one in found.cores] == ["full", "empty"]


def test_a_space_in_a_bucket_keeps_here_only_what_is_on_its_way():
    found = core_of(
        core(),
        service("any", bucketConfigName="ct", bucketSecretName="ct"),
        config_map("ct", BUCKET_NAME="images", BUCKET_HOST="store.example", PROVIDER="x"),
        secret("ct", AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="hidden"),
    )
    (space,) = found.spaces
    assert space.directory == Path("scratch/ct")
    assert {key: value.get_secret_value() for key, value in space.bucket.items()} == {
        "BUCKET_NAME": "images",
        "BUCKET_HOST": "store.example",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
    }
    assert "hidden" not in repr(space)


def test_a_folder_goes_before_a_bucket():
    (space,) = core_of(
        core(),
        service("any", bucketConfigName="ct"),
        config_map("ct", BUCKET_NAME="images", LOCAL_STORAGE_PATH="here"),
    ).spaces
    assert (space.directory, space.bucket) == (Path("here"), {})
