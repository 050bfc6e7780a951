"""Neighbouring versions run together: an operator and two proxies, one of each version, while operators of both take turns.
The other version is that of TOLLGATE_PREVIOUS_BIN, which `tests/run upgrade REF` sets."""

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import socket
import time

import pytest

from harness import programs
from harness.installation import money
from harness.load import Load
from harness.objects import object_of, wait_for, where
from harness.operator import Operator
from harness.process import Process
from harness.provider import cost
from harness.proxy import CLIENT_PORT, Proxy

# Of a token, at $2.50 and $10 for a million.
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
PRICING = {"perMillionTokens": {"input": "2.50", "output": "10"}}
LIMIT, LIMIT_NANO = "0.002", 2_000_000
# Calls that a budget of that size can never admit.
MOST_CALLS = 2_000
SECONDS = 20


pytestmark = pytest.mark.skipif("TOLLGATE_PREVIOUS_BIN" not in os.environ, reason="tests/run upgrade REF runs it")


class Mock:
    """The provider beside the tests, at an address of this machine that is not loopback: in a cluster that is refused."""

    def __init__(self, plane):
        self.host = _own_address()
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        arguments = [programs.gateway(), "mock", "--host", self.host, "--port", self.port]
        self.process = Process("mock", arguments, plane.folder)
        self.process.wait_until(self._is_ready)

    def model(self, name):
        endpoint = {"baseURL": f"http://{self.host}:{self.port}/v1"}
        return object_of("ModelDeployment", name, provider="openai-compatible", endpoint=endpoint, model=name, pricing=PRICING)

    def billed(self, model):
        """What calls of a model cost, nano-dollars."""
        rows = ask(self.host, self.port, "GET", "/_mock/invoice")[2]["rows"]
        return cost([row for row in rows if row["billed"] and row["model"] == model], INPUT_NANO, OUTPUT_NANO)

    def script(self, model, *steps):
        assert ask(self.host, self.port, "POST", "/_mock/script", {"model": model, "steps": list(steps)})[0] == 200

    def _is_ready(self):
        try:
            return ask(self.host, self.port, "GET", "/_mock/status")[0] == 200
        except OSError:
            return False


def _own_address():
    """The one that this machine would call others from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, which gateways in a cluster do not call")
        return probe.getsockname()[0]


def ask(host, port, method, target, body=None, key=None):
    """Status, headers and decoded body of one call."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, answer.headers, json.loads(text) if text else None


@pytest.fixture
def mock(own_plane):
    mock = Mock(own_plane)
    yield mock
    mock.process.kill()


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
