"""Runqy's own Python client, unmodified."""

import asyncio
from typing import Any

import pytest
from runqy_python import AuthenticationError, RunqyClient, RunqyError, TaskNotFoundError, enqueue, enqueue_batch

from .clients import API_KEY, Target, Worker
from .conftest import Make
from .processes import Gateway

PROMPT = {"name": "prompt", "type": ["string"]}


class Client:
    """The client, which blocks, in threads."""

    def __init__(self, url: str, key: str = API_KEY) -> None:
        self._client: Any = RunqyClient(url, key)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *arguments, **options)

        return call


@pytest.fixture
def client(gateway: Gateway) -> Client:
    return Client(gateway.url)


async def test_enqueue(client: Client, target: Target, worker: Worker) -> None:
    task = await client.enqueue(target.id, {"prompt": "ż"}, timeout=60)
    assert (task.queue, task.state) == (f"{target.id}.default", "pending")
    found = await client.get_task(task.task_id)
    assert (found.task_id, found.queue, found.state) == (task.task_id, f"{target.id}.default", "pending")
    assert (found.payload, found.result, found.error) == ({"prompt": "ż"}, None, "")
    taken = await worker.next()
    assert (taken.id, taken.timeout) == (task.task_id, 60_000)
    assert (await client.get_task(task.task_id)).state == "active"


@pytest.mark.parametrize(
    ("output", "result"),
    [(b"null", None), (b"true", True), (b"1234", 1234), (b"12345678", 12345678), (b'"text"', "text"), (b'""', ""),
     (b'"1234"', "1234"), (b'"null"', "null"), (b'"{\\"a\\": 1}"', '{"a": 1}'), (b'{"a": [1, null]}', {"a": [1, None]}),
     (b"[]", []), (b"0.5", 0.5), ('"ż"'.encode(), "ż")],
)  # fmt: skip
async def test_a_result_of_any_kind(client: Client, target: Target, worker: Worker, output: bytes, result: Any) -> None:
    task = await client.enqueue(target.id, {})
    worker.finish(await worker.next(), output)
    found = await client.get_task(task.task_id)
    assert (found.state, found.result, found.error) == ("completed", result, "")
    assert type(found.result) is type(result)


async def test_a_failure(client: Client, target: Target, worker: Worker) -> None:
    task = await client.enqueue(target.id, {"a": 1})
    worker.fail(await worker.next(), "Traceback: it broke")
    found = await client.get_task(task.task_id)
    assert (found.state, found.result, found.error) == ("archived", None, "Traceback: it broke")
    assert found.payload == {"a": 1}


async def test_enqueue_batch(client: Client, target: Target, worker: Worker) -> None:
    found = await client.enqueue_batch(target.id, [{"n": n} for n in range(3)], timeout=9)
    assert (found.enqueued, found.failed, found.errors) == (3, 0, [])
    assert [(job.id, job.timeout) for job in worker.take(3)] == [(id, 9000) for id in found.task_ids]


async def test_a_part_of_a_batch(client: Client, make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT]})
    found = await client.enqueue_batch(target.id, [{"prompt": "a"}, {}, {"prompt": "b"}])
    assert (found.enqueued, found.failed, len(found.task_ids)) == (2, 1, 2)
    assert found.errors == ["job 1: prompt is required"]


async def test_the_functions_without_a_client(gateway: Gateway, target: Target) -> None:
    task = await asyncio.to_thread(enqueue, target.id, {}, gateway.url, API_KEY)
    batch = await asyncio.to_thread(enqueue_batch, target.id, [{}, {}], gateway.url, API_KEY)
    assert (task.state, batch.enqueued) == ("pending", 2)


async def test_what_goes_wrong(client: Client, gateway: Gateway, make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT]})
    stranger = Client(gateway.url, "wrong")
    for call in (stranger.enqueue(target.id, {}), stranger.enqueue_batch(target.id, [{}]), stranger.get_task("x")):
        with pytest.raises(AuthenticationError, match="access unauthorized"):
            await call
    with pytest.raises(TaskNotFoundError, match="task not found"):
        await client.get_task("00000000-0000-4000-a000-000000000000")
    with pytest.raises(TaskNotFoundError, match=r"queue not found: nowhere\.default"):
        await client.enqueue("nowhere", {})
    with pytest.raises(RunqyError, match=r"HTTP 400: .*prompt is required"):
        await client.enqueue(target.id, {})
    with pytest.raises(RunqyError, match=r"HTTP 400: .*cannot be empty"):
        await client.enqueue_batch(target.id, [])
