"""Every rule of the CustomResourceDefinitions, once kept and once broken, at every place that has it."""

import copy

from harness import cluster as clusters
from harness.api import ApiError
from harness.objects import object_of, where

# A spec without anything that may be left out.
SPECS = {
    "LLMGateway": {},
    "ProviderAccount": {"provider": "openai"},
    "ModelDeployment": {"provider": "openai", "model": "m"},
    "RouteGroup": {"targets": [{"name": "m", "modelDeploymentRef": {"name": "m"}}]},
    "Team": {},
    "VirtualKey": {"models": ["m"], "secret": {"name": "s"}},
    "Budget": {"limit": "1", "period": {"calendar": "Day"}},
}

# What an object must have besides what a rule is about, by the end of its place.
BESIDE = {
    "allowedNamespaces": {"from": "Selector"},
    "matchExpressions.[]": {"key": "a"},
    "env.[]": {"name": "A"},
    "credentials.[]": {"name": "a", "secretRef": {"name": "s", "key": "k"}},
    "targets.[]": {"name": "m", "modelDeploymentRef": {"name": "m"}},
    "budget": {"limit": "1", "period": {"calendar": "Day"}},
    "members.[]": {"user": "u"},
    "boost": {"amount": "1"},
    "rateLimits.[]": {"name": "a", "requestsPerMinute": 1},
    "overlays.[]": {"name": "a"},
}

LISTENER = {"name": "a", "port": 4000}
NEEDS_HTTP = ("http://a.example", "ftp://a.example")

# By rule: a value that keeps it and one that breaks it, of the part that has the rule; both are merged into the least spec.
# A rule that looks at what was there before lets the first one stay and the second not come after it.
CASES = {
    "!(has(self.replicas) && has(self.autoscaling))": (
        {"replicas": 2},
        {"replicas": 2, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
    ),
    "(self.from == 'Selector') == has(self.selector)": ({"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}, {"from": "Selector"}),
    "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)": (
        {"operator": "In", "values": ["b"]},
        {"operator": "Exists", "values": ["b"]},
    ),
    "self.minReplicas <= self.maxReplicas": ({"minReplicas": 2, "maxReplicas": 2}, {"minReplicas": 3, "maxReplicas": 2}),
    "self.minOutputTokens <= self.maxOutputTokens": (
        {"minOutputTokens": 8, "maxOutputTokens": 8},
        {"minOutputTokens": 9, "maxOutputTokens": 8},
    ),
    "(has(self.pricing) ? 1 : 0) + (has(self.discountPercent) ? 1 : 0) + (has(self.surchargePercent) ? 1 : 0) + "
    "(has(self.configMapRef) ? 1 : 0) == 1": ({"discountPercent": "5"}, {"discountPercent": "5", "surchargePercent": "5"}),
    "self == 429 || self == 422": (422, 500),
    "has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.inputTokensPerMinute) || "
    "has(self.outputTokensPerMinute) || has(self.parallelRequests)": ({"inputTokensPerMinute": 1}, {"requestsPerMinute": None}),
    "self.all(one, self.exists_one(other, other.port == one.port))": (
        [LISTENER, {"name": "b", "port": 4443}],
        [LISTENER, {"name": "b", "port": 4000}],
    ),
    "(has(self.value) ? 1 : 0) + (has(self.secretRef) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1": (
        {"value": "v"},
        {"value": "v", "secretRef": {"name": "s", "key": "k"}},
    ),
    "self.startsWith('http://') || self.startsWith('https://')": NEEDS_HTTP,
    "has(self.secretRef) != has(self.workloadIdentity)": (
        {"secretRef": {"name": "s", "key": "k"}},
        {"secretRef": {"name": "s", "key": "k"}, "workloadIdentity": {"audience": "a"}},
    ),
    "self > 0": (1, 0),
    "has(self.accountRef) != has(self.provider)": ({}, {"accountRef": {"name": "a"}}),
    "has(self.provider) || !(has(self.credential) || has(self.backendRef) || has(self.endpoint))": (
        {"provider": None, "accountRef": {"name": "a"}},
        {"provider": None, "accountRef": {"name": "a"}, "credential": {"secretRef": {"name": "s", "key": "k"}}},
    ),
    "!(has(self.backendRef) && has(self.endpoint))": (
        {"backendRef": {"name": "s", "port": 80}},
        {"backendRef": {"name": "s", "port": 80}, "endpoint": {"baseURL": "http://a.example"}},
    ),
    "!has(self.free) || !self.free || !(has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0))": (
        {"free": True},
        {"free": True, "like": "openai/gpt-4o"},
    ),
    "(has(self.free) && self.free) || has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0)": (
        {"like": "openai/gpt-4o"},
        {"free": False},
    ),
    "(self.by == 'Header') == has(self.header)": ({"by": "Header", "header": "x-a"}, {"by": "Header"}),
    "self.all(one, self.exists_one(other, other.modelDeploymentRef == one.modelDeploymentRef))": (
        [{"name": "m", "modelDeploymentRef": {"name": "m"}}, {"name": "n", "modelDeploymentRef": {"name": "n"}}],
        [{"name": "m", "modelDeploymentRef": {"name": "m"}}, {"name": "n", "modelDeploymentRef": {"name": "m"}}],
    ),
    "(has(self.calendar) ? 1 : 0) + (has(self.rolling) ? 1 : 0) + (has(self.lifetime) ? 1 : 0) == 1": (
        {"calendar": "Month"},
        {"calendar": "Month", "lifetime": {}},
    ),
    "!has(self.timeZone) || has(self.calendar)": (
        {"calendar": "Month", "timeZone": "Europe/Berlin"},
        {"calendar": None, "rolling": "24h", "timeZone": "Europe/Berlin"},
    ),
    "has(self.secret) != has(self.keyHash)": ({}, {"keyHash": "sha256:" + "a" * 64}),
    "!(has(self.budget) && has(self.budgetRefs) && self.budgetRefs.size() > 0)": (
        {"budgetRefs": [{"name": "b"}]},
        {"budgetRefs": [{"name": "b"}], "budget": {"limit": "1", "period": {"calendar": "Day"}}},
    ),
    "!has(self.rotation) || has(self.secret)": (
        {"rotation": {"every": "720h", "overlap": "24h"}},
        {"rotation": {"every": "720h", "overlap": "24h"}, "secret": None, "keyHash": "sha256:" + "a" * 64},
    ),
    "self.matches('^sha256:[0-9a-f]{64}$')": ("sha256:" + "a" * 64, "sha256:" + "A" * 64),
    "duration(self.overlap) < duration(self.every)": ({"every": "48h", "overlap": "24h"}, {"every": "24h", "overlap": "24h"}),
    "!has(self.whenExhausted) || self.whenExhausted.action != 'Throttle' || self.enforcement == 'Soft'": (
        {"enforcement": "Soft", "whenExhausted": {"action": "Throttle", "percent": 10}},
        {"enforcement": "Hard", "whenExhausted": {"action": "Throttle", "percent": 10}},
    ),
    "!has(self.onAllocatorUnavailable) || self.onAllocatorUnavailable != 'Allow' || self.enforcement == 'Soft'": (
        {"enforcement": "Soft", "onAllocatorUnavailable": "Allow"},
        {"enforcement": "Hard", "onAllocatorUnavailable": "Allow"},
    ),
    "has(self.until)": ({"until": "2100-01-01T00:00:00Z"}, {}),
    "(self.action == 'Throttle') == has(self.percent)": ({"action": "Block"}, {"action": "Block", "percent": 10}),
    "has(self.gatewayRef) == has(oldSelf.gatewayRef) && (!has(self.gatewayRef) || self.gatewayRef == oldSelf.gatewayRef)": (
        {"gatewayRef": {"name": "a"}},
        {"gatewayRef": {"name": "b"}},
    ),
    "!has(self.endUserHeaders) || self.endUserHeaders.all(name, !(name.lowerAscii() in ['authorization', 'proxy-authorization', "
    "'x-api-key', 'api-key', 'x-litellm-api-key', 'cookie']))": ({"endUserHeaders": ["X-Customer"]}, {"endUserHeaders": ["X-Customer", "Authorization"]}),
    "!has(self.tagHeaders) || self.tagHeaders.all(name, !(name.lowerAscii() in ['authorization', 'proxy-authorization', "
    "'x-api-key', 'api-key', 'x-litellm-api-key', 'cookie']))": ({"tagHeaders": ["X-Customer"]}, {"tagHeaders": ["X-Customer", "Authorization"]}),
    "self == oldSelf": {"ProviderAccount": ("openai", "anthropic"), "Budget": ("USD", "Tokens")},
}


def places(schema, at=()):
    """Every rule with the place that has it."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield at, rule
    for name, part in schema.get("properties", {}).items():
        yield from places(part, (*at, name))
    if "items" in schema:
        yield from places(schema["items"], (*at, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from places(schema["additionalProperties"], (*at, "{}"))


def with_part(kind, at, value):
    """The least spec of the kind with `value` in it at this place."""
    for length in range(len(at), 0, -1):
        beside = [more for end, more in BESIDE.items() if ".".join(at[:length]).endswith(end)]
        if beside and isinstance(value, dict):
            value = merged(*beside, value)
        value = [value] if at[length - 1] == "[]" else {at[length - 1]: value}
    # The other way to say whose key it is.
    less = {"secret": None} if at == ("keyHash",) else {}
    return merged(SPECS[kind], less, value)


def merged(*documents):
    """As merge patches, one after the other: `None` removes a field."""
    result = {}
    for document in documents:
        for name, value in copy.deepcopy(document).items():
            is_both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if is_both else value
    return {name: value for name, value in result.items() if value is not None}


def test_every_rule_is_kept_and_broken(plane, crds, namespace):
    rules = [
        (crd["spec"]["names"]["kind"], at[1:], rule)
        for crd in clusters.crds()
        for version in crd["spec"]["versions"]
        for at, rule in places(version["schema"]["openAPIV3Schema"])
    ]
    assert {rule["rule"] for _, _, rule in rules} == set(CASES), "each rule has a case, and each case a rule"
    wrong = []
    for number, (kind, at, rule) in enumerate(rules):
        case = CASES[rule["rule"]]
        kept, broken = case[kind] if isinstance(case, dict) else case
        kept, broken = [object_of(kind, f"a{number}", **with_part(kind, at, value)) for value in (kept, broken)]
        what = f"{kind} {'.'.join(at)}: {rule['rule']}"
        field = ".".join(["spec", *at]).replace(".[]", "[0]")
        there = where(namespace, kind, kept["metadata"]["name"])
        try:
            made = plane.api.create(where(namespace, kind), kept)
            # What is as it was may be written again.
            made = plane.api.replace(there, made)
        except ApiError as error:
            wrong.append(f"{what}: {kept['spec']} is refused: {error}")
            continue
        # An object that becomes so is refused as one that comes so; only of the first is known what it was before.
        attempts = [lambda: plane.api.replace(there, {**made, "spec": broken["spec"]})]
        if "oldSelf" not in rule["rule"]:
            attempts.append(lambda: plane.api.create(where(namespace, kind), {**broken, "metadata": {"name": f"b{number}"}}))
        for attempt in attempts:
            try:
                attempt()
                wrong.append(f"{what}: {broken['spec']} is taken")
            except ApiError as error:
                if error.code != 422 or not (f"{field}: " in str(error) and rule["message"] in str(error)):
                    wrong.append(f"{what}: {broken['spec']} is refused for something else: {error}")
    assert not wrong, "\n".join(wrong)
