"""Operators that stop, freeze and come back, and an API server that freezes or forgets: one writes, and no edit is lost."""

import contextlib
import json
import subprocess
import time

import pytest

from harness.api import path
from harness.objects import object_of, wait_for, where

READS = ("get", "list", "watch")
# What a user would call at once: others look at the Lease every half a second.
# A Lease that is not given back lasts 15 s.
HANDOVER_SECONDS = 8
# The Lease of a leader that says nothing is over after 15 s, which others notice soon.
TAKEOVER_SECONDS = 20


@pytest.fixture
def setup(own_plane, crds, namespace):
    """A gateway and a key in one namespace."""
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        object_of("LLMGateway", "g"),
        object_of("VirtualKey", "ci", models=["*"], keyHash="sha256:" + "41a6d46d" * 8),
    ], namespace=namespace)
    return namespace


@contextlib.contextmanager
def paused(process):
    process.pause()
    try:
        yield
    finally:
        process.resume()


def disable(plane, namespace, disabled, wait=True):
    plane.api.merge(where(namespace, "VirtualKey", "ci"), {"spec": {"disabled": disabled}})
    if wait:
        wait_for_disabled(plane, namespace, disabled)


def wait_for_disabled(plane, namespace, disabled):
    wait_for(plane, namespace, "VirtualKey", "ci", Active=("False", "Disabled") if disabled else ("True", "Active"))


def tables(plane, namespace):
    """Names and contents of the tables with their resourceVersions: what a write changes."""
    maps = plane.api.get(path("v1", "configmaps", namespace), labelSelector="tollgate.dev/tables")["items"]
    return {each["metadata"]["name"]: (each["metadata"]["resourceVersion"], each["data"]) for each in maps}


def writes(plane, since, user):
    """What a user wrote since, refused or not, but for its Lease."""
    calls = plane.audit.calls(since, user)
    return [call for call in calls if call.verb not in READS and call.resource != "leases"]


def test_a_leader_that_is_asked_to_stop_hands_over_at_once(own_plane, start, setup):
    first = start("first")
    first.wait_until_it_leads()
    wait_for_disabled(own_plane, setup, False)
    second = start("second")
    begun = time.monotonic()
    first.process.child.terminate()
    second.wait_until_it_leads(HANDOVER_SECONDS)
    taken = time.monotonic() - begun
    assert first.stop() == 0
    assert taken < HANDOVER_SECONDS
    lease = own_plane.api.get(second.lease)["spec"]
    assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("second", 1)
    disable(own_plane, setup, True)


def test_a_leader_that_froze_undoes_nothing(own_plane, start, setup):
    old, new = start("old"), None
    old.wait_until_it_leads()
    wait_for_disabled(own_plane, setup, False)
    new = start("new")
    with paused(old.process):
        # When it wakes up it finds this in its watches, and then that it is not so any more.
        disable(own_plane, setup, True, wait=False)
        new.wait_until_it_leads(TAKEOVER_SECONDS)
        wait_for_disabled(own_plane, setup, True)
        disable(own_plane, setup, False)
        before = tables(own_plane, setup)
        position = own_plane.audit.position()
    old.process.wait_until(lambda: not old.leads())
    assert [operator.leads() for operator in (old, new)] == [False, True]
    # It has seen all that was said meanwhile.
    new.renewals(2)
    attempts = writes(own_plane, position, "old")
    assert all(call.code == 409 for call in attempts), attempts
    assert tables(own_plane, setup) == before
    wait_for_disabled(own_plane, setup, False)
    # And is fit to lead again.
    assert new.stop() == 0
    old.wait_until_it_leads(HANDOVER_SECONDS)
    disable(own_plane, setup, True)


def test_an_api_server_that_freezes_costs_no_edit(own_plane, start, setup):
    operator = start("operator")
    operator.wait_until_it_leads()
    wait_for_disabled(own_plane, setup, False)
    patch = json.dumps({"spec": {"disabled": True}})
    command, environment = own_plane.kubectl.command("patch", "virtualkey", "ci", "--type=merge", "--patch", patch, "--namespace", setup)
    with own_plane.apiserver_paused():
        edit = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # It cannot renew its Lease: it must not believe that it is still the leader when others could be.
        operator.process.wait_until(lambda: not operator.leads(), TAKEOVER_SECONDS)
        assert operator.process.is_running()
    said, _ = edit.communicate(timeout=TAKEOVER_SECONDS)
    assert edit.returncode == 0, said
    wait_for_disabled(own_plane, setup, True)
    assert operator.leads()


def test_what_is_deleted_where_no_watch_can_tell_is_gone(own_plane, start, setup):
    operator = start("operator")
    operator.wait_until_it_leads()
    wait_for_disabled(own_plane, setup, False)
    with paused(operator.process):
        # Ends its watches, so that what follows does not wait for it in a socket.
        own_plane.restart_apiserver()
        own_plane.api.delete(where(setup, "VirtualKey", "ci"))
        new = object_of("VirtualKey", "new", models=["*"], keyHash="sha256:" + "01234567" * 8)
        own_plane.api.create(where(setup, "VirtualKey"), new)
        # The next one remembers nothing of what was before it: 410 Gone to who asks for that.
        own_plane.restart_apiserver()
        position = own_plane.audit.position()
    wait_for(own_plane, setup, "VirtualKey", "new", Active=("True", "Active"))
    asked = [(call.verb, call.code) for call in own_plane.audit.calls(position, "operator") if call.resource == "virtualkeys" and not call.subresource]
    assert ("list", 200) in asked, asked
    shard = own_plane.api.get(path("v1", "configmaps", setup, "tollgate-g-keys"))["data"]["keys.json"]
    assert "01234567" in shard and "41a6d46d" not in shard
