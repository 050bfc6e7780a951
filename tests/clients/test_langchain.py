"""The unmodified `langchain-openai`: chat, streams, tools, structured output, embeddings."""

import asyncio

import openai
import pydantic
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings

from harness import samples
from harness.configuration import key

pytestmark = pytest.mark.usefixtures("money")

MODELS = {"gpt": "upstream-gpt", "azure-gpt": "upstream-azure", "claude": "upstream-claude"}


def chat(gateway, model, role="normal"):
    return ChatOpenAI(
        model=model, base_url=gateway.openai_url, api_key=key("langchain", role), max_retries=0, timeout=30, stream_usage=True
    )


@tool
def weather(city: str, unit: str = "C") -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@tool
def time(city: str) -> str:
    """Time in a city."""
    return f"noon in {city}"


@pytest.mark.parametrize("model", MODELS)
def test_text_and_stream_with_usage(gateway, mock, model):
    mock.reply(MODELS[model], text=samples.TEXT)
    answer = chat(gateway, model).invoke([SystemMessage("Be brief."), HumanMessage("Hello.")])
    row = mock.invoice()[-1]
    assert answer.content == samples.TEXT
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (row["input_tokens"], row["output_tokens"])
    mock.reply(MODELS[model], text=samples.TEXT)
    whole = None
    for chunk in chat(gateway, model).stream("Hello."):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == samples.TEXT
    assert whole.usage_metadata["output_tokens"] == mock.invoice()[-1]["output_tokens"]


@pytest.mark.parametrize("model", MODELS)
def test_a_round_of_parallel_tools(gateway, mock, model):
    bound = chat(gateway, model).bind_tools([weather, time])
    mock.reply(MODELS[model], tool_calls=samples.PARALLEL_CALLS)
    question = HumanMessage("Weather and time?")
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == samples.CALLED
    tools = {"weather": weather, "time": time}
    results = [ToolMessage(tools[call["name"]].invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
    final = bound.invoke([question, answer, *results])
    assert "The tool answered:" in final.content
    mock.reply(MODELS[model], tool_calls=samples.PARALLEL_CALLS)
    whole = None
    for chunk in bound.stream("Weather and time?"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == samples.CALLED


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(gateway, mock, model, method):
    assert isinstance(chat(gateway, model).with_structured_output(Person, method=method).invoke("Who?"), Person)


def test_embeddings(gateway):
    # Without its tokenizer, which it would fetch from the network. Token arrays: test_openai.py.
    embeddings = OpenAIEmbeddings(
        model="embed", base_url=gateway.openai_url, api_key=key("langchain"), max_retries=0, check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(["one", "two"])
    assert len(vectors) == 2
    assert all(vectors)


def test_asynchronous_batches(gateway, mock):
    async def batch():
        return await chat(gateway, "gpt").abatch([f"number {n}" for n in range(8)])

    assert [answer.content.rsplit(": ", 1)[-1] for answer in asyncio.run(batch())] == [f"number {n}" for n in range(8)]


def test_azure(gateway, mock):
    mock.reply("upstream-gpt", text=samples.TEXT)
    model = AzureChatOpenAI(
        azure_endpoint=gateway.url, azure_deployment="gpt", api_version="2024-10-21", api_key=key("langchain"), max_retries=0
    )
    assert model.invoke("Hello.").content == samples.TEXT


def test_errors(gateway):
    with pytest.raises(openai.AuthenticationError):
        chat(gateway, "gpt", "expired").invoke("Hello.")
    with pytest.raises(openai.PermissionDeniedError):
        chat(gateway, "claude", "limited").invoke("Hello.")
    with pytest.raises(openai.BadRequestError, match="nowhere"):
        chat(gateway, "nowhere").invoke("Hello.")
    with pytest.raises(openai.RateLimitError) as caught:
        chat(gateway, "gpt", "poor").invoke("Hello.")
    assert caught.value.type == "budget_exceeded"
