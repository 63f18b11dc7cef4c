"""What RunPod's SDK says more than once, too late, or while it ends: its requests by hand, as rp_http.py sends them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from ..clients import Target
from ..waiting import eventually, still_waits

FORM = "application/x-www-form-urlencoded"


class Hand:
    """A worker of RunPod's whose every request the test decides."""

    def __init__(self, target: Target, id: str) -> None:
        self.id = id
        self._target = target
        self._key = {"Authorization": target.worker_key}

    async def take(self, **query: Any) -> str | None:
        """The id of a job, if one comes."""
        response = await self.get("job-take", gpu="x", **{"job_in_progress": 1, **query})
        assert response.status_code in (200, 204), response.text
        return response.json()["id"] if response.content else None

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self._target.get(f"/{path}/{self.id}", params=query, headers=self._key)

    async def done(self, job: str, **body: Any) -> str:
        """What the gateway says to the end of a job: "OK", or the state that it was found in."""
        return await self._post(f"job-done/{self.id}/{job}", body)

    async def chunk(self, job: str, output: Any) -> str:
        return await self._post(f"job-stream/{self.id}/{job}", {"output": output})

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        headers = {"Content-Type": FORM, "X-Request-ID": path.rpartition("/")[2], **self._key}
        content = json.dumps(body, ensure_ascii=False).encode()
        response = await self._target.post(
            f"/{path}", content, params={"gpu": "x", "isStream": "false"}, headers=headers
        )
        assert response.status_code == 200, response.text
        found: dict[str, str] = response.json()
        return found.get("state", found["status"])

    def send_chunk(self, job: str, output: Any) -> socket.socket:
        """Sends a chunk, and leaves the answer to whoever reads it."""
        url = urlsplit(str(self._target.http.base_url))
        body = json.dumps({"output": output}).encode()
        lines = (
            f"POST {self._target.path}/job-stream/{self.id}/{job}?gpu=x&isStream=false HTTP/1.1",
            f"Host: {url.netloc}",
            f"Authorization: {self._key['Authorization']}",
            f"Content-Type: {FORM}",
            f"Content-Length: {len(body)}",
        )
        head = "".join(f"{line}\r\n" for line in (*lines, ""))
        connection = socket.create_connection((url.hostname, url.port))
        connection.sendall(head.encode() + body)
        return connection


@pytest.fixture
def first(target: Target) -> Hand:
    return Hand(target, "w1")


@pytest.fixture
def second(target: Target) -> Hand:
    return Hand(target, "w2")


@pytest.fixture
async def job(target: Target, first: Hand) -> str:
    """A job that `first` runs."""
    id = await target.run("input")
    assert await first.take(wait=5_000) == id
    return id


Later = list[tuple[str, Callable[[Hand, str], Awaitable[str]]]]
LATER: Later = [
    ("the same", lambda worker, job: worker.done(job, output=1)),
    ("another result", lambda worker, job: worker.done(job, output=2)),
    ("an error", lambda worker, job: worker.done(job, error="it broke")),
    ("progress", lambda worker, job: worker.done(job, status="IN_PROGRESS", output="half")),
    ("a chunk", lambda worker, job: worker.chunk(job, "chunk")),
]


@pytest.mark.parametrize("later", [call for _, call in LATER], ids=[name for name, _ in LATER])
async def test_after_the_result(target: Target, first: Hand, job: str, later: Callable[[Hand, str], Any]) -> None:
    assert await first.done(job, output=1) == "OK"
    found = await target.status(job)
    assert (found["status"], found["output"]) == ("COMPLETED", 1)
    await later(first, job)
    await later(first, job)
    assert await target.status(job) == found
    assert (await target.poll(job))["stream"] == []
    assert (await target.health())["jobs"]["completed"] == 1


@pytest.mark.parametrize("later", [call for _, call in LATER], ids=[name for name, _ in LATER])
async def test_after_the_cancel(target: Target, first: Hand, job: str, later: Callable[[Hand, str], Any]) -> None:
    await target.post(f"/cancel/{job}")
    found = await target.status(job)
    assert await later(first, job) == "CANCELLED"
    assert await target.status(job) == found
    assert found["status"] == "CANCELLED"
    assert (await target.poll(job))["stream"] == []


@pytest.mark.parametrize("later", [call for _, call in LATER], ids=[name for name, _ in LATER])
async def test_of_a_worker_that_does_not_have_the_job(
    target: Target, first: Hand, second: Hand, job: str, later: Callable[[Hand, str], Any]
) -> None:
    assert await later(second, job) == "IN_PROGRESS"
    found = await target.status(job)
    assert (found["status"], found["workerId"]) == ("IN_PROGRESS", "w1")
    assert "output" not in found
    assert await first.done(job, output="mine") == "OK"
    assert (await target.status(job))["output"] == "mine"
    assert (await target.poll(job))["stream"] == []


@pytest.mark.parametrize("later", [call for _, call in LATER], ids=[name for name, _ in LATER])
async def test_of_a_worker_that_has_lost_the_job(
    target: Target, first: Hand, second: Hand, job: str, later: Callable[[Hand, str], Any]
) -> None:
    """It asked as one that has none: it was started again, and what it says now is of before."""
    taken = asyncio.ensure_future(second.take())
    assert await still_waits(taken)
    assert await first.take(job_in_progress=0, wait=0) is None
    assert await taken == job
    assert await later(first, job) == "IN_PROGRESS"
    assert await second.done(job, output="second") == "OK"
    assert await later(first, job) == "COMPLETED"
    found = await target.status(job)
    assert (found["status"], found["output"], found["workerId"]) == ("COMPLETED", "second", "w2")
    assert (await target.health())["jobs"]["retried"] == 1
    assert (await target.poll(job))["stream"] == []


@pytest.mark.parametrize("later", [call for _, call in LATER], ids=[name for name, _ in LATER])
async def test_of_a_job_that_is_not_there(first: Hand, later: Callable[[Hand, str], Any]) -> None:
    assert await later(first, "missing") == "GONE"


async def test_chunks_that_are_the_same_are_two(target: Target, first: Hand, job: str) -> None:
    for _ in range(2):
        assert await first.chunk(job, "same") == "OK"
    assert (await target.poll(job))["stream"] == [{"output": "same"}] * 2


def close(connection: socket.socket) -> None:
    connection.close()


def close_when_it_is_answered(connection: socket.socket) -> None:
    """Without having read it."""
    assert connection.recv(1, socket.MSG_PEEK)
    connection.close()


@pytest.mark.parametrize("hang_up", [close, close_when_it_is_answered])
async def test_a_chunk_whose_answer_was_not_read(
    target: Target, first: Hand, job: str, admin: "redis.Redis", hang_up: Callable[[socket.socket], None]
) -> None:
    """The SDK sends it again, a second later: by then the gateway has noted that it will."""
    assert await first.chunk(job, 1) == "OK"
    hang_up(first.send_chunk(job, 2))

    async def is_noted() -> bool:
        return bool(admin.hexists(f"{target.base}:job:{job}", "unheard"))

    await eventually(is_noted)
    for chunk in (2, 2, 3):
        assert await first.chunk(job, chunk) == "OK"
    assert [item["output"] for item in (await target.poll(job))["stream"]] == [1, 2, 2, 3]


async def test_an_answer_that_was_read_is_not_repeated(target: Target, first: Hand, job: str) -> None:
    with first.send_chunk(job, 1) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert await first.chunk(job, 1) == "OK"
    assert [item["output"] for item in (await target.poll(job))["stream"]] == [1, 1]


@pytest.fixture
async def polls(first: Hand, job: str) -> AsyncIterator[list["asyncio.Task[httpx.Response]"]]:
    """What a worker with a job asks meanwhile, held by the gateway."""
    held = [asyncio.create_task(first.get(path, job_in_progress=1)) for path in ("job-take", "job-stop")]
    for poll in held:
        assert await still_waits(poll)
    yield held
    for poll in held:
        poll.cancel()


async def test_a_worker_that_is_about_to_end_gets_no_job(
    target: Target, first: Hand, second: Hand, job: str, polls: list["asyncio.Task[httpx.Response]"]
) -> None:
    assert await first.done(job, output=1, stopPod=True) == "OK"
    assert [answer.status_code for answer in await asyncio.gather(*polls)] == [204, 204]
    next_job = await target.run("next")
    assert await first.take(wait=0) is None
    assert await second.take(wait=5_000) == next_job


async def test_polls_that_come_just_after_it_said_so_end_soon(target: Target, first: Hand, job: str) -> None:
    """Else its process, which waits for their answers, would live on and be given a job that it never runs."""
    assert await first.done(job, output=1, stopPod=True) == "OK"
    next_job = await target.run("next")
    answers = await asyncio.gather(*(first.get(path, job_in_progress=1) for path in ("job-take", "job-stop")))
    assert [answer.status_code for answer in answers] == [204, 204]
    assert (await target.status(next_job))["status"] == "IN_QUEUE"
    assert await first.take() == next_job  # it did not end, after all


async def test_what_is_to_be_stopped_is_told_once(target: Target, first: Hand, job: str) -> None:
    poll = asyncio.ensure_future(first.get("job-stop"))
    assert await still_waits(poll)
    await target.post(f"/cancel/{job}")
    answer = await poll
    assert answer.json()["jobsToStop"] == [job]
    assert (await first.get("job-stop", wait=0)).status_code == 204


async def test_a_ping_that_names_jobs_which_are_others(target: Target, first: Hand, second: Hand, job: str) -> None:
    assert (await second.get("ping", job_id=f"{job},missing", runpod_version="1.12.0")).status_code == 200
    assert sorted((await second.get("job-stop", wait=0)).json()["jobsToStop"]) == sorted([job, "missing"])
    assert (await first.get("ping", job_id=job, runpod_version="1.12.0")).status_code == 200
    assert (await first.get("job-stop", wait=0)).status_code == 204
    assert (await target.status(job))["status"] == "IN_PROGRESS"
