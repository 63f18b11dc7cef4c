import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
import redis

from gateway import event_stream

from ..clients import Taken, Target, Worker
from ..conftest import Make
from ..waiting import eventually, still_waits
from .test_runpod import NAMES, RAW

EVENTS = {"Accept": "text/event-stream"}


async def begin(target: Target, worker: Worker) -> Taken:
    """Submits a job that the worker begins."""
    await target.run(1)
    return worker.take()[0]


def numbers(first: int, last: int) -> list[bytes]:
    """The numbers from first to last, as chunks."""
    return [b"%d" % number for number in range(first, last + 1)]


def outputs(polled: dict[str, Any]) -> list[Any]:
    return [item["output"] for item in polled["stream"]]


# polling


async def test_each_chunk_comes_once_and_in_order(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, *numbers(1, 3))
    first = await target.poll(job.id)
    worker.emit(job, 4, *numbers(4, 5))
    second = await target.poll(job.id)
    assert first.keys() == {"id", "status", "delayTime", "stream"}
    assert (first["id"], first["status"]) == (job.id, "IN_PROGRESS")
    assert (outputs(first), outputs(second)) == ([1, 2, 3], [4, 5])


async def test_a_poll_is_held_until_there_is_a_chunk(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    answer = asyncio.create_task(target.poll(job.id))
    assert await still_waits(answer)
    worker.emit(job, 1, b'"here"')
    assert outputs(await answer) == ["here"]


async def test_a_poll_of_a_queued_job_is_held_too(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    answer = asyncio.create_task(target.poll(id))
    assert await still_waits(answer)
    worker.emit(worker.take()[0], 1, b"1")
    assert outputs(await answer) == [1]


async def test_a_poll_is_held_five_seconds_at_most(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    async with asyncio.timeout(8):
        polled = await target.poll(job.id)
    assert (polled["status"], polled["stream"]) == ("IN_PROGRESS", [])


async def test_the_final_state_comes_with_all_that_is_left(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    for first in range(1, 2501, 500):
        worker.emit(job, first, *numbers(first, first + 499))
    worker.finish(job)
    polled = await target.poll(job.id)
    assert polled["status"] == "COMPLETED"
    assert polled["executionTime"] >= 0
    assert outputs(polled) == list(range(1, 2501))
    again = await target.poll(job.id)
    assert (again["status"], again["stream"]) == ("COMPLETED", [])


async def test_a_poll_that_is_held_ends_with_the_job(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    answer = asyncio.create_task(target.poll(job.id))
    assert await still_waits(answer)
    worker.end(job)
    assert ((await answer)["status"], (await answer)["stream"]) == ("COMPLETED", [])


async def test_a_failed_job_hands_out_what_it_wrote(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, *numbers(1, 2))
    worker.fail(job)
    polled = await target.poll(job.id)
    assert (polled["status"], outputs(polled)) == ("FAILED", [1, 2])


async def test_polls_after_cancelled_go_on_working(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, b"1")
    await target.post(f"/cancel/{job.id}")
    found = [await target.poll(job.id) for _ in range(3)]
    assert [polled["status"] for polled in found] == ["CANCELLED"] * 3
    assert [outputs(polled) for polled in found] == [[1], [], []]


async def test_two_who_poll_share_the_chunks(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)

    async def poll_all() -> list[Any]:
        found, status = [], ""
        while status != "COMPLETED":
            polled = await target.poll(job.id)
            found += outputs(polled)
            status = polled["status"]
        return found

    readers = [asyncio.create_task(poll_all()) for _ in range(4)]
    for number in range(1, 101):
        worker.emit(job, number, b"%d" % number)
        await asyncio.sleep(0)
    worker.end(job)
    found = [await reader for reader in readers]
    assert sorted(itertools.chain(*found)) == list(range(1, 101))
    assert all(part == sorted(part) for part in found)


async def test_a_poll_says_that_a_new_attempt_began(target: Target, worker: Worker) -> None:
    old = await begin(target, worker)
    worker.emit(old, 1, *numbers(1, 2))
    assert "restart" not in await target.poll(old.id)
    worker.lose(old)
    (new,) = worker.take()
    worker.emit(new, 1, b"10")
    first = await target.poll(new.id)
    worker.emit(new, 2, b"11")
    second = await target.poll(new.id)
    assert (first["restart"], outputs(first)) == (True, [10])
    assert ("restart" in second, outputs(second)) == (False, [11])


async def test_chunks_of_an_attempt_that_was_replaced_do_not_come(target: Target, worker: Worker) -> None:
    old = await begin(target, worker)
    worker.emit(old, 1, *numbers(1, 2))
    worker.lose(old)
    (new,) = worker.take()
    assert worker.emit(old, 3, b"3") == [b"STALE", b"IN_PROGRESS"]
    worker.emit(new, 1, b"10")
    polled = await target.poll(new.id)
    assert outputs(polled) == [10]


@pytest.mark.parametrize("raw", RAW, ids=NAMES.get)
async def test_chunks_come_byte_for_byte(target: Target, worker: Worker, raw: str) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, raw.encode(), b"2")
    polled = await target.get(f"/stream/{job.id}")
    assert polled.content.endswith(b'"stream":[{"output":' + raw.encode() + b'},{"output":2}]}')


async def test_a_poll_by_post(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, b"1")
    assert outputs((await target.post(f"/stream/{job.id}")).json()) == [1]


# server-sent events


class Event(NamedTuple):
    kind: str
    id: str
    data: str

    @property
    def output(self) -> Any:
        return json.loads(self.data)["output"]


async def events_of(response: httpx.Response) -> AsyncIterator[Event]:
    """The events as the standard says a browser reads them."""
    kind, id, data = "", "", list[str]()
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(kind or "message", id, "\n".join(data))
            kind, data = "", []
        elif field == "event":
            kind = value
        elif field == "id":
            id = value
        elif field == "data":
            data.append(value)


class Reader:
    def __init__(self, response: httpx.Response) -> None:
        self._events = events_of(response)

    async def next(self, count: int) -> list[Event]:
        """The next events."""
        async with asyncio.timeout(15):
            return [await anext(self._events) for _ in range(count)]

    async def rest(self) -> list[Event]:
        """The events up to the end of the stream."""
        async with asyncio.timeout(15):
            return [event async for event in self._events]


@asynccontextmanager
async def reading(target: Target, job: str, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    """Follows a job's events."""
    path = f"{target.path}/stream/{job}{query}"
    async with target.http.stream("GET", path, headers=EVENTS | headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


async def read_all(target: Target, job: str, query: str = "", **headers: str) -> list[Event]:
    async with reading(target, job, query, **headers) as reader:
        return await reader.rest()


async def test_events_carry_each_chunk_with_its_position(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, *numbers(1, 2))
        assert await reader.next(2) == [Event("message", "1", '{"output":1}'), Event("message", "2", '{"output":2}')]
        worker.emit(job, 3, b'"three"')
        assert await reader.next(1) == [Event("message", "3", '{"output":"three"}')]


async def test_the_closing_event_has_the_job(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, b"1")
        worker.finish(job, b'"all"')
        *chunks, last = await reader.rest()
    assert [event.output for event in chunks] == [1]
    assert last.kind == "done"
    assert json.loads(last.data) == await target.status(job.id)
    assert json.loads(last.data)["output"] == "all"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
async def test_the_closing_event_of_a_job_that_did_not_complete(target: Target, worker: Worker, state: str) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, b"1")
        if state == "FAILED":
            worker.fail(job)
        else:
            await target.post(f"/cancel/{job.id}")
        *chunks, last = await reader.rest()
    assert [event.output for event in chunks] == [1]
    assert json.loads(last.data) == await target.status(job.id)
    assert json.loads(last.data)["status"] == state


async def test_the_events_of_a_job_that_is_over(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    for first in range(1, 1001, 100):
        worker.emit(job, first, *numbers(first, first + 99))
    worker.end(job)
    *chunks, last = await read_all(target, job.id)
    assert [(event.id, event.output) for event in chunks] == [(str(i), i) for i in range(1, 1001)]
    assert last.kind == "done"


@pytest.mark.parametrize("way", ["Last-Event-ID", "from"])
async def test_events_from_a_position_on(target: Target, worker: Worker, way: str) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, *numbers(1, 5))
    headers, query = ({way: "3"}, "") if way == "Last-Event-ID" else ({}, "?from=3")
    async with reading(target, job.id, query, **headers) as reader:
        worker.emit(job, 6, b"6")
        worker.end(job)
        *chunks, last = await reader.rest()
    assert [(event.id, event.output) for event in chunks] == [("4", 4), ("5", 5), ("6", 6)]
    assert last.kind == "done"


async def test_a_reader_that_comes_back_misses_nothing(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    found: list[Event] = []
    for number in range(1, 30, 3):
        last = {"Last-Event-ID": found[-1].id} if found else {}
        async with reading(target, job.id, **last) as reader:
            worker.emit(job, number, *numbers(number, number + 2))
            found += await reader.next(2)  # and hangs up before the third
    assert [event.output for event in found] == list(range(1, 21))


@pytest.mark.parametrize("position", ["100", "9" * 15])
async def test_a_position_beyond_the_end(target: Target, worker: Worker, position: str) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id, f"?from={position}") as reader:
        worker.emit(job, 1, b"1")
        worker.end(job)
        assert [event.kind for event in await reader.rest()] == ["done"]


async def test_many_may_read_one_job(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    readers = [asyncio.create_task(read_all(target, job.id)) for _ in range(30)]
    for first in range(1, 201, 10):
        worker.emit(job, first, *numbers(first, first + 9))
        await asyncio.sleep(0)
    assert await still_waits(readers[0])
    worker.finish(job)
    for reader in readers:
        *chunks, last = await reader
        assert [event.output for event in chunks] == list(range(1, 201))
        assert last.kind == "done"


async def test_events_do_not_move_the_polling_mark(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, *numbers(1, 2))
    async with reading(target, job.id) as reader:
        assert len(await reader.next(2)) == 2
    assert outputs(await target.poll(job.id)) == [1, 2]
    async with reading(target, job.id) as reader:
        assert [event.output for event in await reader.next(2)] == [1, 2]


async def test_a_new_attempt_is_announced_to_whoever_has_read_all_of_the_old_one(
    target: Target, worker: Worker
) -> None:
    old = await begin(target, worker)
    async with reading(target, old.id) as reader:
        worker.emit(old, 1, *numbers(1, 2))
        await reader.next(2)
        worker.lose(old)
        (new,) = worker.take()
        worker.emit(new, 1, b"10")
        worker.finish(new)
        restart, chunk, done = await reader.rest()
    assert (restart.kind, json.loads(restart.data)) == ("restart", {"position": 2})
    assert (chunk.kind, chunk.id, chunk.output) == ("message", "3", 10)
    assert done.kind == "done"


async def test_a_new_attempt_is_announced_to_whoever_comes_back(target: Target, worker: Worker) -> None:
    old = await begin(target, worker)
    worker.emit(old, 1, *numbers(1, 3))
    worker.lose(old)
    (new,) = worker.take()
    worker.emit(new, 1, b"10")
    worker.end(new)
    for position in ("1", "3"):
        events = await read_all(target, new.id, f"?from={position}")
        assert [event.kind for event in events] == ["restart", "message", "done"], position
        assert (events[1].id, events[1].output) == ("4", 10)


async def test_no_restart_for_whoever_has_seen_nothing_of_the_old_attempt(target: Target, worker: Worker) -> None:
    old = await begin(target, worker)
    worker.emit(old, 1, b"1")
    worker.lose(old)
    (new,) = worker.take()
    worker.emit(new, 1, b"10")
    worker.end(new)
    assert [event.kind for event in await read_all(target, new.id)] == ["message", "done"]


async def test_no_restart_without_a_new_attempt(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, *numbers(1, 2))
    worker.end(job)
    assert [event.kind for event in await read_all(target, job.id, "?from=2")] == ["done"]


@pytest.mark.parametrize("raw", [*RAW, '{\n "a": 1,\r\n\r\n "b": [\r2]\n}'], ids=lambda raw: raw[:12])
async def test_events_carry_chunks_that_mean_the_same(target: Target, worker: Worker, raw: str) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, raw.encode())
        worker.finish(job, raw.encode())
        chunk, done = await reader.rest()
    assert chunk.output == json.loads(raw)
    assert json.loads(done.data)["output"] == json.loads(raw)
    if "\n" not in raw:
        assert chunk.data == f'{{"output":{raw}}}'


async def test_events_carry_a_chunk_that_no_wake_up_can(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    big = json.dumps("x" * 200_000).encode()
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, b"1", big, b"3")
        assert [event.data.encode() for event in await reader.next(3)] == [
            b'{"output":%b}' % chunk for chunk in (b"1", big, b"3")
        ]


async def test_the_events_of_a_queued_job(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    async with reading(target, id) as reader:
        (job,) = worker.take()
        worker.emit(job, 1, b"1")
        assert [event.output for event in await reader.next(1)] == [1]


async def test_the_events_of_a_retried_job_go_on(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, b"1")
    worker.fail(job)
    await target.post(f"/retry/{job.id}")
    async with reading(target, job.id, "?from=1") as reader:
        (again,) = worker.take()
        worker.emit(again, 1, b"10")
        worker.end(again)
        restart, chunk, done = await reader.rest()
    assert (restart.kind, chunk.id, chunk.output, done.kind) == ("restart", "2", 10, "done")


async def test_the_stream_ends_when_the_job_is_gone(target: Target, worker: Worker, admin: "redis.Redis") -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, b"1")
        await reader.next(1)
        admin.zadd(f"{target.base}:lifetimes", {job.id: 1})
        (event,) = await reader.rest()
    assert (event.kind, json.loads(event.data).keys()) == ("error", {"error"})


async def test_a_job_goes_on_when_its_reader_hangs_up(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    async with reading(target, job.id) as reader:
        worker.emit(job, 1, b"1")
        await reader.next(1)
    worker.emit(job, 2, b"2")
    worker.finish(job)
    assert (await target.status(job.id))["status"] == "COMPLETED"
    assert outputs(await target.poll(job.id)) == [1, 2]


@pytest.mark.parametrize("position", ["-1", "x", "1.5", "9" * 20, "²"])
async def test_a_position_that_cannot_be(target: Target, position: str) -> None:
    id = await target.run(1)
    for query, headers in ((f"?from={position}", {}), ("", {"Last-Event-ID": position.encode()})):
        response = await target.get(f"/stream/{id}{query}", headers=EVENTS | headers)
        assert response.status_code == 400
        assert response.json().keys() == {"error"}


async def test_the_events_of_a_job_that_is_not_there(make_target: Make) -> None:
    target, other = await make_target(), await make_target()
    response = await target.get(f"/stream/{await other.run(1)}", headers=EVENTS)
    assert (response.status_code, response.json().keys()) == (404, {"error"})


async def test_comments_keep_an_idle_connection_open(target: Target) -> None:
    assert 0 < event_stream.SECONDS_BETWEEN_COMMENTS <= 30  # proxies close what is silent for a minute


async def test_events_by_post(target: Target, worker: Worker) -> None:
    job = await begin(target, worker)
    worker.emit(job, 1, b"1")
    worker.end(job)

    async def look() -> bool:
        response = await target.post(f"/stream/{job.id}", headers=EVENTS)
        return [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 1"]

    assert await eventually(look)
