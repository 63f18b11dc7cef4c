"""Headers that every answer has, and the ids of requests."""

import asyncio
import re
from typing import Any

import httpx
import pytest
import redis

from gateway.exchange import Defaults, Exchange
from gateway.http import Reply, send_reply

from .clients import Target, Worker
from .processes import Gateway
from .sockets import Response, asked, connected, message, responses, until_closed
from .waiting import eventually_true

SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def sent(gateway: Gateway, request: bytes) -> Response:
    with connected(gateway) as connection:
        connection.sendall(request)
        (response,) = responses(until_closed(connection))
    return response


def check(response: Response, cache: str = "no-store") -> None:
    """It has each of these headers, once."""
    assert {name: response.headers.get(name) for name in SECURITY} == SECURITY
    assert response.headers["cache-control"] == cache
    once = {*SECURITY, "cache-control", "x-request-id", "date", "content-length", "content-type", "connection"}
    assert {name for name in once if response.names.count(name) > 1} == set()
    assert "strict-transport-security" not in response.names
    assert "server" not in response.names


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (asked("GET", "/v1/endpoints", CLOSE), 200),
        (asked("GET", "/nothing", CLOSE), 404),
        (asked("DELETE", "/v2/x/run", CLOSE), 405),
        (message("POST /v2/x/run HTTP/1.1", "Host: x", CLOSE), 401),
        (asked("POST", "/v2/x/run", CLOSE, "Content-Length: 999999999"), 413),
        (asked("GET", f"/{'x' * 17_000}", CLOSE), 414),
        (asked("GET", "/", CLOSE, *["a: b"] * 200), 431),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=str,
)
def test_every_answer_has_them(gateway: Gateway, request_bytes: bytes, status: int) -> None:
    response = sent(gateway, request_bytes)
    assert response.status == status
    check(response)
    assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])
    if status >= 400:
        assert response.error


def test_one_that_did_not_come_in_time_has_them(small_gateway: Gateway) -> None:
    response = sent(small_gateway, b"GET")
    assert response.status == 408
    check(response)


async def test_an_event_stream_has_its_own(gateway: Gateway, target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    worker.end(job)
    path = f"{target.path}/stream/{id}"
    with connected(gateway) as connection:
        connection.sendall(asked("GET", path, "Accept: text/event-stream", "X-Request-ID: mine", CLOSE))
        head = until_closed(connection).partition(b"\r\n\r\n")[0]
    (response,) = responses(head + b"\r\n\r\n")
    assert response.headers["x-request-id"] == "mine"
    check(response, cache=response.headers["cache-control"])
    assert response.headers["cache-control"].startswith("no-")


async def test_an_id_of_the_app_s_own_stays(gateway: Gateway, target: Target, worker: Worker) -> None:
    body = b'{"model":"m"}'
    path = f"{target.path}/openai/v1/chat/completions"
    with connected(gateway) as connection:
        connection.sendall(asked("POST", path, "X-Request-ID: mine", CLOSE, f"Content-Length: {len(body)}", body=body))
        job = await worker.next()
        worker.finish(job, b'{"id":"x"}')
        (response,) = responses(await asyncio.to_thread(until_closed, connection))
    assert response.headers["x-request-id"] == job.id  # which the README promises
    check(response)


@pytest.mark.parametrize("id", ["a", "A-Za-z0-9._:-", "x" * 128, "sync-0000.1:2"])
async def test_a_request_keeps_its_id(http: httpx.AsyncClient, id: str) -> None:
    assert (await http.get("/nothing", headers={"X-Request-ID": id})).headers["x-request-id"] == id


@pytest.mark.parametrize("id", ["", "x" * 129, "a b", "a\tb", "é", "a;b", "<script>"])
async def test_what_is_no_id_is_replaced(http: httpx.AsyncClient, id: str) -> None:
    found = (await http.get("/nothing", headers={"X-Request-ID": id.encode()})).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", found)


async def test_each_request_has_another_id(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.get("/nothing") for _ in range(50)))
    assert len({answer.headers["x-request-id"] for answer in answers}) == 50


async def test_the_log_names_the_request(gateway: Gateway, target: Target, admin: "redis.Redis") -> None:
    """As its client wrote it: what a path means could begin another line."""
    admin.set(f"{target.base}:job:a", "not what a job is", ex=60)
    response = await target.get("/status/%61", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 503
    (line,) = eventually_true(lambda: [line for line in gateway.log.splitlines() if "find-me" in line])
    assert line.endswith(f"the store refused GET {target.path}/status/%61 (request find-me)")


def test_a_head_is_answered_without_a_body(gateway: Gateway) -> None:
    with connected(gateway) as connection:
        connection.sendall(asked("HEAD", "/v1/endpoints") + asked("HEAD", "/nothing", CLOSE))
        heads = until_closed(connection).split(b"\r\n\r\n")
    assert [head.split(b" ")[1] for head in heads if head] == [b"405", b"404"]


class Line:
    """A connection whose client reads all, unless it is full."""

    def __init__(self, is_full: bool = False) -> None:
        self.written = b""
        self.completed = 0
        self.transport: Any = self
        self.flow: Any = self
        self.tasks: set[asyncio.Task[None]] = set()
        self.write_paused = is_full

    def write(self, data: bytes) -> None:
        self.written += data

    def resume_reading(self) -> None:
        pass

    def on_response_complete(self) -> None:
        self.completed += 1


def exchange_on(line: Line, method: str = "GET", keep_alive: bool = True) -> Exchange:
    return Exchange({"type": "http", "method": method}, line, Defaults([(b"a", b"b")]), b"id", keep_alive)


async def through(*between: object, exchange: Exchange) -> None:
    """Sends an answer as the app does when nothing, or something, is between it and the server."""

    async def send(message: Any) -> None:
        await exchange.send(message)

    await send_reply(send if between else exchange.send, Reply(b"{}", 201))


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_an_answer_in_one_piece_is_the_same(keep_alive: bool) -> None:
    direct, usual = Line(), Line()
    await through(exchange=exchange_on(direct, keep_alive=keep_alive))
    await through("something", exchange=exchange_on(usual, keep_alive=keep_alive))
    assert direct.written == usual.written
    assert direct.written.startswith(b"HTTP/1.1 201 ")
    assert (b"connection: close" in direct.written) is not keep_alive
    assert direct.completed == usual.completed == 1


@pytest.mark.parametrize(
    ("reply", "method", "is_full"),
    [
        (Reply(b""), "HEAD", False),
        (Reply(b"", 204), "GET", False),
        (Reply(b"{}", headers={"Retry-After": "1"}), "GET", False),
        (Reply((b"{", b"}")), "GET", False),
        (Reply(b"x" * 70_000), "GET", False),
        (Reply(b"{}"), "GET", True),
    ],
)
def test_what_takes_more_is_not_answered_so(reply: Reply, method: str, is_full: bool) -> None:
    line = Line(is_full)
    assert not exchange_on(line, method).reply(reply)
    assert line.written == b""


async def test_a_body_that_is_there_is_taken_once() -> None:
    exchange = exchange_on(Line(), "POST")
    exchange.feed(b"ab")
    assert exchange.take_body() is None  # not all of it
    exchange.end_body()
    assert exchange.take_body() == b"ab"
    ended = asyncio.create_task(exchange.receive())
    await asyncio.sleep(0)
    assert not ended.done()
    exchange.cut_off()
    assert await ended == {"type": "http.disconnect"}
