"""Neighbouring versions run together: an operator and two proxies, one of each version, while operators of both take turns.
The other version is that of TOLLGATE_PREVIOUS_BIN, which `tests/run upgrade REF` sets."""

import hashlib
import os
import secrets
import time

import pytest

from harness import programs
from harness.installation import money
from harness.load import Load
from harness.mock import ask
from harness.objects import object_of, wait_for, where
from harness.operator import Operator
from harness.proxy import CLIENT_PORT, Proxy

LIMIT, LIMIT_NANO = "0.002", 2_000_000
# Calls that a budget of that size can never admit.
MOST_CALLS = 2_000
SECONDS = 20


pytestmark = pytest.mark.skipif("TOLLGATE_PREVIOUS_BIN" not in os.environ, reason="tests/run upgrade REF runs it")


@pytest.fixture
def setup(own_plane, crds, mock, namespace):
    mock.script("steady", {"reply": {"text": " ".join(["word"] * 20), "chunk_delay_ms": 20}, "repeat": 1_000_000})
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        object_of("LLMGateway", "g", replicas=2),
        mock.model("steady"),
    ], namespace=namespace)
    return namespace


@pytest.fixture
def start(own_plane, setup):
    """Starts an operator of a version; the one before stops first."""
    running = []

    def start(name, program):
        for before in running:
            assert before.stop() == 0
        operator = Operator(own_plane, name, [setup], own_plane.make_kubeconfig(name, ["system:masters"]), program=program)
        running[:] = [operator]
        operator.wait_until_it_leads()
        return operator

    yield start
    for operator in running:
        operator.kill()


@pytest.fixture
def proxies(own_plane, setup):
    """Starts a proxy of each version, in the places of the gateway's two pods."""
    started = []

    def proxies():
        network = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}"
        kubeconfig = own_plane.make_kubeconfig("proxy", ["system:masters"])
        for number, program in enumerate([programs.previous_gateway(), programs.gateway()]):
            address = f"{network}.{number + 2}"
            started.append(Proxy(own_plane, f"upgrade-proxy-{number}", f"{setup}/g", kubeconfig, address, program))
        for proxy in started:
            proxy.process.wait_until(proxy.is_ready)
            proxy.be_pod()
        return started

    yield proxies
    for proxy in started:
        proxy.stop()


class Key:
    """A VirtualKey whose key the test made."""

    def __init__(self, plane, namespace, name):
        self.plane, self.namespace, self.name = plane, namespace, name
        self.text = f"sk-{secrets.token_urlsafe(32)}"

    def apply(self, **spec):
        key_hash = "sha256:" + hashlib.sha256(self.text.encode()).hexdigest()
        self.plane.api.apply(where(self.namespace, "VirtualKey", self.name), object_of("VirtualKey", self.name, keyHash=key_hash, **spec), "tests", force=True)

    def delete(self):
        self.plane.api.delete(where(self.namespace, "VirtualKey", self.name))

    def models(self, proxy):
        """The names that it may ask for; `None`: it is refused."""
        status, _, body = ask(proxy.address, CLIENT_PORT, "GET", "/v1/models", key=self.text)
        assert status in (200, 401), body
        return {model["id"] for model in body["data"]} if status == 200 else None

    def spend_all(self, proxies, model):
        """Calls one proxy after the other until each says that the budget is spent."""
        left = list(proxies)
        body = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "say something"}]}
        for number in range(MOST_CALLS):
            proxy = left[number % len(left)]
            status, headers, answer = ask(proxy.address, CLIENT_PORT, "POST", "/v1/chat/completions", body, self.text)
            reason = headers.get("x-tollgate-error")
            assert status == 200 or (status, reason) in [(429, "budget_exhausted"), (429, "budget_reserved")], answer
            if reason == "budget_exhausted":
                left.remove(proxy)
            if not left:
                return
        pytest.fail(f"{MOST_CALLS} calls did not spend ${LIMIT}")


def wait_until(holds, what):
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not so after {SECONDS} s: {what}"
        time.sleep(0.02)


def works_with(own_plane, mock, namespace, proxies, stage):
    """What users do, with the operator that leads now and proxies of both versions: models and keys come, change and go,
    and a budget is spent to its end."""
    everywhere = lambda key, models: lambda: all(key.models(proxy) == models for proxy in proxies)
    model = f"model-{stage}"
    key = Key(own_plane, namespace, f"key-{stage}")
    own_plane.kubectl.apply([mock.model(model)], namespace=namespace)
    key.apply(models=[model], budget={"limit": LIMIT, "period": {"lifetime": {}}})
    wait_until(everywhere(key, {model}), f"{stage}: a new key works")
    wait_for(own_plane, namespace, "VirtualKey", key.name, Programmed=("True", "Programmed"), Active=("True", "Active"))

    key.spend_all(proxies, model)
    billed = mock.billed(model)
    assert 0 < billed <= LIMIT_NANO, stage
    own_plane.api.wait_until(where(namespace, "VirtualKey", key.name), lambda there: there["status"].get("spent") == money(billed))

    other = Key(own_plane, namespace, f"other-{stage}")
    other.apply(models=[model, "steady"])
    wait_until(everywhere(other, {model, "steady"}), f"{stage}: another key works")
    other.apply(models=["steady"])
    wait_until(everywhere(other, {"steady"}), f"{stage}: it may ask for less")
    other.apply(models=["steady"], disabled=True)
    wait_until(everywhere(other, None), f"{stage}: it is disabled")
    other.apply(models=["steady"], disabled=False)
    wait_until(everywhere(other, {"steady"}), f"{stage}: it is enabled")
    other.delete()
    wait_until(everywhere(other, None), f"{stage}: it is deleted")
    own_plane.api.delete(where(namespace, "ModelDeployment", model))
    wait_until(everywhere(key, set()), f"{stage}: its model is gone")


def test_operators_and_proxies_of_neighbouring_versions_work_together(own_plane, mock, setup, start, proxies):
    old, new = programs.previous_gateway(), programs.gateway()
    # The old operator makes the tables first, as before an upgrade.
    start("old", old)
    both = proxies()
    gateway = own_plane.api.wait_until(where(setup, "LLMGateway", "g"), lambda there: there["status"].get("proxies") == "2/2")
    assert gateway["status"]["observedGeneration"] == gateway["metadata"]["generation"]
    steady = Key(own_plane, setup, "steady")
    steady.apply(models=["steady"], budget={"limit": "1000", "period": {"lifetime": {}}})
    wait_for(own_plane, setup, "VirtualKey", "steady", Programmed=("True", "Programmed"), Active=("True", "Active"))
    wait_until(lambda: all(steady.models(proxy) == {"steady"} for proxy in both), "the key of the load works")

    settings = {"key": steady.text, "unary": {"workers": 2, "model": "steady", "pause": 0.05}, "streams": {"workers": 1, "model": "steady"}}
    loads = [Load.here({**settings, "url": proxy.url}) for proxy in both]
    with loads[0], loads[1]:
        works_with(own_plane, mock, setup, both, "old")
        start("new", new)
        works_with(own_plane, mock, setup, both, "new")
        # And back, as `helm rollback` does.
        start("old-again", old)
        works_with(own_plane, mock, setup, both, "again")
    for load in loads:
        load.is_whole()
    # Over three operators and two versions of proxies, to the nano-dollar.
    spent = money(mock.billed("steady"))
    own_plane.api.wait_until(where(setup, "VirtualKey", "steady"), lambda there: there["status"].get("spent") == spent)
