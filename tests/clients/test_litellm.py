"""The unmodified `litellm` package as an SDK, with its own name for a gateway (`litellm_proxy/`), as for LiteLLM."""

import asyncio
import json
import os

import pytest

# Its price table comes with it; it would fetch a newer one on import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from harness import money as books, samples
from harness.configuration import BY_UPSTREAM, key

pytestmark = pytest.mark.usefixtures("money")

MODELS = {"gpt": "upstream-gpt", "azure-gpt": "upstream-azure", "claude": "upstream-claude"}
litellm.suppress_debug_info = True


def settings(gateway, model, role="normal"):
    return {
        "model": f"litellm_proxy/{model}",
        "api_base": gateway.openai_url,
        "api_key": key("litellm", role),
        "max_retries": 0,
        "timeout": 30,
    }


@pytest.mark.parametrize("model", MODELS)
def test_text_with_usage_and_cost(gateway, mock, model):
    mock.reply(MODELS[model], text=samples.TEXT)
    answer = litellm.completion(messages=samples.HELLO, **settings(gateway, model))
    row = mock.invoice()[-1]
    assert answer.choices[0].message.content == samples.TEXT
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (row["input_tokens"], row["output_tokens"])
    headers = answer._hidden_params["additional_headers"]
    cost = headers["llm_provider-x-litellm-response-cost"]
    assert round(float(cost) * 1e9) == books.nano_usd(BY_UPSTREAM[MODELS[model]], row)


@pytest.mark.parametrize("model", MODELS)
def test_stream(gateway, mock, model):
    mock.reply(MODELS[model], text=samples.TEXT)
    stream = litellm.completion(
        messages=samples.HELLO, stream=True, stream_options={"include_usage": True}, **settings(gateway, model)
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == samples.TEXT
    usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usages[-1].completion_tokens == mock.invoice()[-1]["output_tokens"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls(gateway, mock, model, stream):
    mock.reply(MODELS[model], tool_calls=samples.PARALLEL_CALLS)
    answer = litellm.completion(messages=samples.HELLO, tools=samples.OPENAI_TOOLS, stream=stream, **settings(gateway, model))
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    calls = answer.choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == samples.CALLED


def test_structured_output(gateway, mock):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": samples.PERSON_SCHEMA, "strict": True}}
    answer = litellm.completion(messages=samples.HELLO, response_format=schema, **settings(gateway, "claude"))
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


def test_embeddings(gateway, mock):
    answer = litellm.embedding(input=["one", "two"], **settings(gateway, "embed"))
    assert len(answer.data) == 2


def test_asynchronous_calls(gateway, mock):
    async def calls():
        one = litellm.acompletion(messages=[{"role": "user", "content": "one"}], **settings(gateway, "gpt"))
        two = litellm.acompletion(messages=[{"role": "user", "content": "two"}], **settings(gateway, "claude"))
        return await asyncio.gather(one, two)

    assert [answer.choices[0].message.content.rsplit(": ", 1)[-1] for answer in asyncio.run(calls())] == ["one", "two"]


def test_as_an_openai_server(gateway, mock):
    mock.reply("upstream-gpt", text=samples.TEXT)
    answer = litellm.completion(messages=samples.HELLO, **{**settings(gateway, "gpt"), "model": "openai/gpt"})
    assert answer.choices[0].message.content == samples.TEXT


@pytest.mark.parametrize(
    ("model", "role", "error"),
    [
        ("gpt", "expired", litellm.AuthenticationError),
        ("gpt", "disabled", litellm.AuthenticationError),
        # By the code; the status is 400.
        ("nowhere", "normal", litellm.NotFoundError),
        # It has no class of its own for a 403 of a gateway.
        ("claude", "limited", litellm.APIError),
        ("gpt", "poor", litellm.RateLimitError),
    ],
)
def test_errors_have_the_class_they_have_with_litellm(gateway, model, role, error):
    with pytest.raises(error):
        litellm.completion(messages=samples.HELLO, **settings(gateway, model, role))
