"""A Hard budget over two proxies and the operator's books while a part of it is killed, frozen or cut off. The provider's own
invoice is what is compared with the limit; what came of each fault is told to `tests/run chaos`."""

import hashlib
import json
import random
import secrets
import time

import pytest

from harness import faults
from harness.agents import Agents
from harness.api import path
from harness.objects import object_of, wait_for, where
from harness.operator import Operator
from harness.proxy import CLIENT_PORT, STATUS_PORT, Proxy
from harness.wire import Wire

MODEL, KEY, GATEWAY = "m", "ci", "g"
LIMIT, LIMIT_NANO = "0.5", 500_000_000
# Refusals show money to a hundredth of a cent: so much more or less.
ROUNDED_NANO = 50_000
AGENTS = 8
# The Lease of a leader that says nothing is over after 15 s, which others notice within two more.
TAKEOVER_SECONDS = 20
SECONDS = 60


class World:
    """A gateway of two proxies, each behind a wire to where its pod is; a key whose money is spent."""

    def __init__(self, plane, namespace, mock):
        self.plane, self.namespace, self.mock = plane, namespace, mock
        # Of `wires` each leads the operator to the proxy of the same place.
        self.proxies, self.wires, self.operators, self.agents = [], [], [], []
        # To the API server.
        self.api_wire = None
        self.key = f"sk-{secrets.token_urlsafe(32)}"
        key_hash = "sha256:" + hashlib.sha256(self.key.encode()).hexdigest()
        budget = {"limit": LIMIT, "period": {"lifetime": {}}}
        plane.kubectl.apply([
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
            # Money that calls in flight hold is waited for so long that a slow machine makes no refusal.
            object_of("LLMGateway", GATEWAY, replicas=2, defaults={"reservedWait": "20s"}),
            mock.model(MODEL),
            object_of("VirtualKey", KEY, models=[MODEL], keyHash=key_hash, budget=budget),
        ], namespace=namespace)
        usage = {"tokens": {"input": 50, "output": 100}}
        mock.script(MODEL, {"reply": {"usage": usage}, "delay_ms": 5, "repeat": 1_000_000})

    def start_operator(self, name, home=None, by_wire=False):
        """`home`: where its Lease is, if not beside the gateway; `by_wire`: it asks the API server through `api_wire`."""
        kubeconfig = self.plane.make_kubeconfig(name, ["system:masters"])
        if by_wire:
            self.api_wire = Wire(("127.0.0.1", self.plane.place.outside_port))
            host, port = self.api_wire.address
            kubeconfig.write_text(kubeconfig.read_text().replace(self.plane.url, f"https://{host}:{port}"))
        self.operators.append(Operator(self.plane, name, [self.namespace], kubeconfig, home=home))
        return self.operators[-1]

    def lead(self, name, **how):
        """An operator that leads."""
        operator = self.start_operator(name, **how)
        operator.wait_until_it_leads(TAKEOVER_SECONDS)
        return operator

    def start_proxies(self):
        """When the operator has written tables; returns when money can be spent."""
        network = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}"
        kubeconfig = self.plane.make_kubeconfig("proxy", ["system:masters"])
        for number in range(2):
            address = f"{network}.{number + 2}"
            self.proxies.append(Proxy(self.plane, f"{self.namespace}-{number}", f"{self.namespace}/{GATEWAY}", kubeconfig, address))
            self.wires.append(Wire((address, STATUS_PORT), (f"{network}.{number + 102}", STATUS_PORT)))
        for proxy, wire in zip(self.proxies, self.wires):
            proxy.process.wait_until(proxy.is_ready)
            proxy.be_pod(wire.address[0])
        self.plane.api.wait_until(where(self.namespace, "LLMGateway", GATEWAY), lambda there: there["status"].get("proxies") == "2/2")
        wait_for(self.plane, self.namespace, "VirtualKey", KEY, Programmed=("True", "Programmed"), Active=("True", "Active"))

    def spend(self, proxy, number=AGENTS, survives=True):
        """Begins to; `survives`: the proxy must not go away."""
        self.agents.append(Agents(self.proxies[proxy].address, CLIENT_PORT, self.key, MODEL, number, survives))
        return self.agents[-1]

    def start_again(self, proxy):
        """In good order."""
        proxy = self.proxies[proxy]
        assert proxy.finish() == 0, proxy.process.story()
        assert "did not hear" not in proxy.process.story(), proxy.process.story()
        proxy.start()
        proxy.process.wait_until(proxy.is_ready)

    def wait_until_billed(self, share):
        wait_until(lambda: self.mock.billed(MODEL) >= share * LIMIT_NANO, f"{share} of the limit is spent")

    def wait_for_refusals(self, *agents):
        """Until one of these, or of all, was told that there is no allocator."""
        wait_until(lambda: any(each.unavailable for each in agents or self.agents), "a call above what was granted")

    def books(self):
        """Those in the cluster of the key's budget."""
        shards = self.plane.api.get(path("v1", "configmaps", self.namespace), labelSelector="tollgate.dev/allocations")["items"]
        budgets = [json.loads(shard["data"]["budgets.json"]).get(f"{self.namespace}/VirtualKey/{KEY}", {}) for shard in shards]
        return [book for budget in budgets for book in budget.get("books", [])]

    def granted(self):
        """What they have granted of it, all in all."""
        return sum(account["granted"] for book in self.books() for account in book["accounts"].values())

    def charged(self):
        """What they count against it: what was used, and what proxies may use."""
        net = lambda account: max(account["granted"] - account["returned"], account["used"])
        return sum(book["closed"] + sum(map(net, book["accounts"].values())) for book in self.books())

    def judge(self, fault=None, times=1, is_all_spent=True):
        """Waits until the budget is spent, compares limit, refusals, rows and invoice, and tells of the fault if it was one."""
        for agents in self.agents:
            agents.join()
        assert not [other for agents in self.agents for other in agents.others], [agents.others for agents in self.agents]
        for proxy in self.proxies:
            assert proxy.finish() == 0, proxy.process.story()
        rows = [row for proxy in self.proxies for row in proxy.rows(MODEL)]
        seen, billed = len(self.mock.seen(MODEL)), self.mock.billed(MODEL)
        booked = sum(cost for _, cost, _ in rows)
        hold = max(held for _, _, held in rows)
        exhausted = [spent for agents in self.agents for spent in agents.exhausted]
        counted = max((spent for spent in exhausted if spent - ROUNDED_NANO > booked), default=booked)
        false_refusals = sum(spent + hold <= LIMIT_NANO for spent in exhausted)
        unavailable = sum(agents.unavailable for agents in self.agents)
        print(f"billed {billed}, booked {booked}, counted {counted} of {LIMIT_NANO}; a call holds {hold}; {unavailable} times 503")
        if fault:
            faults.tell(
                fault, seen, limit=LIMIT_NANO, billed=billed, counted=counted, false_refusals=false_refusals,
                unavailable=unavailable, times=times, rows_lost=max(0, seen - len(rows)),
            )
        assert billed <= booked <= LIMIT_NANO and counted <= LIMIT_NANO
        assert not false_refusals, exhausted
        assert len(rows) >= seen
        if is_all_spent:
            assert booked + hold > LIMIT_NANO, "what is left nobody got"

    def stop(self):
        for proxy in self.proxies:
            proxy.stop()
        for operator in self.operators:
            operator.kill()
        for wire in [*self.wires, self.api_wire]:
            if wire:
                wire.close()


def wait_until(holds, what):
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not so after {SECONDS} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def world(own_plane, crds, mock, namespace):
    world = World(own_plane, namespace, mock)
    yield world
    world.stop()


def test_the_operator_is_killed_at_random(world):
    operator = world.lead("operator")
    world.start_proxies()
    world.spend(0)
    world.spend(1)
    shares = sorted(random.uniform(0.05, 0.8) for _ in range(4))
    for share in shares:
        world.wait_until_billed(share)
        operator.kill()
        # As its container does: the Lease is still its own.
        operator = world.lead("operator")
    world.judge("operator-random", times=len(shares))


def test_the_operator_is_killed_after_its_write_and_before_it_hears_of_it(world):
    operator = world.lead("operator", by_wire=True)
    world.start_proxies()
    world.spend(0)
    world.spend(1)
    world.wait_until_billed(0.1)
    wire = world.api_wire
    wire.hold_answers()
    before = world.granted()
    wait_until(lambda: world.granted() > before, "a grant is written")
    wait_until(lambda: wire.holds("answers"), "and its answer held")
    operator.kill()
    wire.sever()
    world.wait_for_refusals()
    world.lead("another")
    world.judge("operator-before-news")


def test_the_operator_is_killed_before_its_answer_arrives(world):
    operator = world.lead("operator")
    world.start_proxies()
    world.spend(0)
    world.spend(1)
    world.wait_until_billed(0.1)
    wait_until(lambda: is_granted_and_not_told(world), "a grant that the proxy does not hear of")
    operator.kill()
    for wire in world.wires:
        wire.sever()
    world.lead("operator")
    world.judge("operator-before-answer")


def is_granted_and_not_told(world):
    """Holds what the operator tells the proxies; whether it has written a grant meanwhile."""
    for wire in world.wires:
        wire.hold_requests()
    before = world.granted()
    # Each proxy had one question open, and may have answered with a wish or not.
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if world.granted() > before and any(wire.holds("requests") for wire in world.wires):
            return True
        time.sleep(0.01)
    for wire in world.wires:
        wire.mend()
    return False


def test_the_operator_is_away(world):
    operator = world.lead("operator")
    world.start_proxies()
    agents = [world.spend(0), world.spend(1)]
    world.wait_until_billed(0.1)
    operator.kill()
    for each in agents:
        wait_until(lambda: each.unavailable >= AGENTS, "all calls are told that there is no allocator")
        assert each.statuses_unavailable == {503}
    assert world.mock.billed(MODEL) < LIMIT_NANO
    world.lead("operator")
    world.judge("operator-away")


def test_two_operators_lead_at_once(world):
    world.lead("one")
    # A Lease elsewhere: neither knows of the other.
    elsewhere = world.plane.make_namespace("elsewhere")
    try:
        world.lead("two", home=elsewhere)
        world.start_proxies()
        position = world.plane.audit.position()
        world.spend(0)
        world.spend(1)
        for agents in world.agents:
            agents.join()
        assert [operator.leads() for operator in world.operators] == [True, True]
        calls = world.plane.audit.calls(position)
        writes = [call for call in calls if call.verb == "update" and call.name.startswith(f"tollgate-{GATEWAY}-budgets-")]
        granted = {call.user for call in writes if call.code == 200}
        conflicts = sum(call.code == 409 for call in writes)
        print(f"{len(writes)} writes of books, {conflicts} of them over a version that the other had replaced")
        assert granted == {"one", "two"}
        world.judge("two-leaders", times=conflicts)
    finally:
        world.plane.delete_namespace(elsewhere)


def test_a_leader_wakes_up_beside_the_next(world):
    old = world.lead("old")
    world.start_proxies()
    new = world.start_operator("new")
    world.spend(0)
    world.spend(1)
    world.wait_until_billed(0.1)
    old.process.pause()
    try:
        world.wait_for_refusals()
        new.wait_until_it_leads(TAKEOVER_SECONDS)
    finally:
        old.process.resume()
    world.judge("leader-frozen")


def test_a_proxy_is_killed(world):
    world.lead("operator")
    world.start_proxies()
    victim = world.proxies[1]
    world.spend(1, survives=False)
    world.wait_until_billed(0.1)
    world.spend(0)
    # The second time before it can tell anybody of the first.
    for _ in range(2):
        victim.stop()
        victim.start()
        victim.process.wait_until(victim.is_ready)
    world.spend(1)
    world.judge("proxy-killed", times=2, is_all_spent=False)


def test_a_proxy_is_cut_off_from_the_operator(world):
    world.lead("operator")
    world.start_proxies()
    world.spend(0)
    cut_off = world.spend(1)
    world.wait_until_billed(0.1)
    world.wires[1].cut()
    world.wait_for_refusals(cut_off)
    world.wires[1].mend()
    world.judge("proxy-partition")


def test_the_api_server_is_killed(world):
    world.lead("operator")
    world.start_proxies()
    world.spend(0)
    world.spend(1)
    world.wait_until_billed(0.1)
    with world.plane.apiserver_gone():
        world.wait_for_refusals()
    world.judge("apiserver-killed")


def test_the_api_server_is_silent(world):
    world.lead("operator")
    world.start_proxies()
    world.spend(0)
    world.spend(1)
    world.wait_until_billed(0.1)
    with world.plane.apiserver_paused():
        world.wait_for_refusals()
    world.judge("apiserver-silent")


def test_a_redis_is_added_while_money_is_spent(world, redis):
    """No fault, but all books move: from the operator's to Redis, while both proxies spend."""
    world.lead("operator")
    world.start_proxies()
    world.spend(0)
    world.spend(1, survives=False)
    world.wait_until_billed(0.1)
    world.plane.api.create(path("v1", "secrets", world.namespace), {"metadata": {"name": "redis"}, "stringData": {"key": redis.url}})
    stores = {"redis": {"secretRef": {"name": "redis", "key": "key"}}}
    world.plane.api.merge(where(world.namespace, "LLMGateway", GATEWAY), {"spec": {"stores": stores}})
    # Both began without it, and are served by it; more than the operator can have granted before.
    world.wait_until_billed(0.6)
    # One starts again, as a new pod does: it counts there by itself, and the one before it gives back what it did not use.
    world.start_again(1)
    world.spend(1)
    world.judge()


def test_a_redis_is_removed_while_money_is_spent(world, redis):
    """The way back: the books come home when nobody counts in Redis any more, and go on as they stood."""
    world.plane.api.create(path("v1", "secrets", world.namespace), {"metadata": {"name": "redis"}, "stringData": {"key": redis.url}})
    gateway = where(world.namespace, "LLMGateway", GATEWAY)
    world.plane.api.merge(gateway, {"spec": {"stores": {"redis": {"secretRef": {"name": "redis", "key": "key"}}}}})
    world.lead("operator")
    world.start_proxies()
    world.spend(0, survives=False)
    world.spend(1, survives=False)
    world.wait_until_billed(0.1)
    place = path("v1", "configmaps", world.namespace, f"tollgate-{GATEWAY}-books-0")
    world.plane.api.wait_until(place, lambda there: there and f"{world.namespace}/redis/key" in there["data"]["books.json"])
    assert world.granted() == 0
    world.plane.api.merge(gateway, {"spec": {"stores": {"redis": None}}})
    # One counts through the operator, the other by itself still, both in Redis; a new leader has to know it.
    agents = world.agents[1]
    world.start_again(1)
    agents.join()
    world.operators[0].kill()
    world.lead("next")
    through = world.spend(1, number=1)
    world.wait_until_billed(0.4)
    assert world.granted() == 0
    through.stop()
    agents = world.agents[0]
    world.start_again(0)
    agents.join()
    # Nobody counts there by itself now. What the first has it keeps.
    world.plane.api.wait_until(place, lambda there: there["data"]["books.json"] == "{}")
    assert world.mock.billed(MODEL) <= world.charged() <= LIMIT_NANO
    assert redis.command("--scan", "--pattern", "tollgate:*:budget:*") == ""
    world.spend(0)
    world.spend(1)
    world.judge()
