"""A core's broker, from its resource to the plan: what is understood, and what is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from site_documents import core, core_of, problems_of, secret, service

from imaging_ingestion.resources.plan import BrokerPlan
from imaging_ingestion.resources.planner import built_in_plan
from imaging_ingestion.resources.site_file import read_documents

WHERE = "site.yaml, document 1 (DicomEventDrivenIngestion core): spec.broker"


def broker_of(broker: str, *documents: str) -> BrokerPlan:
    return core_of(core(broker=broker), service("any"), *documents).broker


def test_a_core_that_names_no_broker_has_the_embedded_one() -> None:
    assert core_of(core(), service("any")).broker == BrokerPlan()
    assert broker_of("{kind: embedded}") == BrokerPlan()


def test_jetstream_without_a_server_is_on_the_sites_own() -> None:
    plan = broker_of("{kind: jetstream, maxAge: 60}")
    assert plan == BrokerPlan("jetstream", max_age=timedelta(minutes=1))
    assert plan.needs_own_nats


def test_jetstream_on_a_cluster_has_all_that_is_said() -> None:
    plan = broker_of(
        "{kind: jetstream, natsUrl: 'n1, n2:4223', natsSecure: true, natsCa: /etc/ca.pem, "
        "natsTokenSecret: nats, natsSubjectRoot: clinic.events, replicas: 3}",
        secret("nats", token="t"),
    )
    assert plan == BrokerPlan(
        "jetstream",
        ("tls://n1:4222", "tls://n2:4223"),
        secure=True,
        ca=Path("/etc/ca.pem"),
        token=SecretStr("t"),
        subject_root="clinic.events",
        replicas=3,
    )
    assert not plan.needs_own_nats


def test_a_secret_may_have_a_user_and_a_password() -> None:
    plan = broker_of(
        "{kind: jetstream, natsUrl: n1, natsTokenSecret: nats}",
        secret("nats", NATS_USER="core", NATS_PASSWORD="p"),
    )
    assert (plan.token, plan.user, plan.password) == (None, "core", SecretStr("p"))


def test_knative_has_a_sink_or_the_environment_does() -> None:
    assert broker_of("{kind: knative, sink: 'http://broker/x'}") == BrokerPlan(
        "knative", sink="http://broker/x"
    )
    assert broker_of("{kind: knative}") == BrokerPlan("knative")
    (only,) = built_in_plan(sink="http://broker/x").cores
    assert only.broker == BrokerPlan("knative", sink="http://broker/x")


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        ("{kind: embedded, natsUrl: n1}", ".natsUrl: it is for kind jetstream, and this is"),
        ("{kind: jetstream, sink: 'http://x'}", ".sink: it is for kind knative, and this is"),
        ("{kind: jetstream, natsUrl: 'http://n1'}", ".natsUrl: http:// is not spoken"),
        ("{kind: jetstream, natsUrl: 'a:b@n1'}", ".natsUrl: user and password have settings"),
        ("{kind: jetstream, natsSecure: true}", ".natsSecure: natsUrl was expected beside it"),
        ("{kind: jetstream, natsCa: /ca}", ".natsCa: natsUrl was expected beside it"),
        ("{kind: jetstream, replicas: 3}", ".replicas: the site's own NATS server is only one"),
        ("{kind: jetstream, natsSubjectRoot: 'a b'}", ".natsSubjectRoot: words separated by dots"),
        ("{kind: jetstream, natsSubjectRoot: 'a.>'}", ".natsSubjectRoot: words separated by dots"),
        ("{kind: jetstream, maxAge: 0}", ".maxAge: more than 0 seconds were expected"),
        ("{kind: knative, sink: /here}", ".sink: http://HOST… or https://HOST… was expected"),
    ],
)
def test_a_mistake_is_told_with_its_place(broker: str, told: str) -> None:
    (problem,) = problems_of(core(broker=broker), service("any"))
    assert problem.startswith(WHERE + told)


@pytest.mark.parametrize("broker", ["{kind: kafka}", "{kind: jetstream, replicas: 6}"])
def test_what_is_not_in_the_model_is_told(broker: str) -> None:
    problems: list[str] = []
    list(read_documents(core(broker=broker), "site.yaml", problems))
    (problem,) = problems
    assert "(DicomEventDrivenIngestion core), line 5: spec.broker." in problem


def test_a_secret_without_token_or_user_is_told() -> None:
    (problem,) = problems_of(
        core(broker="{kind: jetstream, natsUrl: n1, natsTokenSecret: nats}"),
        service("any"),
        secret("nats", NATS_USER="core"),
    )
    assert problem == (
        f"{WHERE}.natsTokenSecret: in nats either token was expected, or NATS_USER and "
        "NATS_PASSWORD"
    )
