"""RunPod's own Python client, unmodified, against `runlane dev`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest
import runpod
from runpod import AsyncioEndpoint
from runpod.http_client import ClientSession

from .processes import Dev
from .waiting import eventually, eventually_true

HANDLER = """
import time, handler_sdk

def handler(job):
    given = job["input"]
    if given.get("fail"):
        raise ValueError("as asked")
    time.sleep(given.get("seconds", 0))
    for number in range(given.get("count", 3)):
        yield {"number": number, "text": "ż"}

handler_sdk.start({"handler": handler, "return_aggregate_stream": True})
"""

CHUNKS = [{"number": number, "text": "ż"} for number in range(3)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("client")
    handler = folder / "handler.py"
    handler.write_text(HANDLER)
    dev = Dev(folder / "dev", handler, "--endpoint", "numbers", "--workers", "2", stop_grace_seconds="0.2")
    yield dev.ready()
    dev.kill()


@pytest.fixture
def base(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "endpoint_url_base", url.removesuffix("/numbers"))
    monkeypatch.setattr(runpod, "api_key", "any")


@pytest.fixture
def endpoint_client(base: None) -> Iterator[Any]:
    client = runpod.Endpoint("numbers")
    with closing(client.rp_client.rp_session):
        yield client


def test_run_status_and_output(endpoint_client: Any) -> None:
    job = endpoint_client.run({"count": 3})
    assert job.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert job.output(timeout=20) == CHUNKS
    assert job.status() == "COMPLETED"


def test_run_sync(endpoint_client: Any) -> None:
    assert endpoint_client.run_sync({"input": {"count": 1}}, timeout=20) == CHUNKS[:1]


def test_stream(endpoint_client: Any) -> None:
    assert list(endpoint_client.run({"count": 3}).stream()) == CHUNKS


def test_a_failure(endpoint_client: Any) -> None:
    job = endpoint_client.run({"fail": True})
    assert job.output(timeout=20) is None
    assert job.status() == "FAILED"


def test_cancel(endpoint_client: Any) -> None:
    job = endpoint_client.run({"seconds": 60})
    assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"} | {
        name: value for name, value in job.cancel().items() if name in ("delayTime", "executionTime")
    }
    assert job.status() == "CANCELLED"


def test_health_and_purge_queue(endpoint_client: Any) -> None:
    jobs = [endpoint_client.run({"seconds": 60}) for _ in range(4)]

    def both_run() -> bool:
        return bool(endpoint_client.health()["jobs"]["inProgress"] == 2)

    eventually_true(both_run)
    assert endpoint_client.health()["workers"]["running"] == 2
    assert endpoint_client.purge_queue() == {"removed": 2, "status": "completed"}
    assert endpoint_client.health()["jobs"]["inQueue"] == 0
    assert sorted(job.cancel()["status"] for job in jobs) == ["CANCELLED"] * 4


@pytest.fixture
async def asyncio_endpoint(base: None) -> AsyncIterator[AsyncioEndpoint]:
    async with ClientSession() as session:
        yield AsyncioEndpoint("numbers", session)


async def test_run_status_and_output_of_asyncio(asyncio_endpoint: AsyncioEndpoint) -> None:
    job = await asyncio_endpoint.run({"count": 3})
    assert await job.output(timeout=20) == CHUNKS
    assert await job.status() == "COMPLETED"


async def test_stream_of_asyncio(asyncio_endpoint: AsyncioEndpoint) -> None:
    job = await asyncio_endpoint.run({"count": 3})
    assert [chunk async for chunk in job.stream()] == CHUNKS


async def test_cancel_health_and_purge_queue_of_asyncio(asyncio_endpoint: AsyncioEndpoint) -> None:
    jobs = await asyncio.gather(*(asyncio_endpoint.run({"seconds": 60}) for _ in range(3)))

    async def both_run() -> bool:
        return bool((await asyncio_endpoint.health())["jobs"]["inProgress"] == 2)

    await eventually(both_run)
    assert await asyncio_endpoint.purge_queue() == {"removed": 1, "status": "completed"}
    assert {(await job.cancel())["status"] for job in jobs} == {"CANCELLED"}
