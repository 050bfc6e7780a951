"""Tollgate's objects in tests: made, found, and waited for by what their conditions say."""

from harness.api import path

TOLLGATE = "tollgate.dev/v1alpha1"


def object_of(kind, name, **spec):
    return {"apiVersion": TOLLGATE, "kind": kind, "metadata": {"name": name}, "spec": spec}


def secret_ref(name):
    return {"secretRef": {"name": name, "key": "key"}}


def where(namespace, kind, name=None):
    return path(TOLLGATE, kind.lower() + "s", namespace, name)


def condition(thing, kind):
    """Status and reason of a condition of what is current."""
    status = (thing or {}).get("status", {})
    if not thing or status.get("observedGeneration") != thing["metadata"]["generation"]:
        return None
    return next(((each["status"], each["reason"]) for each in status["conditions"] if each["type"] == kind), None)


def wait_for(plane, namespace, kind, name, **conditions):
    """The object once its conditions have these statuses and reasons."""
    holds = lambda thing: all(condition(thing, each) == expected for each, expected in conditions.items())
    return plane.api.wait_until(where(namespace, kind, name), holds)
