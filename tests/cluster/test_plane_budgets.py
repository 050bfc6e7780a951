"""Budgets at a real API server: members that calls bring are granted allowance, and who wants to know is told."""

import http.server
import json
import queue
import threading
import time

import pytest

from harness.api import path
from harness.mock import own_address
from harness.objects import object_of, wait_for, where
from harness.proxies import Proxies
from harness.thresholds import wait_for_told

LIFETIME = {"lifetime": {}}


@pytest.fixture
def proxies(own_plane, start, namespace):
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        object_of("LLMGateway", "default"),
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8, limits={"parallelRequests": 4}),
    ], namespace=namespace)
    proxies = Proxies(own_plane.api, namespace, "default")
    yield proxies
    proxies.stop()


@pytest.fixture
def receiver():
    """A webhook's URL that leads nowhere inside a cluster, and what it received."""
    received = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], received
    server.shutdown()


def status_becomes(plane, namespace, name, **fields):
    def holds(there):
        status = (there or {}).get("status", {})
        return all(status.get(field) == value for field, value in fields.items())

    return plane.api.wait_until(where(namespace, "Budget", name), holds)


def books_of(own_plane, namespace):
    shards = own_plane.api.get(path("v1", "configmaps", namespace), labelSelector="tollgate.dev/allocations")["items"]
    return {budget: book for shard in shards for budget, book in json.loads(shard["data"]["budgets.json"]).items()}


def test_members_that_calls_bring_are_granted_and_summed(own_plane, start, proxies, namespace):
    start("one").wait_until_it_leads()
    own_plane.kubectl.apply(object_of("Budget", "each", limit="2", period=LIFETIME, per="EndUser"), namespace=namespace)
    wait_for(own_plane, namespace, "Budget", "each", Programmed=("True", "Programmed"))
    proxies.spent = {f"{namespace}/Budget/each/{user}": used for user, used in [("alice", 2_000_000_000), ("b/ob", 500_000_000)]}
    there = status_becomes(own_plane, namespace, "each", spent="$2.50", limit="$2.00", usedPercent="100%", maxOvershoot="$0.00")
    available = next(each for each in there["status"]["conditions"] if each["type"] == "Available")
    assert (available["status"], available["message"]) == ("True", "1 of the 2 members in use have spent their limit")
    # What was used is written some seconds after it is shown.
    deadline = time.monotonic() + 20
    while f"{namespace}/Budget/each/alice" not in (books := books_of(own_plane, namespace)):
        assert time.monotonic() < deadline, books
        time.sleep(0.2)
    assert f"{namespace}/Budget/each" not in books


def test_a_budget_and_a_key_whose_calls_do_not_fit_any_more_say_so(own_plane, start, proxies, namespace):
    start("one").wait_until_it_leads()
    own_plane.kubectl.apply(object_of("Budget", "b", limit="1", period=LIFETIME), namespace=namespace)
    wait_for(own_plane, namespace, "Budget", "b", Programmed=("True", "Programmed"))
    budget = f"{namespace}/Budget/b"
    proxies.spent = {budget: 980_000_000}
    status_becomes(own_plane, namespace, "b", spent="$0.98", usedPercent="98%")
    wait_for(own_plane, namespace, "Budget", "b", Available=("True", "Available"))
    proxies.refused = {budget: 50_000_000}
    wait_for(own_plane, namespace, "Budget", "b", Available=("False", "NearLimit"))
    wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("False", "NearLimit"))
    # A smaller call was admitted.
    proxies.spent, proxies.refused = {budget: 990_000_000}, {}
    wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("True", "Active"))
    wait_for(own_plane, namespace, "Budget", "b", Available=("True", "Available"))


def test_thresholds_are_told_once_also_by_the_next_leader(own_plane, start, proxies, receiver, namespace):
    port, received = receiver
    address = own_address()
    first = start("one")
    first.wait_until_it_leads()
    url = f"http://{address}:{port}/hook?secret=part"
    webhook = {"secretRef": {"name": "alerts", "key": "url"}}
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "Secret", "stringData": {"url": url},
         "metadata": {"name": "alerts", "annotations": {"tollgate.dev/hosts": address}}},
        object_of("Budget", "b", limit="2", period=LIFETIME, enforcement="Soft",
                  thresholds=[{"percent": 50}, {"percent": 80, "webhook": webhook}, {"percent": 100, "webhook": webhook}]),
        object_of("ModelDeployment", "m", provider="openai-compatible", endpoint={"baseURL": "http://models.example.com/v1"},
                  model="m", pricing={"like": "openai/gpt-4o"}, probe={"mode": "None"}),
    ], namespace=namespace)
    wait_for(own_plane, namespace, "Budget", "b", Programmed=("True", "Programmed"), ResolvedRefs=("True", "ResolvedRefs"))
    budget_id = f"{namespace}/Budget/b"
    proxies.spent = {budget_id: 1_700_000_000}
    message = received.get(timeout=60)
    assert (message["percent"], message["budget"], message["spent"], message["limit"]) == (80, f"{namespace}/b", "1.7", "2")
    assert message["text"].startswith(f"Budget `{namespace}/b` has passed 80 %: $1.7 of $2 are spent")
    wait_for_told(own_plane, namespace, "b", 2)
    # Two proxies: each may have had any number of calls that the other has not heard of.
    status_becomes(own_plane, namespace, "b", spent="$1.70", maxOvershoot="unbounded")
    own_plane.api.merge(where(namespace, "VirtualKey", "ci"), {"spec": {"limits": {"requestsPerMinute": 60}}})
    # 4 calls at once and 120 before, at each, of 128,000 tokens in and 16,384 out.
    status_becomes(own_plane, namespace, "b", maxOvershoot="$203.9870")

    first.kill()
    # As if its time was over: nobody waits for that here.
    own_plane.api.delete(first.lease)
    start("two").wait_until_it_leads()
    proxies.spent = {budget_id: 2_000_000_000}
    assert received.get(timeout=60)["percent"] == 100, "what the first told is not told again"
    wait_for_told(own_plane, namespace, "b", 3)
    kept = own_plane.api.get(path("v1", "configmaps", namespace, "tollgate-default-alerts"))["data"]["alerts.json"]
    assert "secret=part" not in kept and json.loads(kept)["told"][budget_id]["percents"] == [50, 80, 100]
    assert received.empty()
