"""A gateway whose budgets are counted in a Redis: the operator hands out nothing, gives the URL to the proxies with their
credentials, brings what was spent before, reads what was spent, and tells of thresholds."""

import base64
import hashlib
import json

from harness.api import path
from harness.objects import TOLLGATE, object_of, secret_ref, wait_for, where
from harness.operator import Operator
from harness.proxies import Proxies
from harness.thresholds import wait_for_told


def shard(budget):
    return hashlib.sha256(budget.encode()).digest()[0] % 16


def spend(redis, gateway, budget, used, refused=0):
    """As the script writes it: the books of a budget for ever, with one account."""
    tag = f"tollgate:{{{gateway}#{shard(budget)}}}"
    forever = 2**63 - 1
    books = f"N lifetime 0 {forever} {forever} 0 -"
    redis.command("HSET", f"{tag}:budget:{budget}", "q", 1, "b:1", books, "a:1:replica.1", f"{2 * used} 0 {used} 0 1000000000 0")
    if refused:
        redis.command("HSET", f"{tag}:budget:{budget}", "r:1:replica.1", refused)
    else:
        redis.command("HDEL", f"{tag}:budget:{budget}", "r:1:replica.1")
    seconds = int(redis.command("TIME").split()[0])
    redis.command("ZADD", f"{tag}:changed", seconds * 1000, budget)


def test_what_was_spent_in_redis_is_in_the_statuses(own_plane, crds, namespace, redis):
    url = redis.url
    budget = {"limit": "10", "period": {"lifetime": {}}}
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": url}},
        {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "g"}, "spec": {"stores": {"redis": secret_ref("redis")}}},
        object_of("ModelDeployment", "m", provider="vllm", model="m", pricing={"free": True}, endpoint={"baseURL": "http://m:1"}),
        object_of("VirtualKey", "ci", models=["m"], keyHash="sha256:" + "41a6d46d" * 8, budget=budget),
    ], namespace=namespace)
    gateway = f"{namespace}/g"
    spend(redis, gateway, f"{namespace}/VirtualKey/ci", 2_500_000_000)
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))
    try:
        key = where(namespace, "VirtualKey", "ci")
        wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("True", "Active"))
        status = own_plane.api.wait_until(key, lambda there: there["status"].get("spent"))["status"]
        assert (status["spent"], status["usedPercent"]) == ("$2.50", "25%")
        # What changes is seen too, that calls do not fit any more, and a budget that is spent is said to be.
        spend(redis, gateway, f"{namespace}/VirtualKey/ci", 9_800_000_000, refused=300_000_000)
        wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("False", "NearLimit"))
        spend(redis, gateway, f"{namespace}/VirtualKey/ci", 9_900_000_000)
        wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("True", "Active"))
        spend(redis, gateway, f"{namespace}/VirtualKey/ci", 10_000_000_000)
        wait_for(own_plane, namespace, "VirtualKey", "ci", Active=("False", "Exhausted"))
        # The URL is a credential: in the Secret, and in no ConfigMap.
        secret = own_plane.api.get(path("v1", "secrets", namespace, "tollgate-g-credentials-0"))
        credentials = json.loads(base64.b64decode(secret["data"]["credentials.json"]))["credentials"]
        assert credentials == {f"{namespace}/redis/key": url}
        maps = own_plane.api.get(path("v1", "configmaps", namespace, None))["items"]
        assert all(url not in json.dumps(each) for each in maps)
        # Nothing is handed out here.
        assert not [each for each in maps if "budgets" in each["metadata"]["name"]]
        # A server that is away is told, and what is known stays.
        redis.process.kill()
        operator.process.wait_until(lambda: "cannot be read" in operator.process.story(400))
        assert own_plane.api.get(key)["status"]["spent"] == "$10.00"
    finally:
        operator.kill()


def test_what_was_spent_before_is_brought_to_redis(own_plane, crds, namespace, redis):
    budget = f"{namespace}/Budget/b"
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": redis.url}},
        object_of("LLMGateway", "g"),
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("Budget", "b", limit="2", period={"lifetime": {}}),
    ], namespace=namespace)
    proxies = Proxies(own_plane.api, namespace, "g")
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))

    books = path("v1", "configmaps", namespace, f"tollgate-g-budgets-{shard(budget):x}")
    deployment = path("apps/v1", "deployments", namespace, "tollgate-g")

    def allocator_of(there):
        return there["spec"]["template"]["metadata"].get("annotations", {}).get("tollgate.dev/allocator")

    try:
        wait_for(own_plane, namespace, "Budget", "b", Programmed=("True", "Programmed"))
        proxies.spent = {budget: 1_500_000_000}
        there = where(namespace, "Budget", "b")
        own_plane.api.wait_until(there, lambda budget: budget["status"].get("spent") == "$1.50")
        own_plane.api.wait_until(books, lambda there: there and "1500000000" in there["data"]["budgets.json"])
        assert allocator_of(own_plane.api.get(deployment)) is None
        own_plane.api.merge(where(namespace, "LLMGateway", "g"), {"spec": {"stores": {"redis": secret_ref("redis")}}})
        own_plane.api.wait_until(books, lambda there: there["data"]["budgets.json"] == "{}")
        tag = f"tollgate:{{{namespace}/g#{shard(budget)}}}"
        accounts = redis.command("HGETALL", f"{tag}:budget:{budget}").splitlines()
        assert [each for each in accounts if " 1500000000 " in each], accounts
        # Proxies decide when they start who hands out budgets.
        own_plane.api.wait_until(deployment, lambda there: allocator_of(there) == "redis")
        # What is spent from here on is added.
        number = next(field for field in accounts if field.startswith("b:")).removeprefix("b:")
        redis.command("HSET", f"{tag}:budget:{budget}", f"a:{number}:new.1", "300000000 0 250000000 0 0 0")
        redis.command("ZADD", f"{tag}:changed", int(redis.command("TIME").split()[0]) * 1000, budget)
        own_plane.api.wait_until(there, lambda budget: budget["status"].get("spent") == "$1.75")
    finally:
        operator.kill()
        proxies.stop()


def test_what_was_spent_comes_back_from_redis_or_is_waited_for(own_plane, crds, namespace, redis):
    budget = f"{namespace}/Budget/b"
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": redis.url}},
        {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "g"}, "spec": {"stores": {"redis": secret_ref("redis")}}},
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("Budget", "b", limit="2", period={"lifetime": {}}),
    ], namespace=namespace)
    proxies = Proxies(own_plane.api, namespace, "g")
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))
    gateway = where(namespace, "LLMGateway", "g")
    place = path("v1", "configmaps", namespace, "tollgate-g-books-0")

    def shows(spent):
        # A pod must be gone for half a minute before what it was granted is charged.
        there = where(namespace, "Budget", "b")
        own_plane.api.wait_until(there, lambda budget: budget["status"].get("spent") == spent, seconds=60)

    def books():
        there = own_plane.api.find(path("v1", "configmaps", namespace, f"tollgate-g-budgets-{shard(budget):x}"))
        return json.loads(there["data"]["budgets.json"]).get(budget) if there else None

    def set_redis(reference):
        own_plane.api.merge(gateway, {"spec": {"stores": {"redis": reference}}})

    try:
        wait_for(own_plane, namespace, "Budget", "b", Programmed=("True", "Programmed"))
        # What one proxy did that is gone, and one that asks the operator.
        spend(redis, f"{namespace}/g", budget, 600_000_000)
        shows("$0.60")
        proxies.spent = {budget: 300_000_000}
        shows("$0.90")
        # Redis is away when it is removed: nobody begins anew, and it is said where the books are.
        redis.process.pause()
        set_redis(None)
        condition = {"WithinCapacity": ("False", "BooksUnreached")}
        there = wait_for(own_plane, namespace, "LLMGateway", "g", **condition)
        message = next(each["message"] for each in there["status"]["conditions"] if each["type"] == "WithinCapacity")
        assert "tollgate.dev/forget-redis" in message
        assert books() is None
        redis.process.resume()
        own_plane.api.wait_until(place, lambda there: there["data"]["books.json"] == "{}")
        wait_for(own_plane, namespace, "LLMGateway", "g", WithinCapacity=("True", "WithinCapacity"))
        accounts = [each for of_period in books()["books"] for each in of_period["accounts"].values()]
        assert sum(max(each["granted"] - each["returned"], each["used"]) for each in accounts) >= 1_500_000_000
        # The one that asks goes on; what the other was granted is charged, when it is clear that it is gone.
        proxies.spent = {budget: 400_000_000}
        shows("$1.60")
        # There again, and gone for good: only what people say begins anew.
        set_redis(secret_ref("redis"))
        own_plane.api.wait_until(place, lambda there: "redis" in there["data"]["books.json"])
        operator.process.wait_until(lambda: books() is None)
        proxies.spent = {}
        redis.process.kill()
        set_redis(None)
        wait_for(own_plane, namespace, "LLMGateway", "g", **condition)
        own_plane.api.merge(gateway, {"metadata": {"annotations": {"tollgate.dev/forget-redis": "redis"}}})
        wait_for(own_plane, namespace, "LLMGateway", "g", WithinCapacity=("True", "WithinCapacity"))
        proxies.spent = {budget: 100_000_000}
        shows("$0.10")
    finally:
        operator.kill()
        proxies.stop()


def test_members_that_nobody_told_of_for_long_are_in_the_sums(own_plane, crds, namespace, redis):
    ends = f"{namespace}/Budget/ends"
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": redis.url}},
        {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "g"}, "spec": {"stores": {"redis": secret_ref("redis")}}},
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("Budget", "ends", limit="2", per="EndUser", period={"lifetime": {}}),
    ], namespace=namespace)
    for member in ("alice", "bob"):
        spend(redis, f"{namespace}/g", f"{ends}/{member}", 250_000_000)
        tag = f"tollgate:{{{namespace}/g#{shard(f'{ends}/{member}')}}}"
        redis.command("DEL", f"{tag}:changed")
        redis.command("ZADD", f"{tag}:kept", 2**62, f"{ends}/{member}")
    proxies = Proxies(own_plane.api, namespace, "g")
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))
    try:
        there = where(namespace, "Budget", "ends")
        own_plane.api.wait_until(there, lambda budget: budget.get("status", {}).get("spent") == "$0.50")
    finally:
        operator.kill()
        proxies.stop()


def test_thresholds_of_a_budget_in_redis_are_told(own_plane, crds, namespace, redis):
    budget = f"{namespace}/Budget/b"
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"key": redis.url}},
        {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "g"}, "spec": {"stores": {"redis": secret_ref("redis")}}},
        object_of("ModelDeployment", "m", provider="vllm", model="m", pricing={"free": True}, endpoint={"baseURL": "http://m:1"}),
        object_of("VirtualKey", "ci", models=["m"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("Budget", "b", limit="2", period={"lifetime": {}}, thresholds=[{"percent": 50}, {"percent": 100}]),
    ], namespace=namespace)
    proxies = Proxies(own_plane.api, namespace, "g")
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))
    try:
        wait_for(own_plane, namespace, "Budget", "b", Programmed=("True", "Programmed"))
        spend(redis, f"{namespace}/g", budget, 1_200_000_000)
        told = wait_for_told(own_plane, namespace, "b", 1)
        assert "has passed 50 %: $1.2 of $2 are spent" in told[0]
        # Another leader reads what the first told, and tells what comes.
        operator.kill()
        operator = Operator(own_plane, "next", [namespace], own_plane.make_kubeconfig("next", ["system:masters"]))
        spend(redis, f"{namespace}/g", budget, 2_000_000_000)
        told = wait_for_told(own_plane, namespace, "b", 2)
        assert any("has passed 100 %" in note for note in told)
    finally:
        operator.kill()
        proxies.stop()
