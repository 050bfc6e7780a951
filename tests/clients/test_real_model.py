"""A real model server behind the gateway: llama.cpp with a tiny model. Chat, streams, messages, embeddings, and money."""

import anthropic
import openai
import pytest

from harness import configuration, money as books, process, samples

KEY = configuration.key("openai")
# USD for a million tokens.
INPUT, OUTPUT = "0.123457", "1.357913"


class RealGateway:
    def __init__(self, url, data):
        self.url = url
        self.data = data


def deployment(name, base_url):
    return configuration.document("ModelDeployment", name, {
        "provider": "openai-compatible",
        "model": "tiny",
        "endpoint": {"baseURL": f"{base_url}/v1"},
        "pricing": {"perMillionTokens": {"input": INPUT, "output": OUTPUT}},
    })


@pytest.fixture(scope="module")
def real(llama, llama_embedding, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    config = folder / "config"
    config.mkdir()
    key = configuration.virtual_key("openai", "normal")
    key["spec"]["models"] = ["llama", "llama-embed"]
    key["spec"].pop("modelAliases")
    documents = [*configuration.gateway(), deployment("llama", llama), deployment("llama-embed", llama_embedding), key]
    configuration.write(config, documents)
    child, url = process.start_gateway(config, folder / "data", folder / "log")
    yield RealGateway(url, folder / "data")
    assert child.stop() == 0, child.story()


@pytest.fixture
def client(real):
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def claude(real):
    with anthropic.Anthropic(base_url=real.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def costs(real):
    """Asserts at the end that the ledger has one exact attempt of these tokens, at their price."""
    before, expected = books.attempts(real.data), []
    yield lambda input, output: expected.append((input, output))
    rows = books.new_attempts(real.data, before, len(expected))
    assert {row.outcome for row in rows} == {"exact"}
    assert sorted((row.input_tokens, row.output_tokens) for row in rows) == sorted(expected)
    priced = configuration.Deployment("llama", "openai-compatible", "tiny", INPUT, OUTPUT)
    for row in rows:
        invoice = {"billed": True, "cache_read": 0, "cache_write_5m": 0, "cache_write_1h": 0}
        assert row.nano_usd == books.nano_usd(priced, {**invoice, "input_tokens": row.input_tokens, "output_tokens": row.output_tokens})


def test_chat(client, costs):
    answer = client.chat.completions.create(model="llama", messages=samples.HELLO, max_tokens=8, temperature=0)
    assert answer.model == "llama"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 8
    costs(answer.usage.prompt_tokens, answer.usage.completion_tokens)


def test_chat_stream(client, costs):
    chunks = list(
        client.chat.completions.create(
            model="llama", messages=samples.HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    usage = chunks[-1].usage
    assert 0 < usage.completion_tokens <= 24
    costs(usage.prompt_tokens, usage.completion_tokens)


def test_chat_stream_is_priced_though_the_client_did_not_ask_for_usage(client, real):
    before = books.attempts(real.data)
    chunks = list(client.chat.completions.create(model="llama", messages=samples.HELLO, max_tokens=8, stream=True))
    assert all(chunk.choices for chunk in chunks)
    (row,) = books.new_attempts(real.data, before, 1)
    assert row.outcome == "exact"
    assert row.nano_usd > 0


def test_text_completion(client, costs):
    answer = client.completions.create(model="llama", prompt="Once upon a time", max_tokens=8)
    assert answer.object == "text_completion"
    costs(answer.usage.prompt_tokens, answer.usage.completion_tokens)


def test_messages(claude, costs):
    answer = claude.messages.create(model="llama", max_tokens=8, messages=samples.HELLO, system="Be brief.")
    assert answer.model == "llama"
    assert answer.content[0].type == "text"
    usage = answer.usage
    costs(usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens)


def test_messages_stream(claude, costs):
    with claude.messages.stream(model="llama", max_tokens=24, messages=samples.HELLO) as stream:
        said = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert said
    costs(usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens)


def test_embeddings(client, costs):
    answer = client.embeddings.create(model="llama-embed", input=["hello", "goodbye"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert answer.data[0].embedding != answer.data[1].embedding
    floats = client.embeddings.create(model="llama-embed", input="hello", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-5)
    costs(answer.usage.prompt_tokens, 0)
    costs(floats.usage.prompt_tokens, 0)


def test_an_error_of_the_server_reaches_the_client(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="llama", messages=samples.HELLO, max_tokens=8, extra_body={"grammar": "not a grammar ::="})
