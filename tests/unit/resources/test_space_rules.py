"""The rules of a space, told by any of its services."""

from __future__ import annotations

from datetime import timedelta

import pytest
from site_documents import core, core_of, dimse, problems_of, service

from imaging_ingestion.resources.plan import RetentionPlan
from imaging_ingestion.resources.site_file import read_documents


def test_a_rule_is_told_by_any_service_of_the_space() -> None:
    (space,) = core_of(
        core(),
        service("web", retention={"maxAgeDays": 1.5, "maxSize": "500Gi"}),
        dimse("scanners", conflictPolicy="quarantine", patientConflictPolicy="quarantine"),
    ).spaces
    assert (space.conflict_policy, space.patient_conflict_policy) == ("quarantine", "quarantine")
    assert space.retention == RetentionPlan(timedelta(days=1.5), 500 * 1024**3)


def test_without_a_rule_a_space_replaces_accepts_and_keeps_everything() -> None:
    (space,) = core_of(core(), service("web"), dimse("scanners")).spaces
    assert (space.conflict_policy, space.patient_conflict_policy) == ("replace", "accept")
    assert space.retention is None


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({"conflictPolicy": "keep"}, {"conflictPolicy": "replace"}, "spec.conflictPolicy"),
        (
            {"retention": {"maxSize": "1Gi"}},
            {"retention": {"maxSize": "2Gi"}},
            "spec.retention",
        ),
    ],
)
def test_two_services_that_differ_are_a_problem_that_names_both(
    one: dict[str, object], other: dict[str, object], field: str
) -> None:
    (problem,) = problems_of(core(), service("web", **one), dimse("scanners", **other))
    assert f"{field}: " in problem
    assert "says otherwise for the space default" in problem


@pytest.mark.parametrize(
    "rule", [{"maxAgeDays": 0}, {"maxAgeDays": "1"}, {"maxSize": "1 GB"}, {"maxAge": 1}]
)
def test_a_rule_that_is_none_is_a_problem(rule: dict[str, object]) -> None:
    problems: list[str] = []
    list(read_documents(service("web", retention=rule), "site.yaml", problems))
    (problem,) = problems
    assert "spec.retention" in problem


def test_a_rule_that_says_nothing_is_a_problem() -> None:
    (problem,) = problems_of(core(), service("web", retention={}))
    assert "spec.retention: maxAgeDays or maxSize was expected" in problem
