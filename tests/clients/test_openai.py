"""The unmodified `openai` package: every answer shape, against an upstream of each dialect.

`claude` stands behind Anthropic's dialect, so each test that runs for it also proves the translation both ways.
"""

import asyncio
import json

import openai
import pydantic
import pytest

from harness import configuration, money as books, samples
from harness.configuration import BY_UPSTREAM, key

pytestmark = pytest.mark.usefixtures("money")

UPSTREAM = {deployment.name: deployment.upstream for deployment in BY_UPSTREAM.values()}
CHAT_MODELS = ["gpt", "azure-gpt", "claude"]


def client_of(gateway, role="normal", retries=0, **options):
    return openai.OpenAI(base_url=gateway.openai_url, api_key=key("openai", role), max_retries=retries, timeout=30, **options)


@pytest.fixture
def client(gateway):
    with client_of(gateway) as client:
        yield client


def choices_of(chunks):
    """The choice of each chunk that has one. As Azure does, its first chunk tells about the prompt and has none."""
    chunks = list(chunks)
    assert all(chunk.choices for chunk in chunks[1:]), "only Azure's first chunk is without a choice"
    return [chunk.choices[0] for chunk in chunks if chunk.choices]


def streamed_calls(chunks):
    """The tool calls of a stream, put together by index as an application does."""
    calls = {}
    for chunk in chunks:
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": None, "name": "", "arguments": ""})
                if piece.id:
                    assert call["id"] is None, "an id comes once"
                    call["id"] = piece.id
                    assert piece.type == "function"
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_text_comes_with_usage_and_cost(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    raw = client.chat.completions.with_raw_response.create(model=model, messages=samples.HELLO, max_tokens=64)
    answer = raw.parse()
    row = mock.invoice()[-1]
    assert answer.object == "chat.completion"
    assert answer.model == model
    assert [choice.message.content for choice in answer.choices] == [samples.TEXT]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (row["input_tokens"], row["output_tokens"])
    assert answer.usage.total_tokens == row["input_tokens"] + row["output_tokens"]
    assert answer._request_id
    assert raw.headers["x-litellm-call-id"]
    assert raw.headers["x-litellm-model-group"] == model
    cost = books.nano_usd(BY_UPSTREAM[UPSTREAM[model]], row)
    assert round(float(raw.headers["x-litellm-response-cost"]) * 1e9) == cost
    seen = mock.last_request()
    assert seen["body"]["model"] == UPSTREAM[model] or model == "azure-gpt"
    assert key("openai") not in json.dumps(seen), "the client's key stays here"


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_stream_has_the_text_and_the_usage_that_was_asked_for(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    stream = client.chat.completions.create(
        model=model, messages=samples.HELLO, max_tokens=64, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    row = mock.invoice()[-1]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == samples.TEXT
    told = [chunk for chunk in chunks if chunk.choices]
    assert len({chunk.id for chunk in told}) == 1
    assert {chunk.model for chunk in told} == {model}
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["stop"]
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (row["input_tokens"], row["output_tokens"])
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_stream_without_asking_for_usage_has_a_choice_in_every_chunk(client, mock, model):
    mock.reply(UPSTREAM[model], text=samples.TEXT)
    chunks = list(client.chat.completions.create(model=model, messages=samples.HELLO, stream=True))
    assert "".join(choice.delta.content or "" for choice in choices_of(chunks)) == samples.TEXT
    assert model == "azure-gpt" or all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_parallel_tool_calls(client, mock, model):
    mock.reply(UPSTREAM[model], tool_calls=samples.PARALLEL_CALLS)
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, tools=samples.OPENAI_TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == samples.CALLED
    assert {call.type for call in calls} == {"function"}
    assert len({call.id for call in calls}) == 2
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_parallel_tool_calls_in_a_stream(client, mock, model):
    mock.reply(UPSTREAM[model], tool_calls=samples.PARALLEL_CALLS)
    chunks = list(client.chat.completions.create(model=model, messages=samples.HELLO, tools=samples.OPENAI_TOOLS, stream=True))
    calls = streamed_calls(chunks)
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == samples.CALLED
    assert len({call["id"] for call in calls}) == 2
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["tool_calls"]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_tool_without_arguments_gets_an_empty_object(client, mock, model):
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]
    mock.reply(UPSTREAM[model], tool_calls=[{"name": "now", "arguments": {}}])
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, tools=tools)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {}
    mock.reply(UPSTREAM[model], tool_calls=[{"name": "now", "arguments": {}}])
    chunks = client.chat.completions.create(model=model, messages=samples.HELLO, tools=tools, stream=True)
    assert [json.loads(call["arguments"]) for call in streamed_calls(chunks)] == [{}]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_tool_results_reach_the_model(client, mock, model):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Vienna"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, tools=samples.OPENAI_TOOLS)
    assert "The tool answered: sunny, 21 degrees" in answer.choices[0].message.content
    body = mock.last_request()["body"]
    if model == "claude":
        assert "Be brief." in samples.texts_of(body["system"])
        used, result = body["messages"][-2]["content"][-1], body["messages"][-1]["content"][0]
        assert (used["type"], used["id"], used["name"], used["input"]) == ("tool_use", "call_1", "weather", {"city": "Vienna"})
        assert (result["type"], result["tool_use_id"]) == ("tool_result", "call_1")
    else:
        assert body["messages"] == messages


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_forced_tool_is_called(client, mock, model):
    choice = {"type": "function", "function": {"name": "time"}}
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, tools=samples.OPENAI_TOOLS, tool_choice=choice)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["time"]


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_structured_output_is_parsed(client, mock, model):
    answer = client.chat.completions.parse(model=model, messages=samples.HELLO, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_pictures_reach_the_model(client, mock, model):
    picture = samples.png()
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    sent = mock.last_request()["body"]["messages"][0]["content"]
    if model == "claude":
        assert sent[1] == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}
    else:
        assert sent == content


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_reasoning_comes_before_the_text(client, mock, model):
    mock.reply(UPSTREAM[model], thinking="Let me see.", text="Yes.")
    answer = client.chat.completions.create(model=model, messages=samples.HELLO)
    assert answer.choices[0].message.reasoning_content == "Let me see."
    assert answer.choices[0].message.content == "Yes."
    mock.reply(UPSTREAM[model], thinking="Let me see.", text="Yes.")
    thought, said = "", ""
    for choice in choices_of(client.chat.completions.create(model=model, messages=samples.HELLO, stream=True)):
        piece = getattr(choice.delta, "reasoning_content", None)
        if piece:
            assert said == "", "thoughts come first"
            thought += piece
        said += choice.delta.content or ""
    assert (thought, said) == ("Let me see.", "Yes.")


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_limits_of_output_and_stops_are_kept(client, mock, model):
    mock.reply(UPSTREAM[model], text="one two three four five six seven eight")
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, max_completion_tokens=3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two three", "length")
    mock.reply(UPSTREAM[model], text="one two three four")
    answer = client.chat.completions.create(model=model, messages=samples.HELLO, stop=[" three"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "stop")


def test_unknown_fields_and_number_texts_pass_through(client, mock):
    extra = {"vendor_option": {"b": 1, "a": [1.50, 12345678901234567890]}}
    client.chat.completions.create(model="gpt", messages=samples.HELLO, seed=7, extra_body=extra)
    assert mock.last_request()["body"]["vendor_option"] == extra["vendor_option"]
    mock.reply(UPSTREAM["gpt"], text="x", extra={"vendor_answer": {"kept": True}})
    answer = client.chat.completions.create(model="gpt", messages=samples.HELLO)
    assert answer.model_extra["vendor_answer"] == {"kept": True}


def test_several_choices(client, mock):
    mock.reply(UPSTREAM["gpt"], text=samples.TEXT)
    answer = client.chat.completions.create(model="gpt", messages=samples.HELLO, n=3, max_tokens=32)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_cached_input_is_told_and_priced(client, mock):
    usage = {"input": 1000, "output": 5, "cache_read": 600}
    mock.reply(UPSTREAM["gpt"], text="x", usage={"tokens": usage})
    answer = client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x " * 2000}])
    assert answer.usage.prompt_tokens_details.cached_tokens == 600
    mock.reply(UPSTREAM["claude"], text="x", usage={"tokens": {**usage, "cache_write_5m": 100}})
    answer = client.chat.completions.create(model="claude", messages=[{"role": "user", "content": "x " * 2000}])
    assert answer.usage.prompt_tokens == 1000
    assert answer.usage.prompt_tokens_details.cached_tokens == 600


def test_an_alias_of_the_key_leads_to_its_model(client, mock):
    mock.reply(UPSTREAM["gpt"], text=samples.TEXT)
    answer = client.chat.completions.create(model="fast", messages=samples.HELLO)
    assert answer.choices[0].message.content == samples.TEXT


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_text_completions(client, mock, model):
    mock.reply(UPSTREAM[model], text="and they lived.")
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=32)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "and they lived.")
    assert answer.usage.completion_tokens == mock.invoice()[-1]["output_tokens"]
    mock.reply(UPSTREAM[model], text="and they lived.")
    stream = client.completions.create(model=model, prompt="Once upon a time", max_tokens=32, stream=True)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == "and they lived."


def test_embeddings_of_texts_and_tokens(client, mock):
    answer = client.embeddings.create(model="embed", input=["one", "two"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(len(item.embedding) > 0 and isinstance(item.embedding[0], float) for item in answer.data)
    assert answer.usage.prompt_tokens == mock.invoice()[-1]["input_tokens"]
    floats = client.embeddings.create(model="embed", input=["one", "two"], encoding_format="float")
    for ours, other in zip(answer.data, floats.data):
        assert ours.embedding == pytest.approx(other.embedding, abs=1e-6)
    tokens = client.embeddings.create(model="embed", input=[[1, 2, 3]])
    assert mock.last_request()["body"]["input"] == [[1, 2, 3]]
    assert len(tokens.data) == 1


def test_models_are_listed_for_the_key(client, gateway):
    listed = [model.id for model in client.models.list()]
    assert set(CHAT_MODELS) <= set(listed)
    assert "forbidden" not in listed
    assert client.models.retrieve("gpt").id == "gpt"
    assert [model.id for model in client_of(gateway, "limited").models.list()] == ["gpt"]
    for hidden in ("nowhere", "forbidden"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(hidden)


def test_unknown_key_is_refused(gateway):
    client = openai.OpenAI(base_url=gateway.openai_url, api_key="sk-nobody-0123456789abcdef", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="gpt", messages=samples.HELLO)
    assert caught.value.status_code == 401
    assert caught.value.request_id
    assert "sk-nobody" not in str(caught.value)


@pytest.mark.parametrize(("role", "word"), [("expired", "xpired"), ("disabled", "disabled")])
def test_a_key_that_ended_is_told_so(gateway, role, word):
    with pytest.raises(openai.AuthenticationError, match=word) as caught:
        client_of(gateway, role).chat.completions.create(model="gpt", messages=samples.HELLO)
    assert caught.value.request_id


def test_unknown_model(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="nowhere", messages=samples.HELLO)
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (400, "model_not_found", "model")
    assert "nowhere" in caught.value.message
    assert caught.value.request_id


@pytest.mark.parametrize("model", ["claude", "forbidden"])
def test_a_model_that_the_key_may_not_use(gateway, model):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client_of(gateway, "limited").chat.completions.create(model=model, messages=samples.HELLO)
    assert (caught.value.status_code, caught.value.type) == (403, "key_model_access_denied")
    assert caught.value.request_id


def test_rate_limit_says_when_to_come_again(gateway):
    client = client_of(gateway, "rate")
    with pytest.raises(openai.RateLimitError) as caught:
        # A minute may begin in between, so up to two are allowed twice.
        for _ in range(5):
            client.chat.completions.create(model="gpt", messages=samples.HELLO)
    headers = caught.value.response.headers
    assert 0 < int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.request_id


class Counted:
    """Counts the HTTP requests of a client."""

    def __init__(self):
        self.count = 0

    def __call__(self, request):
        self.count += 1


def test_a_spent_budget_is_not_retried(gateway, mock):
    counted, before = Counted(), len(mock.invoice())
    transport = openai.DefaultHttpxClient(event_hooks={"request": [counted]})
    with client_of(gateway, "poor", retries=2, http_client=transport) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="gpt", messages=samples.HELLO)
    assert caught.value.type == "budget_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert counted.count == 1
    assert len(mock.invoice()) == before, "nothing was sent to the provider"


def test_a_budget_is_never_overspent(gateway, mock):
    before = books.settled(gateway.data, mock)
    calls = 0
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(50):
            client_of(gateway, "spender").chat.completions.create(model="dear", messages=samples.HELLO, max_tokens=20)
            calls += 1
    assert caught.value.type == "budget_exceeded"
    assert calls > 0, "a budget that was not touched admits"
    spent = sum(row.nano_usd for row in books.new_attempts(gateway.data, before, calls))
    assert spent <= 400_000_000


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_errors_of_the_provider_keep_their_class(client, mock, model, status, error):
    mock.fail(UPSTREAM[model], status, repeat=6, message="the provider says no")
    with pytest.raises(error, match="the provider says no") as caught:
        client.chat.completions.create(model=model, messages=samples.HELLO)
    assert caught.value.status_code == status
    assert caught.value.request_id


def test_a_failure_of_the_provider_is_retried(client, mock):
    mock.fail(UPSTREAM["gpt"], 500)
    mock.reply(UPSTREAM["gpt"], text=samples.TEXT)
    raw = client.chat.completions.with_raw_response.create(model="gpt", messages=samples.HELLO)
    assert raw.parse().choices[0].message.content == samples.TEXT
    assert raw.headers["x-litellm-attempted-retries"] == "1"


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("how", ["error", "close", "reset"])
def test_a_stream_that_breaks_raises(client, mock, model, how):
    mock.reply(UPSTREAM[model], text="a b c d e f g h", cut={"after_events": 5, "how": how})
    said = ""
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(model=model, messages=samples.HELLO, stream=True):
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert said and "a b c d e f g h".startswith(said)


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("role", ["normal", "hard"])
def test_a_client_that_hangs_up_is_settled(gateway, mock, model, role):
    before = books.settled(gateway.data, mock)
    mock.reply(UPSTREAM[model], text=" ".join(f"word{n}" for n in range(100)), chunk_delay_ms=10)
    client = client_of(gateway, role)
    stream = client.chat.completions.create(model=model, messages=samples.HELLO, stream=True, max_tokens=200)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()
    client.close()
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
def test_many_calls_at_once_of_the_asynchronous_client(gateway, mock, model):
    async def calls():
        async with openai.AsyncOpenAI(base_url=gateway.openai_url, api_key=key("async"), max_retries=0) as client:
            async def unary(n):
                messages = [{"role": "user", "content": f"number {n}"}]
                answer = await client.chat.completions.create(model=model, messages=messages)
                return answer.choices[0].message.content

            async def stream(n):
                messages = [{"role": "user", "content": f"stream {n}"}]
                chunks = await client.chat.completions.create(model=model, messages=messages, stream=True)
                return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])

            return await asyncio.gather(*[unary(n) for n in range(10)], *[stream(n) for n in range(10)])

    answers = asyncio.run(calls())
    assert [answer.rsplit(": ", 1)[-1] for answer in answers] == [f"{kind} {n}" for kind in ("number", "stream") for n in range(10)]


def test_a_cancelled_asynchronous_call_leaves_the_gateway_well(gateway, mock):
    mock.script(UPSTREAM["gpt"], {"reply": {"text": samples.TEXT}, "gate": "cancelled"})

    async def call():
        async with openai.AsyncOpenAI(base_url=gateway.openai_url, api_key=key("async"), max_retries=0) as client:
            task = asyncio.create_task(client.chat.completions.create(model="gpt", messages=samples.HELLO))
            while mock.status()["in_flight"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(call())
    mock.open_gate("cancelled")
    assert gateway.is_healthy()


def test_the_master_key_may_call_everything(gateway, mock):
    client = openai.OpenAI(base_url=gateway.openai_url, api_key=configuration.MASTER_KEY, max_retries=0)
    mock.reply(UPSTREAM["forbidden"], text=samples.TEXT)
    answer = client.chat.completions.create(model="forbidden", messages=samples.HELLO)
    assert answer.choices[0].message.content == samples.TEXT
