"""Generators of RunPod's SDK: those that it aggregates, and those that it does not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..clients import Target
from ..waiting import eventually
from .conftest import ClientOf, MakeEndpoint, StartWorker, ended, final
from .workers import Endpoint, Sdk, SdkWorker

VALUES: list[Any] = [1, None, 0, False, "", "żółć \U0001f600", [], {}, {"a": [None]}, 1.5]
LIMIT = 1_000_000


class Served(NamedTuple):
    """Two endpoints, each with a worker: of a generator, many jobs at once, whose chunks are its output too; and of an
    async generator, one at a time, that has no output of its own."""

    aggregating: Endpoint
    waiting: Endpoint
    worker: SdkWorker


@pytest.fixture(scope="module")
def served(sdk: Sdk, make_endpoint: MakeEndpoint, start_worker: StartWorker) -> Iterator[Served]:
    aggregating, waiting = make_endpoint(), make_endpoint()
    first = start_worker(sdk, aggregating, HANDLER="generator", AGGREGATE="1", CONCURRENCY="10")
    second = start_worker(sdk, waiting, HANDLER="async_generator")
    yield Served(aggregating, waiting, second)
    first.kill()
    second.kill()


@pytest.fixture
def target(served: Served, client_of: ClientOf) -> Target:
    """A client of the one that aggregates."""
    return client_of(served.aggregating)


@pytest.fixture
def waiting(served: Served, client_of: ClientOf) -> Target:
    """A client of the one that waits for the test."""
    return client_of(served.waiting)


async def next_chunks(target: Target, job: str) -> list[Any]:
    """What one poll of /stream brings."""
    return [item["output"] for item in (await target.poll(job))["stream"]]


async def streamed(target: Target, job: str) -> list[Any]:
    """All chunks, until the job has ended."""
    chunks: list[Any] = []
    while True:
        polled = await target.poll(job)
        chunks += [item["output"] for item in polled["stream"]]
        if polled["status"] not in ("IN_QUEUE", "IN_PROGRESS") and not polled["stream"]:
            return chunks


async def test_chunks_and_their_list(target: Target) -> None:
    id = await target.run(VALUES)
    assert await streamed(target, id) == VALUES
    job = await target.status(id)
    assert (job["status"], job["output"]) == ("COMPLETED", VALUES)


async def test_no_chunks(target: Target) -> None:
    id = await target.run([])
    assert await streamed(target, id) == []
    assert (await target.status(id))["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("last", "error"),
    [({"do": "raise", "text": "as asked: ż"}, "handler: as asked: ż "), ({"error": "no memory"}, "no memory")],
    ids=["raises", "yields an error"],
)
async def test_an_error_after_two_chunks(target: Target, last: Any, error: str) -> None:
    id = await target.run([1, 2, last, 3])
    assert await streamed(target, id) == [1, 2]
    job = await target.status(id)
    assert job["status"] == "FAILED"
    assert job["error"].startswith(error)
    assert ("Traceback" in job["error"]) == ("do" in last)


async def test_a_long_text_comes_in_pieces(target: Target) -> None:
    id = await target.run(["first", {"do": "repeat", "value": "ż", "times": 800_000}, "last"])
    first, *pieces, last = await streamed(target, id)
    assert (first, last) == ("first", "last")
    assert len(pieces) > 1
    assert all(len(piece.encode()) <= LIMIT for piece in pieces)
    assert "".join(pieces) == "ż" * 800_000
    assert (await target.status(id))["output"] == ["first", "ż" * 800_000, "last"]


async def test_a_long_list_fails_the_job(target: Target) -> None:
    id = await target.run(["first", {"do": "repeat", "value": [1], "times": 600_000}, "last"])
    assert await streamed(target, id) == ["first"]
    job = await target.status(id)
    assert job["status"] == "FAILED"
    assert f"limit is {LIMIT} bytes" in job["error"]
    assert (await final(target, [1]))["output"] == [1]


async def test_chunks_come_one_by_one(waiting: Target, tmp_path: Path) -> None:
    values = [{"number": number} for number in range(3)]
    id = await waiting.run({"values": values, "file": str(tmp_path / "go")})
    for number, value in enumerate(values):
        (tmp_path / f"go-{number}").touch()
        assert await eventually(lambda: next_chunks(waiting, id)) == [value]
    job = await ended(waiting, id)
    assert job["status"] == "COMPLETED"
    assert "output" not in job


async def test_an_async_generator_is_stopped(waiting: Target, served: Served, sdk: Sdk, tmp_path: Path) -> None:
    id = await waiting.run({"values": [1, 2], "file": str(tmp_path / "go")})
    (tmp_path / "go-0").touch()
    assert await eventually(lambda: next_chunks(waiting, id)) == [1]
    await waiting.post(f"/cancel/{id}")
    if sdk.hears_stops:
        await served.worker.has_recorded((1, "cancelled"), id)
    (tmp_path / "go-1").touch()
    after = await waiting.run({"values": ["x"], "file": str(tmp_path / "after")})
    (tmp_path / "after-0").touch()
    assert await asyncio.gather(streamed(waiting, after), streamed(waiting, id)) == [["x"], []]
    assert (await waiting.status(id))["status"] == "CANCELLED"
