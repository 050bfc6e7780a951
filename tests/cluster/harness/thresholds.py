"""Who was told in Events that a Budget passed a share of its limit."""

import time

from harness.api import path


def told(plane, namespace, name):
    """Notes of the Events about thresholds of a Budget."""
    events = plane.api.get(path("events.k8s.io/v1", "events", namespace))["items"]
    mine = [each for each in events if each["reason"] == "ThresholdPassed" and each["regarding"]["name"] == name]
    return sorted(each["note"] for each in mine)


def wait_for_told(plane, namespace, name, number):
    deadline = time.monotonic() + 30
    while len(notes := told(plane, namespace, name)) < number:
        assert time.monotonic() < deadline, f"told so far: {notes}"
        time.sleep(0.1)
    assert len(notes) == number, notes
    return notes
