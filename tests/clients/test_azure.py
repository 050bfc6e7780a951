"""`AzureOpenAI` of the unmodified `openai` package: the path names the model, the key is in `api-key`."""

import json

import openai
import pytest

from harness import samples
from harness.configuration import key

pytestmark = pytest.mark.usefixtures("money")

MODELS = {"gpt": "upstream-gpt", "azure-gpt": "upstream-azure", "claude": "upstream-claude"}


def client_of(gateway, role="normal", **options):
    settings = {"azure_endpoint": gateway.url, "api_version": "2025-04-01-preview", "api_key": key("azure", role)}
    return openai.AzureOpenAI(**{**settings, "max_retries": 0, "timeout": 30, **options})


@pytest.fixture
def client(gateway):
    with client_of(gateway) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_text_and_stream(client, mock, model):
    mock.reply(MODELS[model], text=samples.TEXT)
    answer = client.chat.completions.create(model=model, messages=samples.HELLO)
    assert answer.choices[0].message.content == samples.TEXT
    assert answer._request_id
    mock.reply(MODELS[model], text=samples.TEXT)
    chunks = list(
        client.chat.completions.create(model=model, messages=samples.HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == samples.TEXT
    assert chunks[-1].usage.completion_tokens == mock.invoice()[-1]["output_tokens"]


@pytest.mark.parametrize("model", MODELS)
def test_parallel_tool_calls(client, mock, model):
    mock.reply(MODELS[model], tool_calls=samples.PARALLEL_CALLS)
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, tools=samples.OPENAI_TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == samples.CALLED


def test_the_deployment_of_the_client_names_the_model(gateway, mock):
    mock.reply("upstream-gpt", text=samples.TEXT)
    client = client_of(gateway, azure_deployment="gpt")
    answer = client.chat.completions.create(model="whatever", messages=samples.HELLO)
    assert answer.choices[0].message.content == samples.TEXT
    assert mock.last_request()["body"]["model"] == "upstream-gpt"


def test_a_token_instead_of_a_key(gateway, mock):
    mock.reply("upstream-gpt", text=samples.TEXT)
    client = openai.AzureOpenAI(
        azure_endpoint=gateway.url, api_version="2024-10-21", azure_ad_token=key("azure"), api_key=None, max_retries=0
    )
    assert client.chat.completions.create(model="gpt", messages=samples.HELLO).choices[0].message.content == samples.TEXT


def test_embeddings_and_text_completions(client, mock):
    assert len(client.embeddings.create(model="embed", input="one").data) == 1
    mock.reply("upstream-gpt", text="the end.")
    assert client.completions.create(model="gpt", prompt="It was").choices[0].text == "the end."


def test_the_provider_gets_its_own_path_version_and_key(client, mock):
    client.chat.completions.create(model="azure-gpt", messages=samples.HELLO)
    seen = mock.last_request()
    assert seen["path"] == "/openai/deployments/upstream-azure/chat/completions"
    assert seen["query"] == "api-version=2025-04-01-preview"
    assert seen["headers"]["api-key"] == "sk-of-the-provider"


def test_errors(gateway):
    with pytest.raises(openai.AuthenticationError):
        client_of(gateway, api_key="sk-nobody-0123456789abcdef").chat.completions.create(model="gpt", messages=samples.HELLO)
    with pytest.raises(openai.AuthenticationError, match="xpired"):
        client_of(gateway, "expired").chat.completions.create(model="gpt", messages=samples.HELLO)
    with pytest.raises(openai.PermissionDeniedError):
        client_of(gateway, "limited").chat.completions.create(model="claude", messages=samples.HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client_of(gateway).chat.completions.create(model="nowhere", messages=samples.HELLO)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as caught:
        client_of(gateway, "poor", max_retries=2).chat.completions.create(model="gpt", messages=samples.HELLO)
    assert caught.value.type == "budget_exceeded"
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(5):
            client_of(gateway, "rate").chat.completions.create(model="gpt", messages=samples.HELLO)
    assert int(caught.value.response.headers["retry-after"]) > 0
