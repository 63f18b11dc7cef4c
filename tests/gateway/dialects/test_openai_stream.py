"""Streams of the OpenAI routes with a scripted worker."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis

from gateway.dialects import openai_stream

from ...stores import Server
from ..clients import API_KEY, Taken, Target, Worker
from ..conftest import client_of
from ..processes import Gateway
from ..test_http import connected, head
from .test_openai import CHAT, error_of, is_cancelled

BODY = {"model": "m", "messages": [], "stream": True}
EVENT = 'data: {"choices":[{"delta":{"content":"zażółć 🦊"}}]}\n\n'
DONE = "data: [DONE]\n\n"


def strings(*texts: str) -> list[bytes]:
    """The texts as chunks."""
    return [json.dumps(text, ensure_ascii=False).encode() for text in texts]


class Reader:
    """A response as its bytes come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._parts = response.aiter_raw()
        self._read = b""

    async def read(self, text: bytes | str) -> None:
        """Reads on until exactly this has come."""
        expected = text.encode() if isinstance(text, str) else text
        async with asyncio.timeout(15):
            while len(self._read) < len(expected):
                self._read += await anext(self._parts)
        assert self._read == expected
        self._read = b""

    async def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long. The reader is of no use then."""
        try:
            async with asyncio.timeout(seconds):
                await anext(self._parts)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        """All that is left."""
        async with asyncio.timeout(15):
            return self._read + b"".join([part async for part in self._parts])


class Asked:
    """A request for a stream, and its job, which the worker has begun."""

    def __init__(self, target: Target, job: Taken, asking: "asyncio.Task[httpx.Response]") -> None:
        self.target = target
        self.job = job
        self._asking = asking
        self._response: httpx.Response | None = None

    async def response(self) -> httpx.Response:
        """Its status and headers, once they are there."""
        async with asyncio.timeout(15):
            self._response = await self._asking
        return self._response

    async def reader(self) -> Reader:
        """Its stream, once it has begun."""
        response = await self.response()
        assert response.status_code == 200
        return Reader(response)

    async def all(self) -> bytes:
        return await (await self.reader()).rest()

    async def refused(self) -> httpx.Response:
        """An answer that is no stream."""
        response = await self.response()
        await response.aread()
        return response

    async def hang_up(self) -> None:
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        if self._response is not None:
            await self._response.aclose()


@asynccontextmanager
async def asking(target: Target, worker: Worker, http: httpx.AsyncClient | None = None) -> AsyncIterator[Asked]:
    """Asks for a stream, of the shared gateway or of that of `http`, and lets the worker begin."""
    http = http or target.http
    request = http.build_request("POST", f"{target.path}{CHAT}", json=BODY)
    task = asyncio.create_task(http.send(request, stream=True))
    asked = Asked(target, await worker.next(), task)
    try:
        yield asked
    finally:
        await asked.hang_up()


# what is relayed


async def test_the_first_byte_is_not_held_back(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        reader = await asked.reader()
        await reader.read(EVENT)  # before the worker goes on
        worker.emit(asked.job, 2, *strings("data: "))
        await reader.read("data: ")
        worker.emit(asked.job, 3, *strings("[DONE]\n\n"))
        worker.end(asked.job)
        assert await reader.rest() == b"[DONE]\n\n"


async def test_the_headers_of_a_stream(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        headers = (await asked.response()).headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
        assert headers["x-request-id"] == asked.job.id


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_pieces_cut_anywhere_come_byte_for_byte(target: Target, worker: Worker, size: int) -> None:
    text = "".join(f'event: e\r\nid: {n}\ndata: {{"n":{n},"s":"zażółć\\u00e9 🦊\\n"}}\n\n' for n in range(20)) + DONE
    async with asking(target, worker) as asked:
        for number, at in enumerate(range(0, len(text), size), 1):
            worker.emit(asked.job, number, *strings(text[at : at + size]))
        worker.end(asked.job)
        assert await asked.all() == text.encode()


async def test_pieces_that_no_wake_up_can_carry(target: Target, worker: Worker) -> None:
    texts = [f"data: {letter * size}\n\n" for letter, size in (("a", 10), ("b", 200_000), ("c", 10), ("d", 900_000))]
    async with asking(target, worker) as asked:
        for number, text in enumerate(texts, 1):
            worker.emit(asked.job, number, *strings(text))
        worker.end(asked.job)
        assert await asked.all() == "".join(texts).encode()


async def test_what_was_escaped_is_not_any_more(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, b'"data: \\u017c\\ud83e\\udd8a \\"\\\\\\n\\n"', b'"half: \\ud83e\\n\\n"')
        worker.end(asked.job)
        assert await asked.all() == 'data: ż🦊 "\\\n\nhalf: ?\n\n'.encode()


async def test_objects_become_events(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, b'{"a": 1.10}')
        reader = await asked.reader()
        await reader.read('data: {"a": 1.10}\n\n')
        worker.emit(asked.job, 2, b'{\r\n"b":\n[2]}')
        await reader.read('data: {  "b": [2]}\n\n')
        worker.end(asked.job)
        assert await reader.rest() == DONE.encode()


async def test_objects_with_an_end_of_their_own(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, b'{"a":1}', *strings(DONE))
        worker.end(asked.job)
        assert await asked.all() == f'data: {{"a":1}}\n\n{DONE}'.encode()


@pytest.mark.parametrize(
    ("output", "expected"),
    [(b'{"a":\n1}', f'data: {{"a": 1}}\n\n{DONE}'), (b'"data: x\\n\\n"', "data: x\n\n"), (None, DONE)],
)
async def test_a_worker_that_does_not_stream(
    target: Target, worker: Worker, output: bytes | None, expected: str
) -> None:
    async with asking(target, worker) as asked:
        if output is None:
            worker.end(asked.job)
        else:
            worker.finish(asked.job, output)
        assert await asked.all() == expected.encode()


async def test_the_list_of_all_chunks_does_not_come_again(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT, DONE))
        worker.finish(asked.job, b"[%b]" % b",".join(strings(EVENT, DONE)))
        assert await asked.all() == (EVENT + DONE).encode()


async def test_many_streams_at_once(target: Target, worker: Worker) -> None:
    async def read(http: httpx.AsyncClient, number: int) -> bytes:
        response = await http.post(f"{target.path}{CHAT}", json=BODY | {"n": number})
        return response.content

    reading = [asyncio.create_task(read(target.http, number)) for number in range(40)]
    jobs = [await worker.next() for _ in reading]
    for piece in range(1, 11):
        for job in jobs:
            worker.emit(job, piece, *strings(f"data: {job.id} {piece}\n\n"))
        await asyncio.sleep(0)
    for job in jobs:
        worker.end(job)
    found = {await each for each in reading}
    assert found == {"".join(f"data: {job.id} {piece}\n\n" for piece in range(1, 11)).encode() for job in jobs}


# errors


async def test_a_job_that_fails_before_the_first_piece(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.fail(asked.job, '{"message": "no such model", "type": "not_found_error", "code": "model_not_found"}')
        response = await asked.refused()
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
        assert response.headers["content-type"] == "application/json"


async def test_an_error_behind_the_first_piece_is_an_event(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        reader = await asked.reader()
        await reader.read(EVENT)
        worker.fail(asked.job, "out of memory")
        error = json.loads((await reader.rest()).removeprefix(b"data: "))["error"]
        assert (error["message"], error["type"]) == ("out of memory", "server_error")


async def test_an_error_in_the_middle_of_an_event_breaks_the_stream_off(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings('data: {"a'))
        reader = await asked.reader()
        await reader.read('data: {"a')
        worker.fail(asked.job)
        with pytest.raises(httpx.TransportError):  # more text would seem to be a part of the event
            await reader.rest()


async def test_a_client_that_hangs_up_behind_the_end_of_the_text_cancels_nothing(
    target: Target, worker: Worker
) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT, "data: [DO", "NE]\n\n"))
        assert await asked.all() == (EVENT + DONE).encode()  # though the job goes on
        assert (await target.status(asked.job.id))["status"] == "IN_PROGRESS"
        worker.end(asked.job)
        assert (await target.status(asked.job.id))["status"] == "COMPLETED"


async def test_an_error_object_among_the_pieces_is_an_event(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT), b'{"error":{"message":"m"}}')
        worker.end(asked.job)
        assert await asked.all() == (EVENT + 'data: {"error":{"message":"m"}}\n\n' + DONE).encode()


async def test_a_chunk_that_is_not_json(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, b'"broken')
        assert error_of(await asked.refused())["type"] == "server_error"
    assert await is_cancelled(target, asked.job.id)


async def test_a_piece_that_is_no_longer_kept_is_not_left_out(
    target: Target, worker: Worker, admin: "redis.Redis"
) -> None:
    admin.hset(f"{target.base}:settings", "stream_bytes", 2_000_000)
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(*(letter * 900_000 for letter in "abcdef")))
        assert "no longer kept" in error_of(await asked.refused())["message"]


# a worker that is lost


async def test_a_new_attempt_before_any_piece_goes_on(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.lose(asked.job)
        new = await worker.next()
        worker.emit(new, 1, *strings(EVENT))
        worker.end(new)
        assert await asked.all() == EVENT.encode()


async def test_a_new_attempt_when_nothing_but_empty_pieces_came(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, b'""', b'""')
        worker.lose(asked.job)
        new = await worker.next()
        worker.emit(new, 1, *strings(EVENT))
        worker.end(new)
        assert await asked.all() == EVENT.encode()


async def test_a_new_attempt_behind_the_first_piece_ends_the_stream(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        reader = await asked.reader()
        await reader.read(EVENT)
        worker.lose(asked.job)
        new = await worker.next()
        error = json.loads((await reader.rest()).removeprefix(b"data: "))["error"]
        assert (error["type"], "worker was lost" in error["message"]) == ("server_error", True)
        assert await is_cancelled(target, new.id)
        assert worker.stopped(new) == [(new.id, 2, "CANCELLED")]


# silence


@pytest.fixture(scope="module")
def lively(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway over the same store that sends comments every tenth of a second."""
    gateway = Gateway(tmp_path_factory.mktemp("lively"), backing.url, api_keys=API_KEY, openai_keep_alive_seconds="0.1")
    yield gateway
    gateway.stop()


@pytest.fixture
async def lively_http(lively: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(lively) as http:
        yield http


COMMENT = openai_stream.COMMENT


async def test_comments_until_the_first_piece(target: Target, worker: Worker, lively_http: httpx.AsyncClient) -> None:
    async with asking(target, worker, lively_http) as asked:
        reader = await asked.reader()  # though nothing has come
        await reader.read(COMMENT)
        await reader.read(COMMENT)
        worker.emit(asked.job, 1, *strings(EVENT))
        worker.end(asked.job)
        rest = await reader.rest()
        assert rest.removeprefix(COMMENT) == EVENT.encode()


async def test_comments_while_the_job_is_queued(target: Target, worker: Worker, lively_http: httpx.AsyncClient) -> None:
    request = lively_http.build_request("POST", f"{target.path}{CHAT}", json=BODY)
    reader = Reader(await lively_http.send(request, stream=True))
    await reader.read(COMMENT)
    job = await worker.next()
    worker.emit(job, 1, *strings(EVENT))
    worker.end(job)
    assert (await reader.rest()).replace(COMMENT, b"") == EVENT.encode()


async def test_comments_between_events_and_never_in_one(
    target: Target, worker: Worker, lively_http: httpx.AsyncClient
) -> None:
    async with asking(target, worker, lively_http) as asked:
        worker.emit(asked.job, 1, *strings('data: {"a'))
        reader = await asked.reader()
        await reader.read('data: {"a')
        assert await reader.is_silent(0.5)
    async with asking(target, worker, lively_http) as asked:
        worker.emit(asked.job, 1, *strings('data: {"a":1}\n', "\n"))
        reader = await asked.reader()
        await reader.read('data: {"a":1}\n\n')
        await reader.read(COMMENT)


async def test_an_error_behind_a_comment_is_an_event(
    target: Target, worker: Worker, lively_http: httpx.AsyncClient
) -> None:
    async with asking(target, worker, lively_http) as asked:
        reader = await asked.reader()
        await reader.read(COMMENT)
        worker.fail(asked.job, '{"message": "too late", "type": "rate_limit_error"}')
        text = (await reader.rest()).decode().replace(COMMENT.decode(), "")
        assert json.loads(text.removeprefix("data: "))["error"]["type"] == "rate_limit_error"
        assert text.endswith("}\n\n")


async def test_a_job_that_is_gone(
    target: Target, worker: Worker, lively_http: httpx.AsyncClient, admin: "redis.Redis"
) -> None:
    async with asking(target, worker, lively_http) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        reader = await asked.reader()
        await reader.read(EVENT)
        admin.zadd(f"{target.base}:lifetimes", {asked.job.id: 1})
        text = (await reader.rest()).replace(COMMENT, b"")
        assert asked.job.id in json.loads(text.removeprefix(b"data: "))["error"]["message"]


async def test_a_new_attempt_behind_a_comment_goes_on(
    target: Target, worker: Worker, lively_http: httpx.AsyncClient
) -> None:
    async with asking(target, worker, lively_http) as asked:
        reader = await asked.reader()
        await reader.read(COMMENT)
        worker.lose(asked.job)
        new = await worker.next()
        worker.emit(new, 1, *strings(EVENT))
        worker.end(new)
        assert (await reader.rest()).replace(COMMENT, b"") == EVENT.encode()


# the client, or the gateway, goes


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_hangs_up_cancels_its_job(target: Target, worker: Worker, begun: bool) -> None:
    async with asking(target, worker) as asked:
        if begun:
            worker.emit(asked.job, 1, *strings(EVENT))
            await (await asked.reader()).read(EVENT)
        hung_up = time.monotonic()
        await asked.hang_up()
        async with asyncio.timeout(1):
            assert await is_cancelled(target, asked.job.id)
        assert time.monotonic() - hung_up < 1
        assert worker.stopped(asked.job) == [(asked.job.id, 1, "CANCELLED")]


async def test_a_client_that_hangs_up_behind_the_end_cancels_nothing(target: Target, worker: Worker) -> None:
    async with asking(target, worker) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        worker.end(asked.job)
        assert await asked.all() == EVENT.encode()
    assert (await target.status(asked.job.id))["status"] == "COMPLETED"


async def test_a_gateway_that_ends_says_so_in_its_streams(
    backing: Server, target: Target, worker: Worker, tmp_path: Any
) -> None:
    ending = Gateway(tmp_path / "ending", backing.url, api_keys=API_KEY)
    async with client_of(ending) as http, asking(target, worker, http) as asked:
        worker.emit(asked.job, 1, *strings(EVENT))
        reader = await asked.reader()
        await reader.read(EVENT)
        ending.stop()
        error = json.loads((await reader.rest()).removeprefix(b"data: "))["error"]
    assert error["type"] == "server_error"
    assert await is_cancelled(target, asked.job.id)


async def test_a_reader_that_reads_late_gets_all(gateway: Gateway, target: Target, worker: Worker) -> None:
    """More than its gateway and the connection keep for it: the rest is read from the store."""
    body = json.dumps(BODY).encode()
    with connected(gateway) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(head(target, CHAT, f"Content-Length: {len(body)}") + body)
        job = await worker.next()
        for number in range(1, 401):
            worker.emit(job, number, *strings(f"data: {number} {'x' * 30_000}\n\n"))
        worker.end(job)
        received = await asyncio.to_thread(read_all, connection)
    positions = [received.index(b"data: %d x" % number) for number in range(1, 401)]
    assert positions == sorted(positions)
    assert received.count(b"x" * 100) >= 400 * 290  # but for where the parts of the response meet


def read_all(connection: socket.socket) -> bytes:
    """A chunked response up to its end, with all that marks its parts."""
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += connection.recv(1_000_000)
    return received
