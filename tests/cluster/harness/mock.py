"""The mock provider beside the tests, and calls without any client library."""

import contextlib
import http.client
import json
import socket

import pytest

from harness import programs
from harness.objects import object_of
from harness.ports import free_port
from harness.process import Process
from harness.provider import cost

# Of a token, at $2.50 and $10 for a million.
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
PRICING = {"perMillionTokens": {"input": "2.50", "output": "10"}}


class Mock:
    """Listens at an address of this machine that is not loopback: in a cluster that is refused."""

    def __init__(self, plane):
        self.host = own_address()
        self.port = free_port(self.host)
        arguments = [programs.gateway(), "mock", "--host", self.host, "--port", self.port]
        self.process = Process("mock", arguments, plane.folder)
        self.process.wait_until(self._is_ready)

    def model(self, name):
        endpoint = {"baseURL": f"http://{self.host}:{self.port}/v1"}
        return object_of("ModelDeployment", name, provider="openai-compatible", endpoint=endpoint, model=name, pricing=PRICING)

    def seen(self, model):
        """Rows of the invoice: calls of a model that arrived, whether or not they cost something."""
        rows = ask(self.host, self.port, "GET", "/_mock/invoice")[2]["rows"]
        return [row for row in rows if row["model"] == model]

    def rows(self, model):
        """What calls of a model are billed with."""
        return [row for row in self.seen(model) if row["billed"]]

    def billed(self, model):
        """What calls of a model cost, nano-dollars."""
        return cost(self.rows(model), INPUT_NANO, OUTPUT_NANO)

    def script(self, model, *steps):
        assert ask(self.host, self.port, "POST", "/_mock/script", {"model": model, "steps": list(steps)})[0] == 200

    def _is_ready(self):
        try:
            return ask(self.host, self.port, "GET", "/_mock/status")[0] == 200
        except OSError:
            return False


def own_address():
    """The one that this machine would call others from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, which gateways in a cluster do not call")
        return probe.getsockname()[0]


def ask(host, port, method, target, body=None, key=None):
    """Status, headers and decoded body of one call."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, answer.headers, json.loads(text) if text else None
