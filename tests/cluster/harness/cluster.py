"""What tests may do with any cluster, whoever started it: clients for its API, namespaces, Tollgate's CRDs."""

import re
import secrets
import subprocess

import yaml

from harness import programs
from harness.api import path
from harness.kubectl import Kubectl

# Says that the tests put the CRDs there, so that they may do so again.
OURS = {"tollgate.dev/installed-by": "cluster-tests"}
CRDS = path("apiextensions.k8s.io/v1", "customresourcedefinitions")


def crds():
    """The CustomResourceDefinitions that the binary under test prints."""
    printed = subprocess.run([programs.gateway(), "crds"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(printed) if document]


class Cluster:
    """An API server and the administrator's clients of it: `api` over HTTP and `kubectl`, for the file `kubeconfig`."""

    def __init__(self, kubeconfig, api, cache):
        self.kubeconfig = kubeconfig
        self.api = api
        self.cache = cache
        self.kubectl = Kubectl(programs.client("kubectl"), kubeconfig, cache)
        self._has_crds = False

    def install_crds(self):
        """Tollgate's CRDs, once; returns when all are Established."""
        if self._has_crds:
            return
        documents = crds()
        names = {document["metadata"]["name"] for document in documents}
        for there in self.api.get(CRDS)["items"]:
            if there["metadata"]["name"] in names:
                labels = there["metadata"].get("labels", {})
                assert labels.items() >= OURS.items(), f"{self.kubeconfig}: this cluster has Tollgate installed; tests do not touch it"
        for document in documents:
            document["metadata"].setdefault("labels", {}).update(OURS)
            # Not a merge: a field that the new definition lacks must go.
            self.api.apply(f"{CRDS}/{document['metadata']['name']}", document, "cluster-tests", force=True)
        for name in names:
            self.api.wait_until(f"{CRDS}/{name}", lambda crd: "True" == condition(crd, "Established"))
        self._has_crds = True

    def make_namespace(self, purpose, labels=None):
        """A new namespace named after `purpose`; its name."""
        readable = re.sub("[^a-z0-9]+", "-", purpose.lower()).strip("-")[:40].strip("-")
        name = f"{readable}-{secrets.token_hex(3)}"
        metadata = {"name": name, "labels": labels or {}}
        self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return name

    def delete_namespace(self, name):
        """Begins to; what is in it is removed in the background."""
        self.api.delete(f"/api/v1/namespaces/{name}")

    def service_account_token(self, namespace, name):
        """A token of a ServiceAccount, valid for an hour."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return self.api.create(path("v1", "serviceaccounts", namespace, name, "token"), body)["status"]["token"]


def condition(thing, kind):
    """The status of a condition of an object, `None` if it is not there."""
    conditions = (thing or {}).get("status", {}).get("conditions") or []
    return next((each["status"] for each in conditions if each["type"] == kind), None)


def kubeconfig(url, authority, user):
    """The document that clients read. `user` is client-certificate and client-key, or token."""
    return yaml.safe_dump({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
