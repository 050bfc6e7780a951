"""Measures the operator on a control plane of its own, and prints what docs/kubernetes/figures.md holds: `tests/run figures`.

First with a dozen objects and two proxies, then with as many as are planned for, then budgets that are all in use in all
proxies. Proxies are `FakeFleet`: one process that answers for all of them, each with a watch of the tables as a real one
has; `--real` of them are `tollgate dataplane`."""

import argparse
import collections
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import queue
import re
import secrets
import socketserver
import statistics
import sys
import threading
import time

import urllib3

from harness import programs
from harness.api import ApiError, path
from harness.objects import object_of, where
from harness.operator import Operator
from harness.plane import Plane
from harness.proxies import Tally
from harness.proxy import STATUS_PORT, Proxy
from harness.run_folder import RunFolder

NAMESPACE = "figures"
GATEWAY = "g"
MANIFEST = path("v1", "configmaps", NAMESPACE, f"tollgate-{GATEWAY}-manifest")
READS = ("get", "list", "watch")
CREATORS = 16
CREATE_TRIES = 10
IDLE_SECONDS = 60
GRANT_SECONDS = 40
# Calls that find no allowance at their proxy, in all of them: as many as the writes allow beside what was used, and more
# than that.
GRANTS_A_SECOND = (5, 50)
HERTZ = os.sysconf("SC_CLK_TCK")
GENERATION = re.compile(rb'\\"generation\\":\s*(\d+)')


class FakeProxy:
    """A status port at an address of its own, which says to run what its watch brought."""

    def __init__(self, fleet, address):
        self.fleet = fleet
        self.generation = 0
        self.bytes = 0
        self.tally = Tally(address)
        self.spender = None
        handler = type("Handler", (Handler,), {"proxy": self})
        self._server = Server((address, STATUS_PORT), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            self._follow()
        except urllib3.exceptions.HTTPError:
            # At the end the API server goes away.
            if not self.fleet.stopping.is_set():
                raise

    def _follow(self):
        where = path("v1", "configmaps", NAMESPACE)
        selector = f"tollgate.dev/gateway={GATEWAY},tollgate.dev/tables"
        api = self.fleet.plane.api
        version = None
        while not self.fleet.stopping.is_set():
            if version is None:
                listed = api.get(where, labelSelector=selector)
                version = listed["metadata"]["resourceVersion"]
                for there in listed["items"]:
                    if there["metadata"]["name"].endswith("-manifest"):
                        self.generation = json.loads(there["data"]["manifest.json"])["generation"]
            query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "600", "labelSelector": selector}
            answer = self.fleet.pool.request("GET", f"{self.fleet.plane.url}{where}", fields=query, preload_content=False, timeout=None)
            version, rest = None, b""
            for piece in answer.stream(1 << 20, decode_content=True):
                self.bytes += len(piece)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if b"-manifest" in line[-2_000:] or b"-manifest" in line[:2_000]:
                        if found := GENERATION.search(line):
                            self.generation = int(found.group(1))


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Operators that end do not wait for answers."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def server_bind(self):
        # Not HTTPServer's, which looks for the address's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy = None

    def do_GET(self):
        if self.path == "/snapshot":
            self._answer({"generation": self.proxy.generation, "version": "figures", "ready": True})
        else:
            self._answer({"cursor": 1, "keys": [], "deployments": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/operator/tally":
            self._answer(self.proxy.tally.answer(body))
        elif self.path == "/operator/allowance" and self.proxy.spender:
            self._answer(self.proxy.spender.answer(body))
        else:
            # Nothing is needed: the question stays open as long as it may.
            self.proxy.fleet.stopping.wait(body.get("waitMs", 0) / 1000)
            self._answer({"batches": []})

    def _answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Nobody reads it."""


class Spender:
    """What a proxy tells of its budgets: all are in use and change with every report, and some calls wait for allowance."""

    FOREVER = (1 << 63) - 1
    SPAN = {"kind": "Lifetime", "starts_at": 0, "ends_at": FOREVER, "counts_until": FOREVER, "label": "lifetime"}
    # As proxies do (ledger/src/allowance.rs).
    TELL_SECONDS = 2

    def __init__(self, name, budgets, waiting_a_second):
        self.replica = f"{name}.1"
        self.budgets = {budget: {"granted": 0, "used": 0} for budget in budgets}
        self.names = list(budgets)
        self.pause = 1 / waiting_a_second
        self.next_wait = time.monotonic() + self.pause
        self.told_at = 0
        # Calls that wait: since when, for which total.
        self.waits = {}
        self.latencies = []

    def answer(self, exchange):
        now = time.monotonic()
        for answers in exchange.get("answers", []):
            for answer in answers["answers"]:
                account = self.budgets[answer["budget"]]
                account["granted"] = max(account["granted"], answer["granted"])
                since, wanted = self.waits.get(answer["budget"], (None, 0))
                if since and account["granted"] >= wanted:
                    self.latencies.append(now - since)
                    del self.waits[answer["budget"]]
        # The question stays open until something is worth telling.
        time.sleep(max(0, min(self.next_wait, self.told_at + self.TELL_SECONDS) - now))
        now, reports = time.monotonic(), []
        if now >= self.next_wait and len(self.waits) < len(self.names):
            self.next_wait = now + self.pause
            budget = secrets.choice(self.names)
            account = self.budgets[budget]
            if budget not in self.waits:
                self.waits[budget] = (now, account["granted"] + 1_000_000)
                reports.append(self.report(budget))
        if now - self.told_at >= self.TELL_SECONDS:
            self.told_at = now
            for account in self.budgets.values():
                account["used"] = min(account["used"] + 1_000, account["granted"])
            reports = [self.report(budget) for budget in self.names]
        return {"batches": [{"replica": self.replica, "reports": reports}]}

    def report(self, budget):
        account = self.budgets[budget]
        wanted = self.waits[budget][1] if budget in self.waits else 0
        return {"budget": budget, "unit": "NanoUsd", "span": self.SPAN, "returned": 0, "used": account["used"], "held": 0, "wanted": wanted}


class FakeFleet:
    """Proxies for all pods of the gateway: `real` of them are processes."""

    def __init__(self, plane, count, real):
        self.plane = plane
        self.stopping = threading.Event()
        pool = plane.api._pool
        self.pool = urllib3.PoolManager(**pool.connection_pool_kw, num_pools=4, maxsize=count, block=False)
        network = f"127.{20 + secrets.randbelow(200)}.{secrets.randbelow(250)}"
        addresses = [f"{network}.{number + 2}" for number in range(count)]
        self.real = [
            Proxy(plane, f"proxy-{number}", f"{NAMESPACE}/{GATEWAY}", plane.make_kubeconfig("proxy", ["system:masters"]), address)
            for number, address in enumerate(addresses[:real])
        ]
        self.fakes = [FakeProxy(self, address) for address in addresses[real:]]
        for proxy in self.real:
            proxy.process.wait_until(proxy.is_ready, 120)
        pods = path("v1", "pods", NAMESPACE)
        deadline = time.monotonic() + 120
        while len(listed := plane.api.get(pods)["items"]) < count:
            assert time.monotonic() < deadline, f"{len(listed)} of {count} pods are there"
            time.sleep(0.1)
        for pod, address in zip(listed, addresses):
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
            plane.api.merge(f"{pods}/{pod['metadata']['name']}/status", {"status": status})

    def bytes(self):
        return sum(proxy.bytes for proxy in self.fakes)

    def stop(self):
        self.stopping.set()
        for proxy in self.real:
            proxy.stop()


def key(number, budgets):
    return object_of(
        "VirtualKey", f"key-{number}", models=["model-*"], budgetRefs=[{"name": f"budget-{number % budgets}"}],
        keyHash="sha256:" + hashlib.sha256(f"figures {number}".encode()).hexdigest(),
    )


def documents(keys, budgets, models):
    for number in range(models):
        endpoint = {"baseURL": f"http://10.0.{number // 250}.{number % 250 + 1}:8000/v1"}
        pricing = {"perMillionTokens": {"input": "2.50", "output": "10"}}
        yield object_of("ModelDeployment", f"model-{number}", provider="openai-compatible", endpoint=endpoint, model="m", pricing=pricing, probe={"mode": "None"})
    for number in range(budgets):
        # Binds who names it; without a selector it would bind every key of the namespace.
        selector = {"keySelector": {"matchLabels": {"budget": str(number)}}}
        yield object_of("Budget", f"budget-{number}", limit="100", period={"calendar": "Month"}, appliesTo=selector)
    for number in range(keys):
        yield key(number, budgets)


def create_all(plane, documents):
    """With many connections; seconds."""
    waiting, failures = queue.Queue(), []
    begun = time.monotonic()
    for document in documents:
        waiting.put(document)

    def create():
        while True:
            try:
                document = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                create_one(plane, document)
            except ApiError as error:
                failures.append(error)
                return

    creators = [threading.Thread(target=create) for _ in range(CREATORS)]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join()
    assert not failures, failures[0]
    return time.monotonic() - begun


def create_one(plane, document):
    """An API server on a busy machine loses its database for a moment now and then."""
    for left in reversed(range(CREATE_TRIES)):
        try:
            plane.api.create(where(NAMESPACE, document["kind"]), document)
            return
        except ApiError as error:
            if error.code == 409:
                return
            if error.code < 500 or not left:
                raise
            time.sleep(1)


class Measured:
    """What an operator or a proxy needs: memory and processor time of its process."""

    def __init__(self, program):
        self.pid = program.process.child.pid

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / HERTZ

    def memory(self):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        megabytes = lambda name: int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M).group(1)) / 1024
        return f"{megabytes('VmRSS'):.0f} MB resident, of which {megabytes('RssAnon'):.0f} MB are not the program itself (most so far: {megabytes('VmHWM'):.0f} MB)"


def say(what, figure):
    print(f"| {what} | {figure} |", flush=True)


def spread(values, unit="ms", factor=1000):
    return f"{factor * statistics.median(values):.0f} {unit} (median), {factor * max(values):.0f} {unit} (most)"


def wait_for_manifest(plane, seconds=600):
    plane.api.wait_until(MANIFEST, bool, seconds)


def wait_until_quiet(operator, seconds):
    """Nothing waits to be written, twice in a row over renewals of the Lease."""
    quiet, deadline = 0, time.monotonic() + seconds
    while quiet < 3:
        operator.renewals(1)
        quiet = quiet + 1 if operator.metric("status_queue") == 0 else 0
        assert time.monotonic() < deadline, f"{operator.metric('status_queue')} statuses wait after {seconds} s"


def edit(plane, proxies, kind, name, spec):
    """Seconds from the request that edits to the next manifest, until each of `proxies` runs it, and to Programmed=True of
    this version."""
    place = where(NAMESPACE, kind, name)
    collection, _ = place.rsplit("/", 1)
    before = json.loads(plane.api.get(MANIFEST)["data"]["manifest.json"])["generation"]
    # Of a list: an object's own may be so old that nobody can watch from there any more.
    version, manifest_version = (plane.api.get(place, limit=1)["metadata"]["resourceVersion"] for place in (collection, path("v1", "configmaps", NAMESPACE)))
    published, served, programmed = [], [], []

    def follow():
        maps = path("v1", "configmaps", NAMESPACE)
        for _ in plane.api.watch(maps, manifest_version, seconds=60, fieldSelector=f"metadata.name={MANIFEST.rsplit('/', 1)[1]}"):
            published.append(time.monotonic())
            return

    def ask():
        deadline = time.monotonic() + 60
        while any(proxy.generation() <= before for proxy in proxies) and time.monotonic() < deadline:
            time.sleep(0.01)
        served.append(time.monotonic())

    followers = [threading.Thread(target=each) for each in (follow, ask)]
    events = plane.api.watch(collection, version, seconds=60, fieldSelector=f"metadata.name={name}")
    for follower in followers:
        follower.start()
    begun = time.monotonic()
    generation = plane.api.merge(place, {"spec": spec})["metadata"]["generation"]
    for _, there in events:
        conditions = {each["type"]: each for each in there.get("status", {}).get("conditions", [])}
        condition = conditions.get("Programmed", {})
        if condition.get("observedGeneration") == generation and condition.get("status") == "True":
            programmed.append(time.monotonic())
            break
    for follower in followers:
        follower.join()
    assert published and programmed, f"{kind} {name} was not programmed within a minute"
    return published[0] - begun, served[0] - begun, programmed[0] - begun


def edits(plane, operator, fleet, count, kind, name, spec_of):
    measured = Measured(operator)
    cpu, sent, position = measured.cpu_seconds(), fleet.bytes(), plane.audit.position()
    times = [edit(plane, fleet.real, kind, name, spec_of(number)) for number in range(count)]
    operator.renewals(2)
    published, served, programmed = zip(*times)
    say(f"from an edit of a {kind} to its tables", spread(published))
    if fleet.real:
        say(f"from an edit of a {kind} until the real proxies serve it", spread(served))
    say(f"from an edit of a {kind} to `Programmed=True`", spread(programmed))
    say("processor time of the operator for one", f"{1000 * (measured.cpu_seconds() - cpu) / count:.0f} ms")
    say("bytes that the API server sends to all proxies for one", f"{(fleet.bytes() - sent) / count / 1e6:.2f} MB")
    calls = plane.audit.calls(position, operator.name)
    writes = collections.Counter(f"{call.verb} {call.resource}/{call.subresource}".rstrip("/") for call in calls if call.verb not in READS and call.resource not in ("leases", "events"))
    say("requests that write, for one", ", ".join(f"{name}: {number / count:.1f}" for name, number in sorted(writes.items())))


def idle(plane, operator, seconds=IDLE_SECONDS):
    measured = Measured(operator)
    cpu, position = measured.cpu_seconds(), plane.audit.position()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        operator.renewals(1)
    took = time.monotonic() - begun
    calls = plane.audit.calls(position, operator.name)
    writes = collections.Counter(call.resource for call in calls if call.verb not in READS)
    others = {name: number for name, number in writes.items() if name != "leases"}
    say("requests that write, idle", f"the Lease, every {took / writes['leases']:.1f} s; others: {others or 'none'}")
    say("processor time of the operator, idle", f"{1000 * (measured.cpu_seconds() - cpu) / took:.1f} ms a second")


def start(plane, name):
    return Operator(plane, name, [NAMESPACE], plane.make_kubeconfig(name, ["system:masters"]))


def handovers(plane, first):
    second = start(plane, "second")
    begun = time.monotonic()
    first.process.child.terminate()
    second.wait_until_it_leads(60)
    say("a leader that stops: until the next one leads", f"{time.monotonic() - begun:.2f} s")
    first.stop()
    third = start(plane, "third")
    begun = time.monotonic()
    second.kill()
    third.wait_until_it_leads(60)
    say("a leader that is killed: until the next one leads", f"{time.monotonic() - begun:.1f} s")
    return third


def small(plane):
    print("\nA dozen objects, two proxies\n", flush=True)
    create_all(plane, documents(keys=6, budgets=2, models=3))
    operator = start(plane, "first")
    wait_for_manifest(plane)
    with contextlib.closing(Stoppable(FakeFleet(plane, 2, 0))) as fleet:
        wait_until_quiet(operator, 60)
        idle(plane, operator)
        say("memory", Measured(operator).memory())
        edits(plane, operator, fleet.it, 20, "ModelDeployment", "model-0", lambda number: {"weight": number + 2})
        edits(plane, operator, fleet.it, 20, "VirtualKey", "key-0", lambda number: {"disabled": number % 2 == 0})
        handovers(plane, operator).stop()
    for kind in ["VirtualKey", "Budget", "ModelDeployment"]:
        plane.api.delete(where(NAMESPACE, kind))


class Patience:
    """Asks whether an operator lives, all the time, and knows how long it took at most."""

    def __init__(self, operator):
        self._operator, self._longest, self._stopped = operator, 0, threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self):
        while not self._stopped.wait(0.02):
            begun = time.monotonic()
            self._operator.answers(60)
            self._longest = max(self._longest, time.monotonic() - begun)

    def say(self, when):
        say(f"the longest that `/livez` took, {when}", f"{1000 * self._longest:.0f} ms")
        self._longest = 0

    def close(self):
        self._stopped.set()
        self._thread.join()


class Stoppable:
    """For `with`: a fleet that stops."""

    def __init__(self, fleet):
        self.it = fleet
        self.close = fleet.stop


def large(plane, keys, budgets, models, proxies, real, wait):
    print(f"\n{keys:,} keys, {budgets:,} budgets, {models:,} models, {proxies} proxies ({real} of them real)\n", flush=True)
    took = create_all(plane, documents(keys, budgets, models))
    say("(the API server takes the objects)", f"{took:.0f} s")
    plane.api.merge(where(NAMESPACE, "LLMGateway", GATEWAY), {"spec": {"replicas": proxies}})
    manifest = plane.api.find(MANIFEST)
    before = json.loads(manifest["data"]["manifest.json"])["generation"] if manifest else 0
    begun = time.monotonic()
    operator = start(plane, "large")
    is_published = lambda there: there and json.loads(there["data"]["manifest.json"])["generation"] > before
    plane.api.wait_until(MANIFEST, is_published, 600)
    say("from the start of the operator to the tables", f"{time.monotonic() - begun:.1f} s")
    with contextlib.closing(Patience(operator)) as patience, contextlib.closing(Stoppable(FakeFleet(plane, proxies, real))) as fleet:
        operator.process.wait_until(lambda: operator.metric("proxies", state="ready") == proxies, 600)
        say("from the start of the operator to all proxies ready", f"{time.monotonic() - begun:.1f} s")
        patience.say("until all proxies were ready")
        if wait:
            wait_until_quiet(operator, 120 + (keys + budgets + models) // 40)
            say("from the start of the operator to every status", f"{time.monotonic() - begun:.0f} s")
            patience.say("while statuses were written")
        else:
            say("(statuses that wait while edits are made)", f"{operator.metric('status_queue'):.0f}")
        edits(plane, operator, fleet.it, 20, "VirtualKey", "key-0", lambda number: {"disabled": number % 2 == 0})
        edits(plane, operator, fleet.it, 20, "ModelDeployment", "model-0", lambda number: {"weight": number + 2})
        patience.say("while edits were made")
        patience.close()
        if wait:
            idle(plane, operator)
        compiled = operator.metric("compile_seconds_count")
        say("to compile everything and its tables' texts", f"{1000 * operator.metric('compile_seconds_sum') / compiled:.0f} ms (mean of {compiled:.0f})")
        say("memory", Measured(operator).memory())
        for proxy in fleet.it.real[:1]:
            say("memory of a real proxy", Measured(proxy).memory())
        tables = plane.api.get(path("v1", "configmaps", NAMESPACE), labelSelector="tollgate.dev/tables")["items"]
        sizes = [len(value) for there in tables for value in there["data"].values()]
        say("the tables", f"{len(sizes)} ConfigMaps, {sum(sizes) / 1e6:.1f} MB, the largest {max(sizes) / 1e3:.0f} kB")
    operator.stop()


def allocator(plane, accounts, proxies):
    """`accounts`: how many are in use, in all proxies together."""
    members = accounts // proxies
    print(f"\n{members * proxies:,} accounts: {members:,} budgets, each in use in {proxies} proxies\n", flush=True)
    plane.api.merge(where(NAMESPACE, "LLMGateway", GATEWAY), {"spec": {"replicas": proxies}})
    # The limit is large, so that each wish is granted, and each grant is a write.
    budgets = [f"spend-{number}" for number in range(-(-members // 4_000))]
    create_all(plane, [object_of("Budget", name, limit="1000000", period={"lifetime": {}}, per="EndUser") for name in budgets])
    create_all(plane, [object_of("VirtualKey", "spender", models=["*"], keyHash="sha256:" + "01234567" * 8)])
    operator = start(plane, f"allocator-{accounts}")
    wait_for_manifest(plane)
    names = [f"{NAMESPACE}/Budget/{budgets[number % len(budgets)]}/user-{number:05}@example.com" for number in range(members)]
    with contextlib.closing(Stoppable(FakeFleet(plane, proxies, 0))) as fleet:
        operator.process.wait_until(lambda: operator.metric("proxies", state="ready") == proxies, 120)
        spenders = [Spender(f"proxy-{number}", names, GRANTS_A_SECOND[0] / proxies) for number in range(proxies)]
        for proxy, spender in zip(fleet.it.fakes, spenders):
            proxy.spender = spender
        operator.process.wait_until(lambda: operator.metric("allocation_accounts") == members * proxies, 120)
        for rate in GRANTS_A_SECOND:
            grants(plane, operator, spenders, rate)
        say("memory", Measured(operator).memory())
        operator.stop()
    for name in budgets:
        plane.api.delete(where(NAMESPACE, "Budget", name))
    for each in books(plane):
        plane.api.delete(path("v1", "configmaps", NAMESPACE, each["metadata"]["name"]))


def books(plane):
    return plane.api.get(path("v1", "configmaps", NAMESPACE), labelSelector=f"tollgate.dev/allocations={GATEWAY}")["items"]


def grants(plane, operator, spenders, rate):
    """How long calls wait for allowance when `rate` of them begin to wait in a second, or as many as can."""
    for spender in spenders:
        spender.pause = len(spenders) / rate
        spender.latencies.clear()
    measured, position = Measured(operator), plane.audit.position()
    cpu, begun = measured.cpu_seconds(), time.monotonic()
    while time.monotonic() - begun < GRANT_SECONDS:
        operator.renewals(1)
    took, cpu = time.monotonic() - begun, measured.cpu_seconds() - cpu
    latencies = sorted(latency for spender in spenders for latency in spender.latencies)
    calls = plane.audit.calls(position, operator.name)
    writes = sum(call.resource == "configmaps" and call.verb not in READS for call in calls)
    sizes = [len(each["data"]["budgets.json"]) for each in books(plane)]
    say(f"allowance for calls that wait, {len(latencies) / took:.1f} a second", f"{spread(latencies)}; 99 % within {1000 * latencies[len(latencies) * 99 // 100]:.0f} ms")
    say("writes of books meanwhile", f"{writes / took:.1f} a second, {writes / took * statistics.mean(sizes) / 1e3:.0f} kB a second; the largest holds {max(sizes) / 1e3:.0f} kB")
    say("processor time of the operator", f"{1000 * cpu / took:.0f} ms a second")


def main():
    arguments = argparse.ArgumentParser(prog="tests/run figures", description=__doc__)
    arguments.add_argument("--keys", type=int, default=100_000)
    arguments.add_argument("--budgets", type=int, default=5_000)
    arguments.add_argument("--models", type=int, default=500)
    arguments.add_argument("--proxies", type=int, default=50)
    arguments.add_argument("--real", type=int, default=2, help="how many of the proxies are processes")
    arguments.add_argument("--only", choices=["small", "large", "allocator"])
    arguments.add_argument("--accounts", type=int, nargs="*", default=[500, 2_000, 5_000, 10_000], help="budgets in use, times the proxies that use each")
    arguments.add_argument("--spenders", type=int, default=10, help="proxies that use each of those budgets")
    arguments.add_argument("--no-wait", action="store_true", help="edit while statuses are still written for the first time")
    given = arguments.parse_args()
    folder = RunFolder()
    (folder.path / "plane").mkdir()
    print(f"{programs.gateway()} on {os.cpu_count()} processors, beside the API server")
    plane = Plane(folder.path / "plane")
    try:
        plane.install_crds()
        plane.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}}
        plane.kubectl.apply([account, object_of("LLMGateway", GATEWAY, replicas=2)], namespace=NAMESPACE)
        if given.only in (None, "small"):
            small(plane)
        if given.only in (None, "large"):
            large(plane, given.keys, given.budgets, given.models, given.proxies, given.real, not given.no_wait)
        if given.only in (None, "allocator"):
            for accounts in given.accounts:
                allocator(plane, accounts, given.spenders)
    finally:
        plane.stop()
        folder.remove()


if __name__ == "__main__":
    main()
