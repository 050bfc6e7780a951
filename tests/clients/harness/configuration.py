"""The resources that the client tests run with, as the folder of YAML that `tollgate serve --config` reads."""

import dataclasses
import hashlib
import pathlib

import yaml

NAMESPACE = "clients"
MASTER_KEY = "sk-master-for-client-tests-0123456789abcdef"


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A model of the mock provider. Prices in USD for a million tokens; odd, so that rounding shows."""

    name: str
    provider: str
    upstream: str
    input: str = "0.123457"
    output: str = "1.357913"
    cache_read: str | None = None
    cache_write: str | None = None

    def base_url(self, mock_url):
        return f"{mock_url}/v1" if self.provider == "openai-compatible" else mock_url


DEPLOYMENTS = [
    Deployment("gpt", "openai-compatible", "upstream-gpt", cache_read="0.061729"),
    Deployment("azure-gpt", "azure", "upstream-azure", input="0.223457", output="2.357913", cache_read="0.011113"),
    Deployment("claude", "anthropic", "upstream-claude", input="3.000001", output="15.000007", cache_read="0.300003", cache_write="3.750011"),
    Deployment("embed", "openai-compatible", "upstream-embed", input="0.020001", output="0"),
    # A tenth of a cent a token: budgets of cents are spent in a few calls.
    Deployment("dear", "openai-compatible", "upstream-dear", input="1000", output="1000"),
    Deployment("dear-claude", "anthropic", "upstream-dear-claude", input="1000", output="1000"),
    # Nobody's key lists it.
    Deployment("forbidden", "openai-compatible", "upstream-forbidden"),
]
BY_UPSTREAM = {deployment.upstream: deployment for deployment in DEPLOYMENTS}
MODELS = ["gpt", "azure-gpt", "claude", "embed", "dear", "dear-claude", "fast"]

# One key for each client and role, so that limits that one test fills do not reach another.
CLIENTS = ["openai", "async", "azure", "node", "anthropic", "langchain", "litellm", "curl", "wire"]
ROLES = {
    "normal": {},
    "hard": {"budget": {"limit": "100", "period": {"lifetime": {}}}},
    "limited": {"models": ["gpt"]},
    "expired": {"expiresAt": "2026-01-01T00:00:00Z"},
    "disabled": {"disabled": True},
    "poor": {"budget": {"limit": "0.000000001", "period": {"calendar": "Month"}}},
    "spender": {"budget": {"limit": "0.4", "period": {"lifetime": {}}}},
    "rate": {"limits": {"requestsPerMinute": 2}},
}


def key(client, role="normal"):
    """The text of a key."""
    assert client in CLIENTS and role in ROLES, (client, role)
    return f"sk-{client}-{role}-{hashlib.sha256(f'{client}/{role}'.encode()).hexdigest()[:24]}"


def document(kind, name, spec):
    return {"apiVersion": "tollgate.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def secret(name, **values):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": values}


def gateway():
    # Retries are quick and cooldown out of reach: scripted failures of one test must not reach the next.
    defaults = {
        "unpriced": "Deny",
        "retries": {"attempts": 1, "backoff": {"initial": "10ms", "max": "20ms"}},
        "cooldown": {"failures": 1000, "window": "1m", "duration": "1s"},
    }
    return [
        secret("tollgate-master", key=MASTER_KEY),
        document("LLMGateway", "default", {
            "default": True,
            "masterKey": {"secretRef": {"name": "tollgate-master", "key": "key"}},
            "defaults": defaults,
        }),
    ]


def deployment(described, mock_url):
    prices = {"input": described.input, "output": described.output}
    if described.cache_read is not None:
        prices["cacheRead"] = described.cache_read
    if described.cache_write is not None:
        prices["cacheWrite"] = described.cache_write
    endpoint = {"baseURL": described.base_url(mock_url)}
    if described.provider == "azure":
        endpoint["apiVersion"] = "2025-04-01-preview"
    return document("ModelDeployment", described.name, {
        "provider": described.provider,
        "model": described.upstream,
        "credential": {"secretRef": {"name": "mock", "key": "api-key"}},
        "endpoint": endpoint,
        "pricing": {"perMillionTokens": prices},
    })


def virtual_key(client, role):
    spec = {
        "models": MODELS,
        "modelAliases": {"fast": "gpt"},
        "keyHash": "sha256:" + hashlib.sha256(key(client, role).encode()).hexdigest(),
        **ROLES[role],
    }
    if "fast" not in spec["models"]:
        del spec["modelAliases"]
    return document("VirtualKey", f"{client}-{role}", spec)


def write(folder, documents):
    """Writes a file of many documents."""
    path = pathlib.Path(folder) / "resources.yaml"
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def write_mock_configuration(folder, mock_url):
    """Everything above, in front of one mock provider."""
    documents = gateway()
    documents.append(secret("mock", **{"api-key": "sk-of-the-provider"}))
    documents += [deployment(described, mock_url) for described in DEPLOYMENTS]
    documents += [virtual_key(client, role) for client in CLIENTS for role in ROLES]
    return write(folder, documents)
