"""The unmodified `openai` package for Node; its cases are in node/client.mjs."""

import json
import os
import pathlib
import subprocess

import pytest

from harness import samples
from harness.configuration import key

pytestmark = pytest.mark.usefixtures("money")

CASES = pathlib.Path(__file__).parent / "node" / "client.mjs"
MODELS = {"gpt": "upstream-gpt", "azure-gpt": "upstream-azure", "claude": "upstream-claude"}


@pytest.fixture
def run(gateway):
    assert "TOLLGATE_NODE_MODULES" in os.environ, "run tests/run clients: it installs the Node packages"

    def run(case, model="gpt", role="normal", key_text=None, **settings):
        given = {"url": gateway.url, "key": key_text or key("node", role), "model": model, **settings}
        done = subprocess.run(["node", str(CASES), case], input=json.dumps(given), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("azure", [False, True])
def test_text(run, mock, model, azure):
    mock.reply(MODELS[model], text=samples.TEXT)
    outcome = run("text", model, azure=azure)
    answer, row = outcome["answer"], mock.invoice()[-1]
    assert answer["choices"][0]["message"]["content"] == samples.TEXT
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (row["input_tokens"], row["output_tokens"])
    assert outcome["requestId"]
    assert float(outcome["cost"]) > 0


@pytest.mark.parametrize("model", MODELS)
def test_stream_with_usage(run, mock, model):
    mock.reply(MODELS[model], text=samples.TEXT)
    chunks = run("stream", model, request={"stream_options": {"include_usage": True}})["chunks"]
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == samples.TEXT
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == mock.invoice()[-1]["output_tokens"]
    mock.reply(MODELS[model], text=samples.TEXT)
    # As Azure does, its first chunk tells about the prompt and has no choice.
    assert all(chunk["choices"] for chunk in run("stream", model)["chunks"][1:])


@pytest.mark.parametrize("model", MODELS)
def test_parallel_tool_calls(run, mock, model):
    for case in ("text", "helper"):
        mock.reply(MODELS[model], tool_calls=samples.PARALLEL_CALLS)
        choice = run(case, model, request={"tools": samples.OPENAI_TOOLS})["answer"]["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls] == samples.CALLED
        assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("model", MODELS)
def test_structured_output(run, mock, model):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": samples.PERSON_SCHEMA, "strict": True}}
    answer = run("helper", model, request={"response_format": schema})["answer"]
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"name", "age"}


def test_embeddings_models_and_many_at_once(run, mock):
    outcome = run("embeddings", "embed")
    assert len(outcome["counts"]) == 2 and all(outcome["counts"])
    assert set(MODELS) <= set(run("models")["listed"])
    texts = run("parallel")["texts"]
    assert [text.rsplit(": ", 1)[-1] for text in texts] == [f"number {n}" for n in range(10)]


@pytest.mark.parametrize(
    ("model", "role", "name", "status", "code"),
    [
        ("gpt", "expired", "AuthenticationError", 401, "401"),
        ("gpt", "disabled", "AuthenticationError", 401, "401"),
        ("nowhere", "normal", "BadRequestError", 400, "model_not_found"),
        ("claude", "limited", "PermissionDeniedError", 403, "403"),
        ("gpt", "poor", "RateLimitError", 429, "budget_exhausted"),
    ],
)
def test_errors(run, model, role, name, status, code):
    outcome = run("text", model, role, retries=2)
    error = outcome["error"]
    assert (error["name"], error["status"], error["code"]) == (name, status, code)
    assert error["requestId"]
    assert outcome["requests"] == 1, "nothing of this is worth another try"


def test_unknown_key_and_rate_limit(run):
    assert run("text", key_text="sk-nobody-0123456789abcdef")["error"]["name"] == "AuthenticationError"
    outcomes = [run("text", role="rate") for _ in range(5)]
    refused = [outcome["error"] for outcome in outcomes if "error" in outcome]
    assert refused and {error["name"] for error in refused} == {"RateLimitError"}


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_breaks_raises(run, mock, model):
    mock.reply(MODELS[model], text="a b c d e f g h", cut={"after_events": 5, "how": "error"})
    assert "error" in run("stream", model)


@pytest.mark.parametrize("model", MODELS)
def test_abort_in_the_middle(run, gateway, mock, model):
    mock.reply(MODELS[model], text=" ".join(f"word{n}" for n in range(100)), chunk_delay_ms=10)
    assert run("abort", model)["aborted"]
    mock.wait(in_flight=0)
    assert gateway.is_healthy()
