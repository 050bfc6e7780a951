"""What runs is replaced, killed or away for a while, and calls go on: no stream is cut but those of a proxy that is killed."""

import time

import pytest

from harness.installation import Direct
from harness.load import Load

# Longer than a proxy goes on to accept once it was asked to stop, so that some always outlive their Service.
WORDS, WORD_MS = 60, 200
OPERATOR_AWAY_SECONDS = 60
API_AWAY_SECONDS = 10
DRAINED_SECONDS = 90
SEEN_SECONDS = 60


@pytest.fixture(scope="module")
def served(tollgate):
    """A model that streams for long, one that answers at once, and a key for them; the key itself."""
    text = " ".join(f"word{number}" for number in range(WORDS))
    tollgate.provider.script("long", {"reply": {"text": text, "chunk_delay_ms": WORD_MS}, "repeat": 1_000_000})
    tollgate.apply(tollgate.model("quick"), tollgate.model("long"), tollgate.key("load", models=["quick", "long", "late-*"]))
    tollgate.wait_ready("modeldeployment/quick", "modeldeployment/long", "virtualkey/load")
    return tollgate.generated_key("load")


def settings(url, key):
    return {"url": url, "key": key, "unary": {"workers": 4, "model": "quick", "pause": 0.05}, "streams": {"workers": 8, "model": "long"}}


def in_pod(tollgate, key):
    """Through the Service, as applications do."""
    return Load.in_pod(tollgate.cluster, tollgate.tenant, "agent", settings(tollgate.url, key))


def names(pods):
    return {pod["metadata"]["name"] for pod in pods}


def wait_until_gone(tollgate, pods):
    for name in pods:
        tollgate.kubectl.wait(f"pod/{name}", "delete", namespace=tollgate.namespace, seconds=DRAINED_SECONDS)


def late(tollgate, number):
    """An edit whose effect is a further model."""
    return tollgate.model("quick", modelNames=["quick", f"late-{number}"])


def wait_until_listed(proxies, name, seconds=SEEN_SECONDS):
    begun = time.monotonic()
    while not all(name in proxy.models() for proxy in proxies):
        assert time.monotonic() - begun < seconds, f"{name} is not listed by every proxy after {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - begun


def test_a_rolling_restart_cuts_no_stream(tollgate, served, agent):
    before = names(tollgate.proxies())
    where = ["deployment/tollgate", "--namespace", tollgate.namespace]
    load = in_pod(tollgate, served)
    with load:
        begun = time.monotonic()
        tollgate.kubectl.run("rollout", "restart", *where)
        tollgate.kubectl.run("rollout", "status", *where, f"--timeout={DRAINED_SECONDS}s", seconds=DRAINED_SECONDS + 10)
        print(f"rolled out after {time.monotonic() - begun:.1f} s")
        wait_until_gone(tollgate, before)
        print(f"the old ones are gone after {time.monotonic() - begun:.1f} s")
    tollgate.wait_for_proxies(2, without=before)
    load.is_whole()


def test_helm_upgrade_cuts_no_stream(tollgate, served, agent):
    proxies, operators = names(tollgate.proxies()), names(tollgate.operators())
    load = in_pod(tollgate, served)
    with load:
        # New pods of both kinds.
        tollgate.upgrade({"podAnnotations": {"example.com/revision": "2"}, "gateway": {"spec": {"podTemplate": {"annotations": {"example.com/revision": "2"}}}}})
        wait_until_gone(tollgate, operators)
        wait_until_gone(tollgate, proxies)
        tollgate.wait_for_proxies(2, without=proxies)
    load.is_whole()


def test_when_a_proxy_is_killed_the_other_goes_on(tollgate, own_node, served):
    killed, other = tollgate.proxies()
    host, port = own_node.address_of(other["status"]["podIP"], 4000)
    load = Load.here(settings(f"http://{host}:{port}", served))
    with load:
        tollgate.kubectl.delete("pod", killed["metadata"]["name"], namespace=tollgate.namespace, options=["--grace-period=0", "--force"])
        there = tollgate.wait_for_proxies(2, without=names([killed]))
    assert names([other]) < names(there)
    load.is_whole()


@pytest.mark.timeout(240)
def test_without_an_operator_calls_go_on_and_edits_wait(tollgate, own_node, served, agent):
    proxies = [Direct(own_node, pod, served) for pod in tollgate.proxies()]
    scale = ["scale", "deployment/tollgate-operator", "--namespace", tollgate.namespace]
    load = in_pod(tollgate, served)
    with load:
        operators = names(tollgate.operators())
        tollgate.kubectl.run(*scale, "--replicas=0")
        wait_until_gone(tollgate, operators)
        tollgate.apply(late(tollgate, 1))
        away_until = time.monotonic() + OPERATOR_AWAY_SECONDS
        while time.monotonic() < away_until:
            assert not any("late-1" in proxy.models() for proxy in proxies)
            time.sleep(1)
        tollgate.kubectl.run(*scale, "--replicas=2")
        print(f"the edit took effect {wait_until_listed(proxies, 'late-1'):.1f} s after the operator was to come back")
    load.is_whole()
    tollgate.wait_ready("modeldeployment/quick")


def test_while_the_api_server_is_away_calls_go_on(tollgate, own_node, served):
    proxies = [Direct(own_node, pod, served) for pod in tollgate.proxies()]
    before = names(tollgate.proxies())
    load = Load.here(settings(own_node.url_of(tollgate.namespace, "tollgate", 80), served))
    with load:
        with own_node.apiserver_gone():
            away_until = time.monotonic() + API_AWAY_SECONDS
            while time.monotonic() < away_until:
                assert all("quick" in proxy.models() for proxy in proxies)
                time.sleep(0.5)
        tollgate.apply(late(tollgate, 2))
        print(f"an edit took effect {wait_until_listed(proxies, 'late-2'):.1f} s after the API server was back")
    load.is_whole()
    assert names(tollgate.proxies()) == before
    tollgate.wait_ready("modeldeployment/quick")
