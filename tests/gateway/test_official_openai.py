"""OpenAI's own Python client, unmodified, against `runlane dev` with the example that relays to a model's server."""

import asyncio
import shlex
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from ..handler_sdk.conftest import ROOT
from ..stores import free_port
from .processes import Dev, listens
from .upstream import KEY
from .waiting import eventually, eventually_true

EXAMPLE = ROOT / "handler_sdk/examples/openai_proxy.py"
MESSAGES: Any = [{"role": "user", "content": "zażółć gęślą jaźń 🦊"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


class Deployment:
    """The endpoint's URL, and its model's server, which the worker has started."""

    def __init__(self, url: str, port: int, dev: Dev) -> None:
        self.base_url = f"{url}/openai/v1"
        self.dev = dev
        self._upstream = f"http://127.0.0.1:{port}"

    def ended_early(self) -> list[str]:
        """The models whose streams were not read to their end."""
        headers = {"Authorization": f"Bearer {KEY}"}
        found: list[str] = httpx.get(f"{self._upstream}/ended-early", headers=headers).json()
        return found

    def clients(self) -> "dict[str, Any]":
        return {"base_url": self.base_url, "api_key": "any", "timeout": 30, "max_retries": 0}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_URL", f"http://127.0.0.1:{port}/")
        patch.setenv("UPSTREAM_COMMAND", shlex.join([sys.executable, "-m", "tests.gateway.upstream", str(port)]))
        patch.setenv("UPSTREAM_API_KEY", KEY)
        patch.setenv("PYTHONPATH", str(ROOT))
        dev = Dev(tmp_path_factory.mktemp("openai"), EXAMPLE, "--endpoint", "llm", openai_keep_alive_seconds="0.5")
    yield Deployment(dev.ready(), port, dev)
    dev.stop()
    eventually_true(lambda: not listens(port))  # the server goes with its worker


@pytest.fixture
def client(deployment: Deployment) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**deployment.clients()) as client:
        yield client


@pytest.fixture
async def async_client(deployment: Deployment) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(**deployment.clients()) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert completion.choices[0].message.content == MESSAGES[0]["content"]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 5
    assert completion._request_id is not None
    assert completion._request_id.startswith("sync-")


def test_chat_with_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.strip() == MESSAGES[0]["content"]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_options(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    *_, last = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


def test_the_deltas_of_a_tool_call(client: openai.OpenAI) -> None:
    name, arguments = "", ""
    for chunk in client.chat.completions.create(model="echo", messages=MESSAGES, tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments) == ("weather", '{"city": "Łódź"}')


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=MESSAGES) as stream:
        completion = stream.get_final_completion()
    assert (completion.choices[0].message.content or "").strip() == MESSAGES[0]["content"]


def test_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="echo", prompt="abc").choices[0].text == "ABC"


def test_embeddings(client: openai.OpenAI) -> None:
    for options in ({}, {"encoding_format": "float"}):
        found = client.embeddings.create(model="echo", input=["a", "abc"], **options)  # type: ignore[arg-type]
        assert [item.embedding for item in found.data] == [[1.0, 0.5, -1.0], [3.0, 0.5, -1.0]]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo", "org/other"]
    assert client.models.retrieve("org/other").id == "org/other"


def test_responses(client: openai.OpenAI) -> None:
    created = client.responses.create(model="echo", input="hello")
    assert (created.output_text, created.error) == ("hello", None)
    assert client.responses.retrieve("r7", include=["x"]).id == "r7"  # type: ignore[list-item]
    assert client.responses.cancel("r8").status == "cancelled"
    client.responses.delete("r9")


def test_a_response_that_failed_is_an_answer(client: openai.OpenAI) -> None:
    failed = client.responses.create(model="echo", input="fail")
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message == "the model broke"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, openai.BadRequestError), (401, openai.AuthenticationError), (403, openai.PermissionDeniedError),
     (404, openai.NotFoundError), (409, openai.ConflictError), (413, openai.APIStatusError),
     (422, openai.UnprocessableEntityError), (429, openai.RateLimitError), (500, openai.InternalServerError),
     (503, openai.InternalServerError), (504, openai.InternalServerError)],
)  # fmt: skip
def test_errors(client: openai.OpenAI, status: int, kind: type[openai.APIStatusError], stream: bool) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=f"status-{status}", messages=MESSAGES, stream=stream)
    assert caught.value.status_code == status
    assert f"upstream says {status}" in caught.value.message
    assert (caught.value.code, caught.value.param) == (f"code_{status}", "model")


def test_an_endpoint_that_is_not_there(deployment: Deployment) -> None:
    base_url = deployment.base_url.replace("/llm/", "/other/")
    with openai.OpenAI(**deployment.clients() | {"base_url": base_url}) as client, pytest.raises(openai.NotFoundError):
        client.models.list()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_retries(client: openai.OpenAI, status: int, stream: bool) -> None:
    model = f"flaky-{status}-{uuid.uuid4()}"
    answer = client.with_options(max_retries=2).chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    if isinstance(answer, openai.Stream):
        assert len(list(answer)) > 3
    else:
        assert answer.choices[0].message.content == MESSAGES[0]["content"]


def test_a_server_that_breaks_off(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="breaks", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the connection to the model's server broke"):
        list(stream)


async def test_chat_of_asyncio(async_client: openai.AsyncOpenAI) -> None:
    async def ask(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"number {number}"}]
        if number % 2:
            stream = await async_client.chat.completions.create(model="echo", messages=messages, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream]).strip()
        completion = await async_client.chat.completions.create(model="echo", messages=messages)
        return completion.choices[0].message.content or ""

    answers = await asyncio.gather(*(ask(number) for number in range(60)))
    assert answers == [f"number {number}" for number in range(60)]


async def test_errors_of_asyncio(async_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        await async_client.chat.completions.create(model="status-429", messages=MESSAGES)


async def test_models_and_embeddings_of_asyncio(async_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in await async_client.models.list()] == ["echo", "org/other"]
    assert len((await async_client.embeddings.create(model="echo", input=["a"])).data) == 1


async def test_a_client_that_hangs_up_stops_the_server(
    deployment: Deployment, async_client: openai.AsyncOpenAI
) -> None:
    stream = await async_client.chat.completions.create(model="endless", messages=MESSAGES, stream=True)
    await anext(stream)
    before = deployment.ended_early().count("endless")
    await stream.close()

    async def look() -> bool:
        return deployment.ended_early().count("endless") == before + 1

    async with asyncio.timeout(2):
        assert await eventually(look)


def test_a_server_that_died_is_started_again(deployment: Deployment, client: openai.OpenAI) -> None:
    """The worker begins anew with it; whoever tries again is served."""
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="dies", messages=MESSAGES)
    completion = client.with_options(max_retries=5).chat.completions.create(model="echo", messages=MESSAGES)
    assert completion.choices[0].message.content == MESSAGES[0]["content"]
