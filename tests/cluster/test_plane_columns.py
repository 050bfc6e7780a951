"""What `kubectl get` shows of keys, teams, budgets and deployments against the provider's invoice, over kills of proxies and
of the leader; how often it is written; and a gateway with more budgets in use than the operator serves in time."""

import hashlib
import json
import secrets
import time

import pytest

from harness.api import path
from harness.installation import money
from harness.mock import ask
from harness.objects import object_of, wait_for, where
from harness.proxies import Proxies, Tally
from harness.proxy import CLIENT_PORT, Proxy

LIFETIME = {"lifetime": {}}
# From the last settlement to a true column, where nothing else happens.
TRUE_WITHIN = 10
READS = ("get", "list", "watch")
# As operator/src/allocator/capacity.rs has it.
CEILING = 2_000


class Gateway:
    """Two real proxies in the places of a gateway's pods. `calls` counts what each key was answered."""

    keys = {name: f"sk-{secrets.token_urlsafe(32)}" for name in ("own", "team", "alone")}

    def __init__(self, plane, namespace, mock):
        self.plane, self.namespace, self.mock = plane, namespace, mock
        self.proxies = []
        hashes = {name: "sha256:" + hashlib.sha256(key.encode()).hexdigest() for name, key in self.keys.items()}
        plane.kubectl.apply([
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
            object_of("LLMGateway", "g", replicas=2),
            object_of("Team", "t", models=["m-team"]),
            *(self._model(name) for name in self.keys),
            object_of("VirtualKey", "own", models=["m-own"], keyHash=hashes["own"], budget={"limit": "100", "period": LIFETIME}),
            object_of("VirtualKey", "team", teamRef={"name": "t"}, keyHash=hashes["team"]),
            object_of("VirtualKey", "alone", models=["m-alone"], keyHash=hashes["alone"]),
        ], namespace=namespace)

    def _model(self, key):
        # A probe would be on the invoice too.
        model = self.mock.model(f"m-{key}")
        return {**model, "spec": {**model["spec"], "probe": {"mode": "None"}}}

    def start(self):
        kubeconfig = self.plane.make_kubeconfig("proxy", ["system:masters"])
        network = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}"
        for number in range(2):
            self.proxies.append(Proxy(self.plane, f"columns-{self.namespace[-6:]}-{number}", f"{self.namespace}/g", kubeconfig, f"{network}.{number + 2}"))
        for proxy in self.proxies:
            proxy.process.wait_until(proxy.is_ready)
            proxy.be_pod()
        for key in self.keys:
            wait_for(self.plane, self.namespace, "VirtualKey", key, Programmed=("True", "Programmed"), Active=("True", "Active"))

    def call(self, number, key, times=1):
        body = {"model": f"m-{key}", "max_tokens": 64, "messages": [{"role": "user", "content": "say something"}]}
        for _ in range(times):
            there = self.proxies[number]
            status, _, answer = ask(there.address, CLIENT_PORT, "POST", "/v1/chat/completions", body, self.keys[key])
            assert status == 200, answer

    def expected(self, key):
        """SPENT, REQUESTS, TOKENS, out of the invoice; nothing where nothing was used."""
        rows = self.mock.rows(f"m-{key}")
        if not rows:
            return None, None, None
        return money(self.mock.billed(f"m-{key}")), len(rows), sum(row["input_tokens"] + row["output_tokens"] for row in rows)

    def wait_until_true(self, seconds):
        """Every column says what the invoice says."""
        wanted = {key: self.expected(key) for key in self.keys}
        begun = time.monotonic()
        deadline = begun + seconds
        while (shown := self._shown()) != self._wanted(wanted):
            assert time.monotonic() < deadline, f"after {seconds} s {shown}, wanted {self._wanted(wanted)}"
            time.sleep(0.1)
        return time.monotonic() - begun

    def _wanted(self, wanted):
        return {
            **{f"VirtualKey/{key}": columns for key, columns in wanted.items()},
            **{f"ModelDeployment/m-{key}": spent for key, (spent, _, _) in wanted.items()},
            "Team/t": wanted["team"][0],
        }

    def _shown(self):
        status = lambda kind, name: self.plane.api.get(where(self.namespace, kind, name)).get("status", {})
        columns = lambda there: (there.get("spent"), there.get("requests"), there.get("tokens"))
        return {
            **{f"VirtualKey/{key}": columns(status("VirtualKey", key)) for key in self.keys},
            **{f"ModelDeployment/m-{key}": status("ModelDeployment", f"m-{key}").get("spent") for key in self.keys},
            "Team/t": status("Team", "t").get("spent"),
        }

    def stop(self):
        for proxy in self.proxies:
            proxy.stop()


@pytest.fixture
def gateway(own_plane, crds, namespace, mock):
    gateway = Gateway(own_plane, namespace, mock)
    yield gateway
    gateway.stop()


def columns_of(plane, namespace, resource):
    """Of `kubectl get -o wide`: a dict for each line, by the head's names. Some are empty: their place tells them apart."""
    head, *lines = plane.kubectl.run("get", resource, "-o", "wide", "--namespace", namespace).splitlines()
    names = head.split()
    begins = [*(head.index(name) for name in names), None]
    cut = lambda line: {name: line[begin:end].strip() for name, begin, end in zip(names, begins, begins[1:])}
    return {columns["NAME"]: columns for columns in map(cut, lines)}


def test_columns_are_the_invoice_over_kills_of_proxies_and_of_the_leader(own_plane, start, gateway, namespace):
    first = start("first")
    first.wait_until_it_leads()
    gateway.start()
    for number, key in [(0, "own"), (1, "own"), (0, "team"), (1, "team"), (0, "alone"), (1, "alone")]:
        gateway.call(number, key, 5)
    took = gateway.wait_until_true(TRUE_WITHIN)
    print(f"true {took:.1f} s after the last settlement")
    key = columns_of(own_plane, namespace, "virtualkeys")["own"]
    spent, requests, tokens = gateway.expected("own")
    assert (key["SPENT"], key["REQUESTS"], key["TOKENS"]) == (spent, str(requests), str(tokens))
    assert columns_of(own_plane, namespace, "modeldeployments")["m-alone"]["SPENT"] == gateway.expected("alone")[0]

    # The leader is killed, calls go on, and a proxy with sums that nobody has taken is killed as well.
    second = start("second")
    first.kill()
    for number in range(2):
        gateway.call(number, "team", 7)
        gateway.call(number, "alone", 3)
    killed = gateway.proxies[0]
    killed.stop()
    killed.start()
    killed.process.wait_until(killed.is_ready)
    gateway.call(0, "alone", 2)
    second.wait_until_it_leads(60)
    shown_meanwhile = own_plane.api.get(where(namespace, "VirtualKey", "own"))["status"]
    assert (shown_meanwhile["spent"], shown_meanwhile["requests"]) == (spent, requests), "a new leader takes nothing back"
    gateway.wait_until_true(30)

    # Leaders are killed in the middle of it all, at moments that differ from run to run.
    third = start("third")
    for round in range(6):
        gateway.call(round % 2, "own", 2)
        gateway.call(1 - round % 2, "alone", 2)
        time.sleep(secrets.randbelow(1_000) / 1_000)
        if round == 3:
            second.kill()
    third.wait_until_it_leads(60)
    gateway.wait_until_true(30)


def test_a_pod_that_goes_leaves_what_it_counted(own_plane, start, gateway, namespace):
    start("only").wait_until_it_leads()
    gateway.start()
    pods = path("v1", "pods", namespace)
    names = {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in own_plane.api.get(pods)["items"]}
    leaving = gateway.proxies[1]
    pod = f"{pods}/{names[leaving.address]}"
    # As long as its process runs, a pod that was deleted is there.
    own_plane.api.merge(pod, {"metadata": {"finalizers": ["tollgate.dev/test"]}})
    gateway.call(1, "alone", 9)
    own_plane.api.delete(pod)
    assert leaving.finish() == 0
    assert "did not take" not in leaving.process.story(200)
    own_plane.api.merge(pod, {"metadata": {"finalizers": []}})
    gateway.wait_until_true(TRUE_WITHIN)


def month():
    return int(time.strftime("%Y%m", time.gmtime()))


@pytest.fixture
def fakes(own_plane, start, namespace):
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        object_of("LLMGateway", "default"),
    ], namespace=namespace)
    fakes = Proxies(own_plane.api, namespace, "default")
    yield fakes
    fakes.stop()


def test_columns_that_all_move_are_written_twenty_times_a_second(own_plane, start, fakes, namespace):
    keys, seconds = 400, 20
    fakes.tally = Tally()
    documents = [object_of("VirtualKey", f"k-{number}", models=["*"], keyHash="sha256:" + hashlib.sha256(str(number).encode()).hexdigest()) for number in range(keys)]
    own_plane.kubectl.apply(documents, namespace=namespace)
    operator = start("writer")
    operator.wait_until_it_leads()
    wait_for(own_plane, namespace, "VirtualKey", f"k-{keys - 1}", Programmed=("True", "Programmed"))
    operator.process.wait_until(lambda: operator.metric("status_queue") == 0)
    position, begun, rounds = own_plane.audit.position(), time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        rounds += 1
        for number in range(keys):
            fakes.tally.add("key", f"{namespace}/k-{number}", month(), 1, 10, 100_000)
        time.sleep(0.5)
    took = time.monotonic() - begun
    calls = [call for call in own_plane.audit.calls(position, "writer") if call.verb not in READS]
    counted = time.monotonic() - begun
    statuses = sum(call.subresource == "status" for call in calls)
    totals = sum("-usage-" in call.name for call in calls)
    print(f"in {took:.0f} s: {statuses} statuses, {totals} ConfigMaps of totals")
    # Twenty a second of statuses, two of totals and sixteen at once; neither is idle.
    assert 5 * took < statuses <= 20 * counted + 20
    assert took / 2 < totals <= 2 * counted + 17

    # And in the end all are true.
    operator.process.wait_until(lambda: fakes.tally.is_taken(), 90)
    maps = own_plane.api.get(path("v1", "configmaps", namespace), labelSelector="tollgate.dev/usage=default")["items"]
    totals = {name: numbers for each in maps for name, numbers in json.loads(each["data"]["usage.json"])["keys"].items()}
    amounts = [month(), rounds, 10 * rounds, 100_000 * rounds]
    assert totals == {f"{namespace}/k-{number}": amounts for number in range(keys)}
    is_true = lambda there: (there["status"].get("requests"), there["status"].get("spent")) == (rounds, money(amounts[3]))
    for number in (0, keys - 1):
        own_plane.api.wait_until(where(namespace, "VirtualKey", f"k-{number}"), is_true, 60)


def test_more_accounts_than_are_served_in_time_are_told(own_plane, start, fakes, namespace):
    operator = start("only")
    operator.wait_until_it_leads()
    own_plane.kubectl.apply([
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("Budget", "each", limit="2", period=LIFETIME, per="EndUser"),
    ], namespace=namespace)
    wait_for(own_plane, namespace, "Budget", "each", Programmed=("True", "Programmed"))
    budget = lambda number: f"{namespace}/Budget/each/user-{number}"
    fakes.spent = {budget(number): 1_000_000 for number in range(CEILING)}
    operator.process.wait_until(lambda: operator.metric("allocation_accounts", gateway="default") == CEILING)
    wait_for(own_plane, namespace, "LLMGateway", "default", WithinCapacity=("True", "WithinCapacity"))
    fakes.spent = {**fakes.spent, budget(CEILING): 1_000_000}
    gateway = wait_for(own_plane, namespace, "LLMGateway", "default", WithinCapacity=("False", "Degraded"), Ready=("True", "Ready"))
    message = next(each["message"] for each in gateway["status"]["conditions"] if each["type"] == "WithinCapacity")
    assert "spec.stores.redis" in message
    assert operator.metric("allocation_accounts", gateway="default") == CEILING + 1
