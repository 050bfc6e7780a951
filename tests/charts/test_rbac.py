"""Who may do what, written down: a right that is added shows in rbac/*.txt, and so in the review of a change.

`UPDATE_RBAC=1` writes the files anew.
"""

import os

import pytest

from programs import NAMESPACE, SETS, SUITE, objects_of


def rights(objects):
    """One line for each right: subject, namespace (`*`: all), resource, names, verbs."""
    roles = {}
    for one in objects:
        if one["kind"] in ("Role", "ClusterRole"):
            roles[one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]] = one["rules"]
    lines, bound = set(), set()
    for one in objects:
        if one["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        namespace = one["metadata"].get("namespace")
        reference = one["roleRef"]
        role = (reference["kind"], namespace if reference["kind"] == "Role" else None, reference["name"])
        bound.add(role)
        for subject in one["subjects"]:
            who = f"{subject['namespace']}/{subject['name']}"
            lines.update(f"{who} in {namespace or '*'}: {line}" for line in rules(roles[role]))
    for role in roles.keys() - bound:
        lines.update(f"({role[2]}, bound by nobody here): {line}" for line in rules(roles[role]))
    return sorted(lines)


def rules(listed):
    for rule in listed:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                name = f"{resource}.{group}" if group else resource
                names = f" [{', '.join(rule['resourceNames'])}]" if "resourceNames" in rule else ""
                yield f"{name}{names}: {', '.join(rule['verbs'])}"


@pytest.mark.parametrize("values", SETS)
def test_rights_are_those_that_are_written_down(values):
    path = SUITE / "rbac" / f"{values or 'default'}.txt"
    text = "\n".join(rights(objects_of(values))) + "\n"
    if os.environ.get("UPDATE_RBAC"):
        path.write_text(text)
    assert path.read_text() == text, f"compare with {path.name}, and write it anew with UPDATE_RBAC=1"


@pytest.mark.parametrize("values", SETS)
def test_nobody_has_rights_that_grow(values):
    """No wildcards, no roles and bindings, no impersonation, no list of Secrets."""
    for one in objects_of(values):
        for rule in one.get("rules", []) if one["kind"] in ("Role", "ClusterRole") else []:
            words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert "*" not in words
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert not {"list", "deletecollection", "delete"} & set(rule["verbs"])


@pytest.mark.parametrize("for_admins", [False, True])
def test_gateways_are_for_who_is_told_to_run_them(for_admins):
    sets = ("rbac.gatewaysForAdmins=true",) if for_admins else ()
    writing = {}
    for one in objects_of(None, sets=sets):
        labels = one["metadata"].get("labels", {})
        aggregated = [label.rsplit("-", 1)[1] for label in labels if label.startswith("rbac.authorization.k8s.io/aggregate-to-")]
        for rule in one.get("rules", []):
            if "llmgateways" in rule["resources"] and "create" in rule["verbs"]:
                writing[one["metadata"]["name"]] = aggregated
    assert writing == {"tollgate-gateway-admin": ["admin"] if for_admins else []}


def test_bindings_of_all_ways_to_install_agree():
    """An API server refuses to change what a binding refers to, so an upgrade to other values must not ask for it."""
    seen = {}
    for values in SETS:
        for one in objects_of(values):
            if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
                key = (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
                assert seen.setdefault(key, one["roleRef"]) == one["roleRef"], key


def test_namespaces_alone_make_nothing_in_the_cluster():
    objects = objects_of("namespaced")
    assert not [one["kind"] for one in objects if one["kind"].startswith("Cluster")]
    assert {one["metadata"]["namespace"] for one in objects} == {NAMESPACE, "team-a", "team-b"}


def test_without_rbac_there_is_none():
    objects = objects_of(None, sets=("rbac.create=false",))
    assert not [one for one in objects if "rbac.authorization" in one["apiVersion"]]
