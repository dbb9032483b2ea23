"""DimseIngestionServices: what is planned of them, and what stands in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from site_documents import API, config_map, core, core_of, dimse, plan, problems_of, secret, service

from imaging_ingestion.resources.plan import (
    DestinationPlan,
    DimsePlan,
    IdentityPlan,
    SitePlan,
    SpacePlan,
)
from imaging_ingestion.resources.planner import built_in_plan, with_dimse_port
from imaging_ingestion.resources.site_file import SiteError, read_documents

TESTS = Path(__file__).resolve().parents[2]
PLACE = "site.yaml, document 2 (DimseIngestionService scanners)"


def only(*documents: str) -> DimsePlan:
    (found,) = core_of(core(), *documents).dimse
    return found


def file_problems(*documents: str) -> list[str]:
    """What is wrong with documents by themselves."""
    problems: list[str] = []
    for _ in read_documents("---\n".join(documents), "site.yaml", problems):
        pass
    return problems


def test_a_service_needs_no_more_than_its_core():
    assert only(dimse("scanners")) == DimsePlan("scanners", "default")
    found = only(dimse("scanners"))
    assert (found.ae_title, found.port, found.provider) == ("INGESTION", 11112, "default")
    assert (found.calling_ae_titles, found.identities, found.destinations) == (None, None, ())


def test_a_whole_service_is_planned():
    destinations = (
        "[{applicationEntityTitle: VIEWER, host: viewer.example},"
        " {applicationEntityTitle: PACS, host: '::1', port: 2762, tls: true}]"
    )
    found = only(
        dimse(
            "scanners",
            bucketConfigName="clinical",
            providerName="radiology",
            applicationEntityTitle="RADIOLOGY",
            port=11113,
            callingApplicationEntityTitles="[CT1, MR 1]",
            destinations=destinations,
            dimseConfigName="dimse",
            dimseSecretName="dimse",
        ),
        config_map("clinical"),
        config_map(
            "dimse",
            DIMSE_CONFIG_PATH="/etc/dimse",
            DIMSE_TLS_ENABLED="true",
            DIMSE_USERNAMES="alice, carol",
            DIMSE_JWT_ISSUER="https://issuer.example",
            DIMSE_JWT_AUDIENCE="imaging",
            DIMSE_JWT_ALGORITHMS="EdDSA",
        ),
        secret("dimse", DIMSE_TLS_KEYSTORE_PASSWORD="hunter2", DIMSE_JWT_KEY="hunter2")
        + "  DIMSE_PASSCODES: |\n    bob:hunter2:3\n\n     dave:scrypt$x \n",
    )
    assert (found.name, found.space, found.provider) == ("scanners", "clinical", "radiology")
    assert (found.ae_title, found.port) == ("RADIOLOGY", 11113)
    assert found.calling_ae_titles == frozenset({"CT1", "MR 1"})
    assert found.destinations == (
        DestinationPlan("VIEWER", "viewer.example", 104),
        DestinationPlan("PACS", "::1", 2762, tls=True),
    )
    assert found.config_path == Path("/etc/dimse")
    assert sorted(found.tls) == ["DIMSE_TLS_ENABLED", "DIMSE_TLS_KEYSTORE_PASSWORD"]
    identities = found.identities
    assert identities is not None
    assert identities.usernames == ("alice", "carol")
    assert {name: one.get_secret_value() for name, one in identities.passcodes.items()} == {
        "bob": "hunter2:3",
        "dave": "scrypt$x",
    }
    assert identities.token_key is not None
    assert (identities.token_issuer, identities.token_audience) == (
        "https://issuer.example",
        "imaging",
    )
    assert identities.token_algorithms == ("EdDSA",)
    assert identities.required
    assert "hunter2" not in repr(found)


def test_title_and_port_may_be_keys_and_the_fields_go_before_them():
    keys = config_map("d", DIMSE_AE="KEY", DIMSE_PORT="0")
    found = only(dimse("scanners", dimseConfigName="d"), keys)
    assert (found.ae_title, found.port) == ("KEY", 0)
    fields = {"applicationEntityTitle": "INGESTION", "port": 104}
    found = only(dimse("scanners", dimseConfigName="d", **fields), keys)
    assert (found.ae_title, found.port) == ("INGESTION", 104)


def test_identities_are_required_once_there_are_any_unless_the_site_says_otherwise():
    keys = {"DIMSE_USERNAMES": "alice"}
    found = only(dimse("s", dimseConfigName="d"), config_map("d", **keys))
    assert found.identities == IdentityPlan(usernames=("alice",), required=True)
    keys["DIMSE_IDENTITY_REQUIRED"] = "False"
    found = only(dimse("s", dimseConfigName="d"), config_map("d", **keys))
    assert found.identities == IdentityPlan(usernames=("alice",), required=False)


# ---- spaces


def test_it_shares_the_space_of_the_dicomweb_service_with_the_same_bucket():
    found = core_of(
        core(),
        dimse("scanners", bucketConfigName="clinical", providerName="scanners"),
        service("web", bucketConfigName="clinical", providerName="web", conflictPolicy="keep"),
        config_map("clinical", LOCAL_STORAGE_PATH="/srv/clinical"),
    )
    assert found.spaces == (SpacePlan("clinical", Path("/srv/clinical"), "web", "keep"),)
    assert [(one.space, one.provider) for one in found.dimse] == [("clinical", "scanners")]


def test_a_space_may_have_a_dimse_service_only():
    found = core_of(core(), dimse("scanners", providerName="radiology"))
    assert found.spaces == (SpacePlan("default", Path("spaces/default"), "radiology"),)


def test_the_first_dicomweb_service_has_the_default_space_whatever_stands_before_it():
    found = core_of(
        core(),
        dimse("scanners", bucketConfigName="scans"),
        config_map("scans"),
        service("web"),
    )
    assert [space.name for space in found.spaces] == ["default", "scans"]


def test_a_space_that_two_services_would_keep_in_two_places_is_told():
    assert problems_of(
        core(),
        dimse("scanners", bucketSecretName="s"),
        secret("s", LOCAL_STORAGE_PATH="/srv/other"),
        service("web"),
    ) == (f"{PLACE}: another service declares the space default differently",)


def test_a_space_of_another_core_is_told():
    assert problems_of(core(), service("web"), core("second"), dimse("lost", of="second")) == (
        "the space default belongs to two cores: core and second",
    )


def test_what_is_wrong_with_a_shared_space_is_told_once():
    shared = {"bucketConfigName": "none"}
    problems = problems_of(core(), service("web", **shared), dimse("scanners", **shared))
    assert problems == (
        "site.yaml, document 2 (DicomwebIngestionService web): spec.bucketConfigName: there is no "
        "ConfigMap named none",
        f"{PLACE.replace('document 2', 'document 3')}: spec.bucketConfigName: there is no "
        "ConfigMap named none",
    )


# ---- mistakes


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        (
            [dimse("scanners", of="nowhere")],
            f"{PLACE}: spec.dicomEventDrivenIngestionName: there is no DicomEventDrivenIngestion "
            "named nowhere",
        ),
        (
            [dimse("scanners", dimseConfigName="d")],
            f"{PLACE}: spec.dimseConfigName: there is no ConfigMap named d",
        ),
        (
            [dimse("scanners", dimseSecretName="d")],
            f"{PLACE}: spec.dimseSecretName: there is no Secret named d",
        ),
        (
            [dimse("scanners", bucketConfigName="d")],
            f"{PLACE}: spec.bucketConfigName: there is no ConfigMap named d",
        ),
        (
            [dimse("scanners"), dimse("others")],
            f"site.yaml, document 3 (DimseIngestionService others): {PLACE} listens on port 11112, "
            "too; each needs a spec.port of its own",
        ),
        (
            [
                dimse(
                    "scanners",
                    destinations="[{applicationEntityTitle: A, host: x},"
                    " {applicationEntityTitle: a, host: y}]",
                )
            ],
            f"{PLACE}: spec.destinations[1].applicationEntityTitle: a stands there twice (titles "
            "are compared without regard to case)",
        ),
        (
            [
                dimse("scanners", destinations="[{applicationEntityTitle: A, host: x}]"),
                dimse("b", port=1, destinations="[{applicationEntityTitle: A, host: y}]"),
            ],
            f"site.yaml, document 3 (DimseIngestionService b): spec.destinations: {PLACE} has A "
            "elsewhere; a title means one address for all services of the space default",
        ),
        (
            [dimse("scanners", natsSubjectRoot="X", natsTokenSecret="t")],
            f"{PLACE}: spec.natsTokenSecret: there is no Secret named t",
        ),
        (
            [dimse("scanners", natsSubjectRoot="X", natsTokenSecret="t"), secret("t", other="x")],
            f"{PLACE}: spec.natsTokenSecret: t has no key named token",
        ),
    ],
)
def test_what_cannot_be_run_is_told(documents, problem):
    assert problems_of(core(), *documents) == (problem,)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"DIMSE_PORT": "65536"}, "data.DIMSE_PORT: a number from 0 to 65535 was expected"),
        ({"DIMSE_PORT": "dicom"}, "data.DIMSE_PORT: a number from 0 to 65535 was expected"),
        (
            {"DIMSE_AE": "SEVENTEEN-LETTERS"},
            "data.DIMSE_AE: an AE title has 1 to 16 characters of ASCII, without backslash or "
            "spaces at its ends",
        ),
        (
            {"DIMSE_USERNAMES": "alice", "DIMSE_IDENTITY_REQUIRED": "yes"},
            "data.DIMSE_IDENTITY_REQUIRED: true or false was expected",
        ),
        (
            {"DIMSE_IDENTITY_REQUIRED": "true"},
            "data.DIMSE_IDENTITY_REQUIRED: DIMSE_USERNAMES, DIMSE_PASSCODES or DIMSE_JWT_KEY was "
            "expected beside it: nobody could call otherwise",
        ),
        ({"DIMSE_JWT_ISSUER": "x"}, "data.DIMSE_JWT_ISSUER: DIMSE_JWT_KEY was expected beside it"),
        ({"DIMSE_PASSCODE": "x"}, "data.DIMSE_PASSCODE: the key is not known; did you mean "),
        ({"DIMSE_CONFIG_PAHT": "x"}, "data.DIMSE_CONFIG_PAHT: the key is not known; did you mean "),
    ],
)
def test_a_key_that_cannot_be_used_is_told(keys, problem):
    (told,) = problems_of(core(), dimse("scanners", dimseConfigName="d"), config_map("d", **keys))
    assert told.startswith(f"site.yaml, document 3 (ConfigMap d): {problem}")


@pytest.mark.parametrize(
    ("passcodes", "problem"),
    [
        ("bob", "line 1: NAME:PASSCODE was expected"),
        ("bob:x\n:hunter2", "line 2: NAME:PASSCODE was expected"),
        ("hunter2:", "line 1: NAME:PASSCODE was expected"),
        ("bob:x\nbob:hunter2", "line 2: the name stands there twice"),
    ],
)
def test_a_passcode_that_is_none_is_told_without_its_value(passcodes, problem):
    (told,) = problems_of(
        core(),
        dimse("scanners", dimseSecretName="d"),
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: d}}\nstringData:\n"
        f"  DIMSE_PASSCODES: {passcodes!r}\n".replace("'", '"'),
    )
    assert told == (f"site.yaml, document 3 (Secret d): stringData.DIMSE_PASSCODES, {problem}")


def test_several_mistakes_are_told_together():
    assert (
        len(
            problems_of(
                core(),
                dimse("a", dimseConfigName="d", natsUrl="x", natsTokenSecret="t", port=11112),
                config_map("e"),
                dimse("b", dimseConfigName="e", bucketSecretName="none"),
                dimse("c", of="nowhere", port=1),
            )
        )
        == 5
    )


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"applicationEntityTitle": "SEVENTEEN-LETTERS"},
            "spec.applicationEntityTitle: an AE title was expected: 1 to 16 ASCII characters, no "
            "backslash; found SEVENTEEN-LETTERS",
        ),
        ({"port": 65536}, "spec.port: 65535 or less was expected; found 65536"),
        ({"port": -1}, "spec.port: 0 or more was expected; found -1"),
        ({"port": "'104'"}, 'spec.port: a whole number was expected; found "104"'),
        (
            {"callingApplicationEntityTitles": "[]"},
            "spec.callingApplicationEntityTitles: at least one was expected; found a list",
        ),
        (
            {"callingApplicationEntityTitles": "[CT1, 'X\\\\Y']"},
            "spec.callingApplicationEntityTitles[1]: an AE title was expected: 1 to 16 ASCII "
            'characters, no backslash; found "X\\\\\\\\Y"',
        ),
        ({"destinations": "VIEWER"}, "spec.destinations: a list was expected; found VIEWER"),
        (
            {"destinations": "[{host: x}]"},
            "spec.destinations[0].applicationEntityTitle: is missing",
        ),
        (
            {"destinations": "[{applicationEntityTitle: A}]"},
            "spec.destinations[0].host: is missing",
        ),
        (
            {"destinations": "[{applicationEntityTitle: A, host: 'x:104'}]"},
            'spec.destinations[0].host: a host name or an address was expected; found "x:104"',
        ),
        (
            {"destinations": "[{applicationEntityTitle: A, host: 'http://x/'}]"},
            'spec.destinations[0].host: a host name or an address was expected; found "http://x/"',
        ),
        (
            {"destinations": "[{applicationEntityTitle: A, host: x, port: 0}]"},
            "spec.destinations[0].port: 1 or more was expected; found 0",
        ),
        (
            {"destinations": "[{applicationEntityTitle: A, hots: x, host: x}]"},
            "spec.destinations[0].hots: unknown field; did you mean host?",
        ),
    ],
)
def test_a_field_that_cannot_be_used_is_told(spec, problem):
    told = file_problems(dimse("scanners", **spec))
    assert [one.split(": ", 1)[1] for one in told] == [problem]


@pytest.mark.parametrize(
    "host", ["viewer.example", "10.0.0.7", "::1", "2001:db8::2:1", "fe80::1%eth0", "a_b-c"]
)
def test_hosts_are_names_and_addresses(host):
    found = only(dimse("s", destinations=f"[{{applicationEntityTitle: A, host: '{host}'}}]"))
    assert [one.host for one in found.destinations] == [host]


# ---- NATS, and upstream's resources


def test_upstreams_service_is_on_its_subject_and_on_tcp_with_a_port():
    upstream = (TESTS / "data" / "upstream" / "dimseingestionservice.yaml").read_text()
    others = (
        core(),
        config_map("imaging-ingestion"),
        secret("imaging-ingestion"),
        secret("ingestion-nats-secure-bound-token", token="t"),
    )
    (theirs,) = core_of(*others, upstream).dimse
    assert (theirs.ae_title, theirs.space) == ("DICOM-INGEST", "imaging-ingestion")
    assert theirs.port is None
    assert theirs.nats is not None
    said = {name: value.get_secret_value() for name, value in theirs.nats.items()}
    assert said["DIMSE_NATS_URL"] == "nats-secure.imaging-ingestion.svc.cluster.local:4222"
    assert said["DIMSE_NATS_TLS_ENABLED"] == "true"
    (ours,) = core_of(*others, upstream.rstrip() + "\n  port: 11112\n").dimse
    assert (ours.port, ours.nats) == (11112, theirs.nats)


def test_a_service_is_over_nats_if_it_has_a_server_or_a_root():
    assert only(dimse("s")).nats is None
    assert only(dimse("s", natsUrl="''")).nats is None
    rooted = only(dimse("s", natsSubjectRoot="WARD"))
    assert (rooted.port, rooted.nats is None) == (None, False)
    keyed = core_of(core(), dimse("s", dimseConfigName="d"), config_map("d", DIMSE_NATS_URL="x:1"))
    assert keyed.dimse[0].nats is not None
    both = core_of(
        core(),
        dimse("s", dimseConfigName="d", natsSubjectRoot="W"),
        config_map("d", DIMSE_PORT="11113"),
    )
    assert both.dimse[0].port == 11113


def test_a_destination_of_two_services_may_be_written_in_two_ways():
    one = "[{applicationEntityTitle: VIEWER, host: x}]"
    found = core_of(
        core(),
        dimse("a", destinations=one),
        dimse("b", port=1, destinations=one.replace("VIEWER", "Viewer")),
    )
    assert [len(service.destinations) for service in found.dimse] == [1, 1]


# ---- --dimse-port


def test_the_built_in_site_listens_where_it_is_told_to():
    (only_core,) = built_in_plan(104).cores
    assert [one.port for one in only_core.dimse] == [104]


def test_a_port_of_the_command_goes_before_the_one_services_own():
    found = with_dimse_port(plan(core(), service("web"), dimse("scanners", port=1)), 0)
    assert isinstance(found, SitePlan)
    assert [one.port for one in found.cores[0].dimse] == [0]


@pytest.mark.parametrize(
    ("services", "named"),
    [([], "none"), ([dimse("a"), dimse("b", port=1)], "a, b")],
)
def test_a_port_of_the_command_is_for_one_service(services, named):
    with pytest.raises(SiteError) as caught:
        with_dimse_port(plan(core(), service("web"), *services), 104)
    assert caught.value.problems == (
        f"--dimse-port is for a site with one DimseIngestionService; this one has {named}: "
        "spec.port says on which port a service listens",
    )


def test_several_free_ports_are_no_clash():
    found = core_of(core(), dimse("a", port=0), dimse("b", port=0))
    assert [one.port for one in found.dimse] == [0, 0]


def test_the_api_version_is_upstreams():
    assert dimse("x").startswith(f"apiVersion: {API}\n")
