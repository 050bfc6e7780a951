"""The unmodified `anthropic` package: every answer shape, against an upstream of each dialect.

`gpt` and `azure-gpt` stand behind OpenAI's dialect, so each test that runs for them also proves the translation.
"""

import asyncio
import json

import anthropic
import pytest

from harness import money as books, samples
from harness.configuration import BY_UPSTREAM, key

pytestmark = pytest.mark.usefixtures("money")

UPSTREAM = {deployment.name: deployment.upstream for deployment in BY_UPSTREAM.values()}
CHAT_MODELS = ["claude", "gpt", "azure-gpt"]


def client_of(gateway, role="normal", retries=0, **options):
    return anthropic.Anthropic(base_url=gateway.url, api_key=key("anthropic", role), max_retries=retries, timeout=30, **options)


@pytest.fixture
def client(gateway):
    with client_of(gateway) as client:
        yield client


def ask(client, model, **more):
    return client.messages.create(**{"model": model, "max_tokens": 256, "messages": samples.HELLO, **more})


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_text_comes_with_usage(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    raw = client.messages.with_raw_response.create(model=model, max_tokens=256, messages=samples.HELLO)
    answer = raw.parse()
    row = mock.invoice()[-1]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", model)
    assert [block.text for block in answer.content] == [samples.TEXT]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (row["input_tokens"], row["output_tokens"])
    assert answer._request_id
    assert round(float(raw.headers["x-litellm-response-cost"]) * 1e9) == books.nano_usd(BY_UPSTREAM[UPSTREAM[model]], row)
    assert key("anthropic") not in json.dumps(mock.last_request())


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_stream_has_every_event_in_order(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    events = list(ask(client, model, stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    said = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert said == samples.TEXT
    start = next(event for event in events if event.type == "message_start")
    assert start.message.model == model
    last = next(event for event in events if event.type == "message_delta")
    assert (last.delta.stop_reason, last.usage.output_tokens) == ("end_turn", mock.invoice()[-1]["output_tokens"])


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_the_stream_helper_puts_the_message_together(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    with client.messages.stream(model=model, max_tokens=256, messages=samples.HELLO) as stream:
        assert "".join(stream.text_stream) == samples.TEXT
        final = stream.get_final_message()
    assert final.usage.output_tokens == mock.invoice()[-1]["output_tokens"]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_parallel_tool_use(client, mock, model):
    mock.reply(UPSTREAM[model], tool_calls=samples.PARALLEL_CALLS)
    answer = ask(client, model, tools=samples.ANTHROPIC_TOOLS)
    uses = [block for block in answer.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == samples.CALLED
    assert len({use.id for use in uses}) == 2
    assert answer.stop_reason == "tool_use"


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_parallel_tool_use_in_a_stream(client, mock, model):
    mock.reply(UPSTREAM[model], tool_calls=samples.PARALLEL_CALLS)
    with client.messages.stream(model=model, max_tokens=256, messages=samples.HELLO, tools=samples.ANTHROPIC_TOOLS) as stream:
        final = stream.get_final_message()
    assert [(block.name, block.input) for block in final.content if block.type == "tool_use"] == samples.CALLED
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_tool_without_arguments_gets_an_empty_object(client, mock, model):
    tools = [{"name": "now", "input_schema": {"type": "object", "properties": {}}}]
    mock.reply(UPSTREAM[model], tool_calls=[{"name": "now", "arguments": {}}])
    assert ask(client, model, tools=tools).content[-1].input == {}
    mock.reply(UPSTREAM[model], tool_calls=[{"name": "now", "arguments": {}}])
    with client.messages.stream(model=model, max_tokens=256, messages=samples.HELLO, tools=tools) as stream:
        assert stream.get_final_message().content[-1].input == {}


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_tool_results_reach_the_model(client, mock, model):
    uses = [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Vienna"}},
        {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {"city": "Quito"}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "noon"}]},
    ]
    messages = [
        {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]
    answer = ask(client, model, messages=messages, tools=samples.ANTHROPIC_TOOLS, system="Be brief.")
    assert "The tool answered" in answer.content[0].text
    sent = mock.last_request()["body"]["messages"]
    if model == "claude":
        assert sent == messages
    else:
        assert sent[0] == {"role": "system", "content": "Be brief."}
        calls = sent[2]["tool_calls"]
        assert [(call["id"], json.loads(call["function"]["arguments"])) for call in calls] == [
            ("toolu_1", {"city": "Vienna"}),
            ("toolu_2", {"city": "Quito"}),
        ]
        assert [(turn["role"], turn["tool_call_id"], turn["content"]) for turn in sent[3:]] == [
            ("tool", "toolu_1", "sunny"),
            ("tool", "toolu_2", "noon"),
        ]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_pictures_reach_the_model(client, mock, model):
    picture = samples.png()
    source = {"type": "base64", "media_type": "image/png", "data": picture}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    ask(client, model, messages=[{"role": "user", "content": content}])
    sent = mock.last_request()["body"]["messages"][0]["content"]
    if model == "claude":
        assert sent == content
    else:
        assert sent[1]["image_url"]["url"] == f"data:image/png;base64,{picture}"


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_thinking_comes_before_the_text(client, mock, model):
    mock.reply(UPSTREAM[model], thinking="Let me see.", text="Yes.")
    answer = ask(client, model, max_tokens=2048, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("Let me see.", "Yes.")
    mock.reply(UPSTREAM[model], thinking="Let me see.", text="Yes.")
    events = list(ask(client, model, max_tokens=2048, thinking={"type": "enabled", "budget_tokens": 1024}, stream=True))
    thought = "".join(event.delta.thinking for event in events if getattr(getattr(event, "delta", None), "type", "") == "thinking_delta")
    said = "".join(event.delta.text for event in events if getattr(getattr(event, "delta", None), "type", "") == "text_delta")
    assert (thought, said) == ("Let me see.", "Yes.")
    blocks = [(event.index, event.content_block.type) for event in events if event.type == "content_block_start"]
    assert blocks == [(0, "thinking"), (1, "text")]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_limits_of_output_and_stops_are_kept(client, mock, model):
    mock.reply(UPSTREAM[model], text="one two three four five six seven eight")
    answer = ask(client, model, max_tokens=3)
    assert (answer.content[0].text, answer.stop_reason) == ("one two three", "max_tokens")
    mock.reply(UPSTREAM[model], text="one two three four")
    answer = ask(client, model, stop_sequences=[" three"])
    assert answer.content[0].text == "one two"
    # OpenAI's answer does not tell which stop it was, or that it was one.
    assert answer.stop_reason == ("stop_sequence" if model == "claude" else "end_turn")


def test_cache_marks_and_versions_pass_through_and_caching_is_priced(client, mock):
    system = [{"type": "text", "text": "A long rule. " * 400, "cache_control": {"type": "ephemeral"}}]
    beta = {"anthropic-beta": "token-efficient-tools-2025-02-19"}
    first = ask(client, "claude", system=system, extra_headers=beta)
    seen = mock.last_request()
    assert seen["body"]["system"] == system
    assert seen["headers"]["anthropic-beta"] == beta["anthropic-beta"]
    assert seen["headers"]["anthropic-version"] == client.default_headers["anthropic-version"]
    assert seen["headers"]["x-api-key"] == "sk-of-the-provider"
    second = ask(client, "claude", system=system)
    assert first.usage.cache_creation_input_tokens > 0
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens


def test_cached_input_of_an_openai_upstream_is_told(client, mock):
    mock.reply("upstream-gpt", text="x", usage={"tokens": {"input": 1000, "output": 5, "cache_read": 600}})
    answer = ask(client, "gpt", messages=[{"role": "user", "content": "x " * 2000}])
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (400, 600)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_tokens_are_counted_without_a_charge(client, gateway, model):
    counted = client.messages.count_tokens(model=model, messages=samples.HELLO, system="Be brief.")
    assert 0 < counted.input_tokens < 100


def test_models_are_listed_in_the_shape_of_the_client(client):
    listed = list(client.models.list())
    assert {"claude", "gpt"} <= {model.id for model in listed}
    assert all(model.type == "model" and model.display_name for model in listed)


def body_of(error):
    """The error of Anthropic's shape."""
    assert error.body["type"] == "error"
    assert error.body["error"]["message"]
    assert error.request_id
    assert error.body["request_id"] == error.request_id
    return error.body["error"]


def test_unknown_key_is_refused(gateway):
    client = anthropic.Anthropic(base_url=gateway.url, api_key="sk-nobody-0123456789abcdef", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask(client, "claude")
    assert body_of(caught.value)["type"] == "authentication_error"


def test_a_key_in_the_authorization_header(gateway, mock):
    mock.reply("upstream-claude", text=samples.TEXT)
    with anthropic.Anthropic(base_url=gateway.url, auth_token=key("anthropic"), api_key=None, max_retries=0) as client:
        assert ask(client, "claude").content[0].text == samples.TEXT


@pytest.mark.parametrize(("role", "word"), [("expired", "xpired"), ("disabled", "disabled")])
def test_a_key_that_ended_is_told_so(gateway, role, word):
    with pytest.raises(anthropic.AuthenticationError, match=word) as caught:
        ask(client_of(gateway, role), "claude")
    assert body_of(caught.value)["type"] == "authentication_error"


def test_unknown_model(client):
    with pytest.raises(anthropic.BadRequestError, match="nowhere") as caught:
        ask(client, "nowhere")
    assert body_of(caught.value)["type"] == "not_found_error"


def test_a_model_that_the_key_may_not_use(gateway):
    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        ask(client_of(gateway, "limited"), "claude")
    assert body_of(caught.value)["type"] == "permission_error"


def test_rate_limit_says_when_to_come_again(gateway):
    client = client_of(gateway, "rate")
    with pytest.raises(anthropic.RateLimitError) as caught:
        for _ in range(5):
            ask(client, "claude")
    assert body_of(caught.value)["type"] == "rate_limit_error"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_a_spent_budget_is_not_retried(gateway, model):
    requests = []
    transport = anthropic.DefaultHttpxClient(event_hooks={"request": [requests.append]})
    with client_of(gateway, "poor", retries=2, http_client=transport) as client:
        with pytest.raises(anthropic.RateLimitError) as caught:
            ask(client, model)
    assert body_of(caught.value)["type"] == "rate_limit_error"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(requests) == 1


def test_a_budget_is_never_overspent(gateway, mock):
    before, calls = books.settled(gateway.data, mock), 0
    with pytest.raises(anthropic.RateLimitError):
        for _ in range(50):
            ask(client_of(gateway, "spender"), "dear-claude", max_tokens=20)
            calls += 1
    assert calls > 0
    assert sum(row.nano_usd for row in books.new_attempts(gateway.data, before, calls)) <= 400_000_000


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, anthropic.BadRequestError), (429, anthropic.RateLimitError), (500, anthropic.InternalServerError)],
)
def test_errors_of_the_provider_keep_their_class(client, mock, model, status, error):
    mock.fail(UPSTREAM[model], status, repeat=6, message="the provider says no")
    with pytest.raises(error, match="the provider says no") as caught:
        ask(client, model)
    body_of(caught.value)


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("how", ["error", "close", "reset"])
def test_a_stream_that_breaks_raises(client, mock, model, how):
    mock.reply(UPSTREAM[model], text="a b c d e f g h", cut={"after_events": 5, "how": how})
    with pytest.raises(anthropic.APIError):
        for _ in ask(client, model, stream=True):
            pass


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("role", ["normal", "hard"])
def test_a_client_that_hangs_up_is_settled(gateway, mock, model, role):
    before = books.settled(gateway.data, mock)
    mock.reply(UPSTREAM[model], text=" ".join(f"word{n}" for n in range(100)), chunk_delay_ms=10)
    with client_of(gateway, role) as client:
        stream = ask(client, model, stream=True)
        for event in stream:
            if event.type == "content_block_delta":
                break
        stream.close()
    mock.wait(in_flight=0)
    assert gateway.is_healthy()
    (attempt,) = books.new_attempts(gateway.data, before, 1)
    cost = books.nano_usd(BY_UPSTREAM[UPSTREAM[model]], mock.invoice()[-1])
    if attempt.outcome == "exact":
        assert attempt.nano_usd == cost
    else:
        assert attempt.outcome in books.FLAGGED
        assert attempt.nano_usd > 0
        assert role != "hard" or cost <= attempt.nano_usd <= attempt.held_nano_usd


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_many_calls_at_once_of_the_asynchronous_client(gateway, model):
    async def calls():
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=key("anthropic"), max_retries=0) as client:
            async def unary(n):
                messages = [{"role": "user", "content": f"number {n}"}]
                answer = await client.messages.create(model=model, max_tokens=64, messages=messages)
                return answer.content[0].text

            async def stream(n):
                messages = [{"role": "user", "content": f"stream {n}"}]
                async with client.messages.stream(model=model, max_tokens=64, messages=messages) as stream:
                    return "".join([text async for text in stream.text_stream])

            return await asyncio.gather(*[unary(n) for n in range(10)], *[stream(n) for n in range(10)])

    answers = asyncio.run(calls())
    assert [answer.rsplit(": ", 1)[-1] for answer in answers] == [f"{kind} {n}" for kind in ("number", "stream") for n in range(10)]
