"""Tollgate as a user installs it: both charts by helm, a gateway of two proxies, a namespace of a tenant, and a mock
provider in it."""

import base64
import http.client
import json
import time

from harness import cluster as any_cluster
from harness import programs
from harness.api import path
from harness.helm import Helm
from harness.kubectl import to_yaml
from harness.provider import Provider

CHARTS = programs.REPOSITORY / "charts"
# The definitions are one release of the cluster, whatever else is installed.
CRDS_NAMESPACE = "default"
VERSION = "tollgate.dev/v1alpha1"
READY_SECONDS = 90
# After the last call, what it cost is in the columns.
SPENT_SECONDS = 10
# What helm may wait: proxies that drain, among others.
HELM_SECONDS = 180
STATUS_PORT = 4001


class Installation:
    """Installed when it is made; `uninstall` removes it. `namespace` holds operator and gateway, `tenant` what is served."""

    def __init__(self, cluster, image, values=None):
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self.api = cluster.api
        self.helm = Helm(cluster)
        self.tenant = cluster.make_namespace("tenant", {"llm": "allowed"})
        self.namespace = cluster.make_namespace("tollgate")
        self.url = f"http://tollgate.{self.namespace}.svc"
        self._values = self._usual_values(image)
        _merge(self._values, values or {})
        self._install_definitions()
        self.upgrade()
        self.provider = Provider(cluster, self.tenant, image)
        self.wait_for_gateway()

    def upgrade(self, values=None):
        """`helm upgrade --install` with these values beside those of before; waits until the operator runs."""
        _merge(self._values, values or {})
        self._helm("upgrade", "--install", "tollgate", CHARTS / "tollgate", "--wait", "--values", "-", values=self._values)

    def uninstall(self):
        """What is not asked to stay goes; waits for it."""
        self._helm("uninstall", "tollgate", "--wait", "--ignore-not-found")

    def wait_for_gateway(self, seconds=READY_SECONDS):
        """Until the LLMGateway is Ready, and its Service leads somewhere."""
        self.wait_ready("llmgateway/default", namespace=self.namespace, seconds=seconds)
        self.kubectl.run("rollout", "status", "deployment/tollgate", f"--timeout={seconds}s", "--namespace", self.namespace, seconds=seconds + 10)

    def wait_ready(self, *targets, namespace=None, seconds=READY_SECONDS):
        """As users wait: `kubectl wait --for=condition=Ready`. Of the tenant unless said."""
        where = ["--namespace", namespace or self.tenant]
        self.kubectl.run("wait", "--for=condition=Ready", *targets, f"--timeout={seconds}s", *where, seconds=seconds + 10)

    def model(self, name, **spec):
        """A ModelDeployment of the mock."""
        usual = {
            "provider": "openai-compatible",
            "backendRef": self.provider.backend,
            "model": name,
            "pricing": {"perMillionTokens": {"input": "2.50", "output": "10"}},
        }
        return self.object("ModelDeployment", name, {**usual, **spec})

    def key(self, name, **spec):
        """A VirtualKey whose key is generated."""
        return self.object("VirtualKey", name, {"secret": {"name": f"{name}-key"}, **spec})

    def object(self, kind, name, spec):
        return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name, "namespace": self.tenant}, "spec": spec}

    def apply(self, *documents):
        return self.kubectl.apply(list(documents))

    def apply_by_api(self, document):
        """The same, without the time that kubectl takes to start."""
        where = self.path(document["kind"], document["metadata"]["name"])
        return self.api.apply(where, document, "cluster-tests", force=True)

    def path(self, kind, name, namespace=None):
        return path(VERSION, f"{kind.lower()}s", namespace or self.tenant, name)

    def generated_key(self, name):
        """The key of a VirtualKey, as its owner reads it."""
        data = self.kubectl.get_json("secret", f"{name}-key", namespace=self.tenant)["data"]
        return base64.b64decode(data["key"]).decode()

    def wait_for(self, kind, name, kind_of_condition, status, *, namespace=None, seconds=READY_SECONDS):
        """Until a condition has this status."""
        where = self.path(kind, name, namespace)
        return self.api.wait_until(where, lambda thing: any_cluster.condition(thing, kind_of_condition) == status, seconds)

    def proxies(self):
        """The pods of the gateway that are ready and not going."""
        pods = self.kubectl.get_json("pods", namespace=self.namespace, selector="tollgate.dev/gateway=default,app.kubernetes.io/component=proxy")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and any_cluster.condition(pod, "Ready") == "True"]

    def wait_for_proxies(self, count, without=(), seconds=READY_SECONDS):
        """Until so many proxies are ready and none of these is among them; the pods."""
        deadline = time.monotonic() + seconds
        while True:
            pods = self.proxies()
            names = {pod["metadata"]["name"] for pod in pods}
            if len(pods) == count and not names.intersection(without):
                return pods
            assert time.monotonic() < deadline, f"not {count} proxies without {without} after {seconds} s: {names}"
            time.sleep(0.1)

    def operators(self):
        """The pods of the operator."""
        return self.kubectl.get_json("pods", namespace=self.namespace, selector="app.kubernetes.io/component=operator")

    def wait_until_spent(self, kind, name, nano, seconds=SPENT_SECONDS):
        """Until the column SPENT says this amount."""
        self.api.wait_until(self.path(kind, name), lambda thing: thing["status"].get("spent") == money(nano), seconds)

    def wait_until_booked(self, budget, holds, seconds=SPENT_SECONDS):
        """Until what the books in the cluster say was used is as expected; answers as `spent`. Grants are written before
        they are answered; what was used follows some seconds later, or with the next grant."""
        deadline = time.monotonic() + seconds
        while True:
            used, charged = self.spent(budget)
            if holds(used):
                return used, charged
            assert time.monotonic() < deadline, f"the books say that {used} nano-dollars of {budget} were used"
            time.sleep(0.2)

    def spent(self, budget):
        """What the books in the cluster say of a budget, by its id: (used, allowance that is out), nano-dollars."""
        used = charged = 0
        shards = self.kubectl.get_json("configmaps", namespace=self.namespace, selector="tollgate.dev/allocations=default")
        for shard in shards:
            for books in json.loads(shard["data"]["budgets.json"]).get(budget, {}).get("books", []):
                used += books["closed"]
                charged += books["closed"]
                for account in books["accounts"].values():
                    allowance = max(account["granted"] - account["returned"], account["used"])
                    used += allowance if account.get("closed") else account["used"]
                    charged += allowance
        return used, charged

    def metric(self, pod, name, labels):
        """A metric of a proxy in USD, as nano-dollars: the sum of its lines whose labels hold this text."""
        where = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:{STATUS_PORT}/proxy/metrics"
        lines = self.api.get(where).splitlines()
        return sum(_nano(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{") and labels in line)

    def _install_definitions(self):
        names = {document["metadata"]["name"] for document in any_cluster.crds()}
        for there in self.api.get(any_cluster.CRDS)["items"]:
            if there["metadata"]["name"] in names:
                labels = there["metadata"].get("labels", {})
                assert labels.items() >= any_cluster.OURS.items(), "this cluster has Tollgate installed; tests do not touch it"
        self.helm.run(
            "upgrade", "--install", "tollgate-crds", CHARTS / "tollgate-crds", "--namespace", CRDS_NAMESPACE, "--take-ownership",
            "--values", "-", text=to_yaml({"commonLabels": any_cluster.OURS}), seconds=HELM_SECONDS,
        )
        for name in names:
            self.api.wait_until(f"{any_cluster.CRDS}/{name}", lambda crd: any_cluster.condition(crd, "Established") == "True")

    def _usual_values(self, image):
        repository, tag = image.rsplit(":", 1)
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
            "gateway": {
                "enabled": True,
                "spec": {"replicas": 2, "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"llm": "allowed"}}}},
            },
            "secrets": {"read": {"namespaces": [self.tenant]}, "generate": {"namespaces": [self.tenant]}},
        }

    def _helm(self, *arguments, values=None):
        text = None if values is None else to_yaml(values)
        return self.helm.run(*arguments, "--namespace", self.namespace, "--timeout", f"{HELM_SECONDS}s", text=text, seconds=HELM_SECONDS + 20)


class Direct:
    """One proxy, from where the tests run and past the Service: whether this proxy knows an edit."""

    def __init__(self, node, pod, key):
        self.name = pod["metadata"]["name"]
        self._host, self._port = node.address_of(pod["status"]["podIP"], 4000)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._connection = None

    def get(self, where):
        """(status, decoded body)."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            self._connection.request("GET", where, headers=self._headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def models(self):
        """The names that the key may ask for; `None`: the key is refused."""
        status, body = self.get("/v1/models")
        if status == 401:
            return None
        assert status == 200, (status, body)
        return {model["id"] for model in body["data"]}

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def money(nano):
    """An amount as the columns show it: to a hundredth of a cent, rounded up."""
    return f"${-(-nano // 100_000) / 10_000:.4f}".removesuffix("00")


def _nano(text):
    """Of decimal USD, exactly."""
    whole, _, decimals = text.partition(".")
    return int(whole) * 10**9 + int(decimals.ljust(9, "0"))


def _merge(into, values):
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
