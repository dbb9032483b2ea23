"""Site files: what is read, and how mistakes are told."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ingestion.resources.models import (
    ConfigMap,
    DicomEventDrivenIngestion,
    DicomwebIngestionService,
    DimseProxy,
    Secret,
)
from imaging_ingestion.resources.site_file import (
    MAX_BYTES,
    Declared,
    Site,
    SiteError,
    read_documents,
    read_site,
)

API = "imaging-ingestion.alvearie.org/v1alpha1"
CORE = f"apiVersion: {API}\nkind: DicomEventDrivenIngestion\nmetadata:\n  name: core\n"


def read(text: str) -> Site:
    problems: list[str] = []
    declared = tuple(read_documents(text, "site.yaml", problems))
    assert problems == []
    return Site(declared)


def problems_of(text: str) -> list[str]:
    problems: list[str] = []
    for _ in read_documents(text, "site.yaml", problems):
        pass
    return problems


def the_problem(text: str) -> str:
    (problem,) = problems_of(text)
    return problem


def core(spec: str) -> str:
    return f"{CORE}spec:\n{spec}"


def test_a_core_without_spec_has_safe_defaults():
    ((found, _),) = read(CORE).of(DicomEventDrivenIngestion)
    assert found.spec.revisioningDelay == timedelta(seconds=30)
    assert found.spec.databaseConfigName is None
    assert found.spec.eventProcessor.concurrency == 0


@pytest.mark.parametrize(("delay", "seconds"), [("0", 0), ("90", 90), ("0.5", 0.5)])
def test_the_revisioning_delay_is_in_seconds(delay, seconds):
    ((found, _),) = read(core(f"  revisioningDelay: {delay}")).of(DicomEventDrivenIngestion)
    assert found.spec.revisioningDelay == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "delay", ["-1", "31622401", ".nan", ".inf", "1e300", '"30"', "30s", "true", "[1]"]
)
def test_a_revisioning_delay_that_is_none_is_refused(delay):
    problem = the_problem(core(f"  revisioningDelay: {delay}"))
    assert problem.startswith(
        "site.yaml, document 1 (DicomEventDrivenIngestion core), line 6: spec.revisioningDelay: "
        "a number of seconds from 0 to 31622400 was expected; found "
    )


def test_null_says_nothing_as_it_does_to_kubernetes():
    ((found, _),) = read(core("  revisioningDelay:\n  eventProcessor:\n")).of(
        DicomEventDrivenIngestion
    )
    assert found.spec.revisioningDelay == timedelta(seconds=30)


def test_an_empty_reference_is_one_that_was_not_given():
    ((found, _),) = read(core('  databaseSecretName: ""')).of(DicomEventDrivenIngestion)
    assert found.spec.databaseSecretName is None


def test_what_kubernetes_adds_to_an_object_is_accepted():
    text = f"""
apiVersion: {API}
kind: DimseProxy
metadata:
  name: proxy
  namespace: imaging
  creationTimestamp: 2024-01-01T00:00:00Z
  generation: 3
  labels: {{app: x}}
  annotations: {{kubectl.kubernetes.io/last-applied-configuration: "…"}}
spec:
  imagePullSecrets: [{{name: pull}}]
status:
  phase: Reconciling
  ready: true
  secondaryResources: {{Deployment: [a, b]}}
"""
    ((found, _),) = read(text).of(DimseProxy)
    assert found.metadata.namespace == "imaging"


def test_every_mistake_of_a_document_is_told_with_line_field_and_expectation():
    text = core(
        "  revisioningDelay: soon\n"
        "  eventProcesor: {}\n"
        "  eventProcessor:\n"
        '    concurrency: "3"\n'
        "    minReplicas: -1\n"
        "    image: yes\n"
        "  imagePullPolicy: always\n"
        "  imagePullSecrets: [pull, {nam: x}]\n"
        "  databaseConfigName: Db_Config\n"
    )
    place = "site.yaml, document 1 (DicomEventDrivenIngestion core)"
    assert problems_of(text) == [
        f"{place}, line 6: spec.revisioningDelay: a number of seconds from 0 to 31622400 was "
        "expected; found soon",
        f"{place}, line 7: spec.eventProcesor: unknown field; did you mean eventProcessor?",
        f'{place}, line 9: spec.eventProcessor.concurrency: a whole number was expected; found "3"',
        f"{place}, line 10: spec.eventProcessor.minReplicas: 0 or more was expected; found -1",
        f"{place}, line 11: spec.eventProcessor.image: text was expected, as Kubernetes demands: "
        "numbers, and words like yes and no, need quotation marks; found yes",
        f"{place}, line 12: spec.imagePullPolicy: 'Always', 'IfNotPresent' or 'Never' was "
        "expected; found always",
        f"{place}, line 13: spec.imagePullSecrets[0]: a mapping was expected; found pull",
        f"{place}, line 13: spec.imagePullSecrets[1].nam: unknown field",
        f"{place}, line 14: spec.databaseConfigName: a name of lower-case letters, digits, '-' and "
        "'.' was expected; found Db_Config",
    ]


def test_mistakes_of_every_document_and_every_file_are_told_together(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("kind: DicomStudyBindin\n---\n[]\n")
    (tmp_path / "b.yaml").write_text(f"{CORE}---\n{CORE}---\nkind: Secret\nkind: Secret\n")
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\n")
    (tmp_path / "d.yaml").write_text("#" * (MAX_BYTES + 1))
    files = [tmp_path / f"{name}.yaml" for name in "abcde"]
    with pytest.raises(SiteError) as caught:
        read_site(files)
    a, b, c, d, e = files
    assert list(caught.value.problems) == [
        f"{a}, document 1, line 1: kind: 'DicomStudyBindin' is not known; did you mean "
        "DicomStudyBinding?",
        f"{a}, document 2, line 3: a resource was expected: a mapping with apiVersion, kind, "
        "metadata",
        f"{b}, document 2 (DicomEventDrivenIngestion core): declared already in {b}, document 1 "
        "(DicomEventDrivenIngestion core)",
        f"{b}, document 3, line 12, column 1: the key 'kind' stands there twice",
        f"{c}: cannot be read: not UTF-8 (byte 4)",
        f"{d}: cannot be read: larger than 1 MiB",
        f"{e}: cannot be read: No such file or directory",
    ]


def test_a_problem_is_one_line_whatever_stands_in_the_file():
    text = (
        f'apiVersion: {API}\nkind: DimseProxy\nmetadata: {{name: "a\\nb"}}\nspec: {{"x\\ny": 1}}\n'
    )
    name, field = problems_of(text)
    assert name.startswith("site.yaml, document 1 (DimseProxy a\\nb), line 3: metadata.name: ")
    assert name.endswith('; found "a\\nb"')
    assert "line 4: spec.x\\ny: unknown field" in field


def test_a_missing_field_is_named():
    text = f"apiVersion: {API}\nkind: DicomwebIngestionService\nmetadata: {{}}\nspec: {{}}\n"
    assert problems_of(text) == [
        "site.yaml, document 1 (DicomwebIngestionService without a name), line 3: metadata.name: "
        "is missing",
        "site.yaml, document 1 (DicomwebIngestionService without a name), line 4: "
        "spec.dicomEventDrivenIngestionName: is missing",
    ]


def test_a_resource_without_kind_is_told_what_there_is():
    assert "kind: is missing; expected one of: ConfigMap, " in the_problem("metadata: {name: x}")


def test_another_api_version_is_refused():
    problem = the_problem(CORE.replace("v1alpha1", "v2"))
    assert "apiVersion: 'imaging-ingestion.alvearie.org/v1alpha1' was expected" in problem


@pytest.mark.parametrize(
    ("title", "fine"),
    [("DICOM-INGEST", True), ("A B", True), ("X" * 16, True)]
    + [(wrong, False) for wrong in ("X" * 17, "a\\\\b", "Ä", " A", "A ")],
)
def test_application_entity_titles_are_checked(title, fine):
    text = f"""
apiVersion: {API}
kind: DimseProxy
metadata: {{name: proxy}}
spec: {{applicationEntityTitle: "{title}"}}
"""
    assert (problems_of(text) == []) is fine


@pytest.mark.parametrize("port", ["0", "65536", '"104"', "1.5", "true"])
def test_a_port_that_is_none_is_refused(port):
    text = f"""
apiVersion: {API}
kind: DimseProxy
metadata: {{name: proxy}}
spec: {{targetDimsePort: {port}}}
"""
    assert "spec.targetDimsePort: " in the_problem(text)


def config_map(data: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata:\n{data}"


def test_config_maps_take_text():
    ((found, _),) = read(config_map('  DB_PORT: "5432"\n  DATE: 2024-01-01\n')).of(ConfigMap)
    assert found.data == {"DB_PORT": "5432", "DATE": "2024-01-01"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("5432", "5432"),
        ("yes", "yes"),
        ("1.5", "1.5"),
        ("12:30", "12:30"),
        ("", "nothing"),
        ("{a: b}", "a mapping"),
        ("[a]", "a list"),
    ],
)
def test_config_maps_refuse_what_kubernetes_refuses_and_say_so(value, found):
    problem = the_problem(config_map(f"  KEY: {value}\n"))
    assert problem == (
        "site.yaml, document 1 (ConfigMap settings), line 5: data.KEY: text was expected, as "
        "Kubernetes demands: numbers, and words like yes and no, need quotation marks; found "
        + found
    )


def test_a_key_that_is_no_text_is_refused():
    assert "data[8080]: a key must be text" in the_problem(config_map("  8080: x\n"))


def test_values_of_secrets_are_never_told():
    hidden = "hunter2hunter2"
    encoded = base64.b64encode(hidden.encode()).decode()
    for data in (
        f"data: {{A: 1, B: {{{hidden}: x}}, C: [{hidden}]}}",
        f"stringData: [{hidden}]",
        f"stringData: {{A: {{x: {hidden}}}}}\ndata: {{B: [{encoded}]}}",
        f'data: "{hidden}"',
    ):
        text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n"
        problems = problems_of(text)
        assert problems
        told = "\n".join(problems)
        assert "hunter2" not in told.replace(f"B.{hidden}", "")
        assert encoded not in told


def test_a_secret_does_not_show_its_values():
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {A: hunter2}\n"
    site = read(text)
    ((found, _),) = site.of(Secret)
    assert found.stringData == {"A": "hunter2"}
    assert "hunter2" not in repr(site)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    file = tmp_path / "site.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + CORE.encode())
    assert len(read_site([file]).declared) == 1


def test_resources_are_found_by_kind_and_name():
    site = read(f"{CORE}---\n{config_map('  A: b')}")
    found = site.find(ConfigMap, "settings")
    assert found is not None
    assert found[1] == "site.yaml, document 2 (ConfigMap settings)"
    assert site.find(ConfigMap, "core") is None
    assert site.find(DicomwebIngestionService, "core") is None


# What read_documents may do with any text: give resources, or tell problems.

_KEYS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "data",
        "stringData",
        "status",
        "eventProcessor",
        "concurrency",
        "revisioningDelay",
        "imagePullSecrets",
        "dicomEventDrivenIngestionName",
        "bucketConfigName",
        "destinations",
        "callingApplicationEntityTitles",
    ]
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([API, "v1", "Secret", "ConfigMap", "DicomEventDrivenIngestion", "core"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(_KEYS, _KEYS, _SCALARS), inner, max_size=6),
    ),
    max_leaves=20,
)


def check(text: str) -> None:
    problems: list[str] = []
    for declared in read_documents(text, "site.yaml", problems):
        assert isinstance(declared, Declared)
    assert all(problem.startswith("site.yaml, document ") for problem in problems)
    assert all("\n" not in problem for problem in problems)


@given(st.text(alphabet=st.sampled_from("abk:-?[]{},&*!|>'\"%#@` \n\t\\<=~019.\u0085\ufeffé")))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text):
    check(text)


@given(st.text())
@settings(deadline=None)
def test_any_characters_are_read_or_refused(text):
    check(text)


@given(_VALUES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_value_is_read_or_refused(value, flow):
    import yaml

    check(yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True))


@given(
    st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from([API, "v1"]),
            "kind": st.sampled_from(
                [
                    "DicomEventDrivenIngestion",
                    "DicomwebIngestionService",
                    "DimseIngestionService",
                    "DimseProxy",
                    "DicomEventBridge",
                    "ConfigMap",
                    "Secret",
                ]
            ),
            "metadata": st.one_of(_VALUES, st.just({"name": "x"})),
        },
        optional={"spec": _VALUES, "data": _VALUES, "stringData": _VALUES, "status": _VALUES},
    )
)
@settings(max_examples=300, deadline=None)
def test_any_resource_is_read_or_refused(value):
    import yaml

    check(yaml.safe_dump(value))
