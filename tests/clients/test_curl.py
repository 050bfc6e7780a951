"""curl, as people try a gateway: the exact bytes of answers, streams and headers."""

import json
import subprocess

import pytest

from harness import samples
from harness.configuration import MASTER_KEY, key

pytestmark = pytest.mark.usefixtures("money")


def curl(url, *arguments, body=None):
    """Status, headers (lower case) and body text."""
    command = ["curl", "--silent", "--show-error", "--include", "--no-buffer", "--max-time", "60", "--noproxy", "*", url, *arguments]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-binary", "@-"]
    done = subprocess.run(command, input=json.dumps(body) if body is not None else "", capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    head, _, text = done.stdout.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.split("\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split(" ")[1]), headers, text


def bearer(role="normal"):
    return ("--header", f"authorization: Bearer {key('curl', role)}")


CHAT = {"model": "gpt", "messages": samples.HELLO}
MESSAGE = {"model": "claude", "max_tokens": 64, "messages": samples.HELLO}


@pytest.mark.parametrize(
    "header",
    ["authorization: Bearer {}", "Authorization: bearer {}", "x-api-key: {}", "api-key: {}", "x-litellm-api-key: {}", "x-litellm-api-key: Bearer {}"],
)
def test_every_header_for_keys(gateway, header):
    status, _, _ = curl(f"{gateway.openai_url}/chat/completions", "--header", header.format(key("curl")), body=CHAT)
    assert status == 200


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"]
)
def test_every_path_for_chat(gateway, mock, path):
    mock.reply("upstream-gpt", text=samples.TEXT)
    status, headers, text = curl(f"{gateway.url}{path}", *bearer(), body=CHAT)
    assert status == 200
    assert headers["content-type"].startswith("application/json")
    assert json.loads(text)["choices"][0]["message"]["content"] == samples.TEXT


def test_headers_of_an_answer(gateway):
    _, headers, _ = curl(f"{gateway.openai_url}/chat/completions", *bearer("hard"), body=CHAT)
    for name in ("x-litellm-call-id", "x-litellm-model-id", "x-litellm-model-group", "x-litellm-version"):
        assert headers[name], name
    assert float(headers["x-litellm-key-spend"]) > 0
    assert float(headers["x-litellm-key-max-budget"]) == 100
    assert headers["x-litellm-attempted-retries"] == "0"
    assert headers["x-litellm-attempted-fallbacks"] == "0"
    assert headers["llm_provider-x-request-id"].startswith("req_mock")
    assert headers["x-frame-options"] == "deny"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_bytes_of_an_openai_stream(gateway, mock, model):
    mock.reply(f"upstream-{model}", text=samples.TEXT)
    status, headers, text = curl(f"{gateway.openai_url}/chat/completions", *bearer(), body={**CHAT, "model": model, "stream": True})
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert event.startswith(("data: {", ":")), event
        assert "\n" not in event
        if event.startswith("data: "):
            assert json.loads(event.removeprefix("data: "))["choices"]


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_bytes_of_an_anthropic_stream(gateway, mock, model):
    mock.reply(f"upstream-{model}", text=samples.TEXT)
    version = ("--header", "anthropic-version: 2023-06-01")
    status, headers, text = curl(f"{gateway.url}/v1/messages", *bearer(), *version, body={**MESSAGE, "model": model, "stream": True})
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "[DONE]" not in text
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    for event in events:
        name, data = event.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")
    assert events[-1].startswith("event: message_stop\n")


def test_errors_have_the_shape_of_the_path(gateway):
    status, headers, text = curl(f"{gateway.openai_url}/chat/completions", body=CHAT)
    assert status == 401
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-litellm-response-cost"] == "0"
    status, headers, text = curl(f"{gateway.url}/v1/messages", body=MESSAGE)
    assert status == 401
    error = json.loads(text)
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
    assert error["request_id"] == headers["request-id"]
    status, _, text = curl(f"{gateway.url}/nothing/here", *bearer(), body={})
    assert status == 404
    assert json.loads(text)["detail"]
    status, _, _ = curl(f"{gateway.openai_url}/chat/completions", *bearer())
    assert status == 405


def test_health_and_metrics(gateway):
    for path in ("/health/liveliness", "/health/liveness", "/health/readiness"):
        assert curl(f"{gateway.url}{path}")[0] == 200
    assert curl(f"{gateway.url}/health", "--header", f"authorization: Bearer {MASTER_KEY}")[0] == 200
    status, headers, text = curl(f"{gateway.url}/metrics", "--header", f"authorization: Bearer {MASTER_KEY}")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert key("curl") not in text
    assert MASTER_KEY not in text
