"""The boost of a Hard budget ends at its moment while nobody compiles: the operator is gone, and both proxies have much more
than the limit without the boost. Through either allocator, whose money was granted while it was boosted."""

import hashlib
import secrets
import time
from datetime import datetime, timezone

import pytest

from harness.mock import ask
from harness.objects import TOLLGATE, object_of, secret_ref, wait_for, where
from harness.operator import Operator
from harness.proxy import CLIENT_PORT, Proxy

MODEL, KEY, GATEWAY = "m", "ci", "g"
# A call costs a thousandth.
LIMIT, LIMIT_NANO, CALL_NANO = "0.0105", 10_500_000, 1_000_000
# From the first object to the end: operator and proxies begin meanwhile.
BOOST_SECONDS = 40
SECONDS = 60


class World:
    """A gateway of two proxies, and a key under a boosted budget."""

    def __init__(self, plane, namespace, mock):
        self.plane, self.namespace, self.mock = plane, namespace, mock
        self.proxies, self.operators = [], []
        self.key = f"sk-{secrets.token_urlsafe(32)}"
        self.until = int(time.time()) + BOOST_SECONDS

    def apply(self, redis=None):
        until = datetime.fromtimestamp(self.until, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        spec = {"replicas": 2, **({"stores": {"redis": secret_ref("redis")}} if redis else {})}
        self.plane.kubectl.apply([
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
            *([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": redis.url}}] if redis else []),
            {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": GATEWAY}, "spec": spec},
            self.mock.model(MODEL),
            object_of("Budget", "b", limit=LIMIT, boost={"amount": "1", "until": until}, period={"lifetime": {}}),
            object_of("VirtualKey", KEY, models=[MODEL], keyHash="sha256:" + hashlib.sha256(self.key.encode()).hexdigest()),
        ], namespace=self.namespace)
        usage = {"tokens": {"input": 100, "output": 75}}
        self.mock.script(MODEL, {"reply": {"usage": usage}, "repeat": 1_000_000})

    def lead(self):
        kubeconfig = self.plane.make_kubeconfig("operator", ["system:masters"])
        self.operators.append(Operator(self.plane, "operator", [self.namespace], kubeconfig))
        self.operators[-1].wait_until_it_leads(20)
        return self.operators[-1]

    def start_proxies(self):
        network = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}"
        kubeconfig = self.plane.make_kubeconfig("proxy", ["system:masters"])
        for number in range(2):
            name, address = f"{self.namespace}-{number}", f"{network}.{number + 2}"
            self.proxies.append(Proxy(self.plane, name, f"{self.namespace}/{GATEWAY}", kubeconfig, address))
        for proxy in self.proxies:
            proxy.process.wait_until(proxy.is_ready)
            proxy.be_pod()
        self.plane.api.wait_until(where(self.namespace, "LLMGateway", GATEWAY), lambda there: there["status"].get("proxies") == "2/2")
        for kind, name in (("VirtualKey", KEY), ("Budget", "b")):
            wait_for(self.plane, self.namespace, kind, name, Programmed=("True", "Programmed"))

    def call(self, proxy):
        """What came of a call: its status, and why it was refused."""
        body = {"model": MODEL, "max_tokens": 75, "messages": [{"role": "user", "content": "hi"}]}
        status, headers, _ = ask(self.proxies[proxy].address, CLIENT_PORT, "POST", "/v1/chat/completions", body, self.key)
        return status, headers.get("x-tollgate-error")

    def spend_while_it_lasts(self, proxy, times):
        while times:
            answer = self.call(proxy)
            # A Redis that is new grants when it has heard of every proxy.
            assert answer in ((200, None), (503, "budget_unavailable")), answer
            times -= answer[0] == 200
            assert time.time() < self.until, "the machine is too slow: the boost was over before this was spent"

    def wait_for_the_end(self):
        while time.time() < self.until:
            time.sleep(0.02)

    def spend_the_rest(self):
        """Both proxies, until each says that it is spent."""
        for proxy in (0, 1, 0, 1):
            deadline = time.monotonic() + SECONDS
            while (answer := self.call(proxy)) != (429, "budget_exhausted"):
                assert answer in ((200, None), (429, "budget_reserved"), (503, "budget_unavailable")), answer
                assert time.monotonic() < deadline, f"not spent after {SECONDS} s: {answer}"
        billed = self.mock.billed(MODEL)
        assert LIMIT_NANO - 2 * CALL_NANO < billed <= LIMIT_NANO, billed

    def stop(self):
        for process in self.proxies:
            process.stop()
        for operator in self.operators:
            operator.kill()


@pytest.fixture
def world(own_plane, crds, mock, namespace):
    world = World(own_plane, namespace, mock)
    yield world
    world.stop()


def test_without_the_operator_nothing_is_spent_after_a_boost_and_with_the_next_what_is_left(world):
    world.apply()
    operator = world.lead()
    world.start_proxies()
    world.spend_while_it_lasts(0, 2)
    world.spend_while_it_lasts(1, 3)
    operator.kill()
    world.wait_for_the_end()
    deadline = time.monotonic() + SECONDS
    for proxy in (0, 1):
        for _ in range(5):
            while (answer := world.call(proxy))[1] != "budget_unavailable":
                # Calls in flight are waited for, until it is known that nobody answers.
                assert answer[0] != 200 and time.monotonic() < deadline, answer
            assert answer[0] == 503
    assert world.mock.billed(MODEL) == 5 * CALL_NANO
    world.lead()
    world.spend_the_rest()


def test_redis_grants_by_the_limit_without_a_boost_that_is_over(world, redis):
    world.apply(redis)
    operator = world.lead()
    world.start_proxies()
    world.spend_while_it_lasts(0, 2)
    world.spend_while_it_lasts(1, 3)
    operator.kill()
    world.wait_for_the_end()
    world.spend_the_rest()
