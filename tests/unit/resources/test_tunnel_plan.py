"""From a DimseProxy to its plan."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from site_documents import config_map, core, dimse, plan, problems_of, resource, secret, service

from imaging_ingestion.resources.plan import ProxyPlan
from imaging_ingestion.resources.settings import SETTINGS
from imaging_ingestion.tunnel import settings as tunnel_settings

PLACE = "site.yaml, document 3 (DimseProxy door)"


def proxy(name: str = "door", **spec: object) -> str:
    return resource("DimseProxy", name, imagePullPolicy="Always", **spec)


def only(*documents: str) -> ProxyPlan:
    (found,) = plan(core(), service("any"), *documents).proxies
    return found


def said(found: ProxyPlan) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in found.values.items()}


def test_a_proxy_is_what_its_fields_say():
    found = only(
        proxy(
            applicationEntityTitle="PACS",
            targetDimseHost="pacs.example",
            targetDimsePort=104,
            natsUrl="'nats.example:4222'",
            natsSecure="true",
            natsSubjectRoot="HOSPITAL",
            natsSubjectChannel="B",
            natsTokenSecret="nats",
            port=11200,
        ),
        secret("nats", token="secret"),
    )
    assert (found.name, found.port, found.place) == ("door", 11200, PLACE)
    assert said(found) == {
        "DIMSE_PORT": "11200",
        "DIMSE_NATS_URL": "nats.example:4222",
        "DIMSE_NATS_TLS_ENABLED": "true",
        "DIMSE_NATS_SUBJECT_ROOT": "HOSPITAL",
        "DIMSE_NATS_SUBJECT_CHANNEL": "B",
        "DIMSE_NATS_AUTH_TOKEN": "secret",
        "DIMSE_TARGET_AE": "PACS",
        "DIMSE_TARGET_HOST": "pacs.example",
        "DIMSE_TARGET_PORT": "104",
    }
    assert "secret" not in repr(found)


def test_fields_go_before_keys():
    found = only(
        proxy(natsSubjectRoot="FIELD", dimseConfigName="d", dimseSecretName="s"),
        config_map("d", DIMSE_NATS_SUBJECT_ROOT="KEY", DIMSE_PORT="11300", DIMSE_AE="DOOR"),
        secret("s", DIMSE_NATS_PASSWORD="p", DIMSE_NATS_USER="u"),
    )
    values = said(found)
    assert (found.port, values["DIMSE_NATS_SUBJECT_ROOT"]) == (11300, "FIELD")
    assert (values["DIMSE_AE"], values["DIMSE_NATS_PASSWORD"]) == ("DOOR", "p")


def test_a_proxy_needs_nothing():
    assert only(proxy()) == ProxyPlan("door", 11112, {})


def test_upstreams_proxy_is_read():
    file = Path(__file__).parents[2] / "data" / "upstream" / "dimseproxy.yaml"
    found = only(file.read_text(), secret("ingestion-nats-secure-bound-token", token="t"))
    assert said(found)["DIMSE_TARGET_PORT"] == "11112"


def test_what_cannot_be_run_is_told():
    assert problems_of(core(), service("any"), proxy(natsTokenSecret="nats")) == (
        f"{PLACE}: spec.natsTokenSecret: there is no Secret named nats",
    )
    assert problems_of(core(), service("any"), proxy(dimseConfigName="none")) == (
        f"{PLACE}: spec.dimseConfigName: there is no ConfigMap named none",
    )


def test_a_port_belongs_to_one_of_those_that_listen():
    assert problems_of(core(), dimse("scanners"), proxy()) == (
        f"{PLACE}: site.yaml, document 2 (DimseIngestionService scanners) listens on port 11112, "
        "too; each needs a spec.port of its own",
    )
    assert len(plan(core(), dimse("s", natsSubjectRoot="X"), proxy()).proxies) == 1
    assert len(plan(core(), service("a"), proxy("a", port=0), proxy("b", port=0)).proxies) == 2


def test_a_site_of_proxies_alone_is_told_the_command_for_them():
    (problem,) = problems_of(proxy())
    assert problem.endswith("one core is needed; a proxy alone is run by `run proxy`")


def test_every_key_that_a_proxy_reads_may_stand_in_its_config_map():
    source = Path(inspect.getsourcefile(tunnel_settings) or "").read_text()
    keys = set(re.findall(r'"(DIMSE_[A-Z_]*[A-Z])"', source))
    assert {"DIMSE_CALLING_AE", "DIMSE_NATS_REPLY_TIMEOUTSECONDS"} < keys
    assert keys <= {setting.name for setting in SETTINGS}
    found = only(
        proxy(dimseConfigName="d"),
        config_map("d", **{key: "1" for key in keys if key != "DIMSE_PORT"}),
    )
    assert keys - {"DIMSE_PORT"} <= said(found).keys()
