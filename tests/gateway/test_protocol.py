"""HTTP/1.1 over bare sockets: what is refused and how, what has an end in time, and what goes on."""

import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest

from .clients import API_KEY, Target, Worker
from .conftest import SMALL_HEADER_LIMIT
from .processes import Gateway
from .sockets import HEAD, Response, answer_on, asked, connected, message, responses, until_closed
from .waiting import eventually_true

JOB = b'{"input":1}'
SECOND = asked("GET", "/v1/endpoints")
"""A request that would be answered with 200 if it were taken for one."""


def only_answer(gateway: Gateway, *parts: bytes) -> Response:
    """The one response to what is sent, behind which the connection is closed."""
    with connected(gateway) as connection:
        for part in parts:
            connection.sendall(part)
        (response,) = responses(until_closed(connection))
    assert response.headers["connection"] == "close"
    return response


# what could be read in two ways


def post(*headers: str, body: bytes = b"", line: str = "POST /v2/x/run HTTP/1.1") -> bytes:
    return message(line, *HEAD.splitlines(), *headers, body=body)


CHUNKED = "Transfer-Encoding: chunked"
TWO_WAYS = {
    "the same length twice": post("Content-Length: 11", "Content-Length: 11", body=JOB),
    "two lengths": post("Content-Length: 11", "Content-Length: 0", body=JOB),
    "a list of lengths": post("Content-Length: 11, 11", body=JOB),
    "a length and chunks": post("Content-Length: 4", CHUNKED, body=b"0\r\n\r\n"),
    "chunks and a length": post(CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n"),
    "a length with a sign": post("Content-Length: +11", body=JOB),
    "a negative length": post("Content-Length: -11", body=JOB),
    "a hexadecimal length": post("Content-Length: 0xb", body=JOB),
    "a length in two parts": post("Content-Length:  1 1", body=JOB),
    "an empty length": post("Content-Length: ", body=JOB),
    "a length beyond 64 bits": post("Content-Length: 18446744073709551627", body=JOB),
    "a coding nobody knows": post("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "no coding": post("Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "an empty coding": post("Transfer-Encoding: ", body=b"0\r\n\r\n"),
    "another coding first": post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "another coding last": post("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "a coding twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "a coding behind a vertical tab": post("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "a coding in HTTP/1.0": post(CHUNKED, body=b"0\r\n\r\n", line="POST /v2/x/run HTTP/1.0"),
    "a bare LF behind a header": b"POST /v2/x/run HTTP/1.1\r\nHost: x\nContent-Length: 11\r\n\r\n" + JOB,
    "bare LFs alone": b"POST /v2/x/run HTTP/1.1\nHost: x\n\n",
    "a bare LF at the end": b"POST /v2/x/run HTTP/1.1\r\nHost: x\r\n\nX: y\r\n\r\n",
    "a bare CR": post("X: a\rContent-Length: 11", body=JOB),
    "a folded line": post("X: a\r\n b"),
    "a folded line with a tab": post("X: a\r\n\tb"),
    "a NUL in a value": post("X: a\0b"),
    "a control character": post("X: a\x01b"),
    "a NUL in a name": post("X\0: a"),
    "a space before the colon": post("Content-Length : 11", body=JOB),
    "a tab before the colon": post("X\t: 11"),
    "a space before the first header": b"GET /v2/x/health HTTP/1.1\r\n Host: x\r\n\r\n",
    "a header without a name": post(": 1"),
    "a header without a colon": post("X"),
    "no host": message("POST /v2/x/run HTTP/1.1"),
    "two hosts": post("Host: y"),
    "a key twice": post("Authorization: Bearer other"),
    "an API key twice": post("X-API-Key: a", "x-api-key: b"),
    "an idempotency key twice": post("Idempotency-Key: a", "Idempotency-Key: a"),
    "an extension of a chunk": post(CHUNKED, body=b"b;a=b\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "an extension of the last chunk": post(CHUNKED, body=b"b\r\n" + JOB + b"\r\n0;a\r\n\r\n"),
    "a chunk's size with a space": post(CHUNKED, body=b"b \r\n" + JOB + b"\r\n0\r\n\r\n"),
    "a chunk's size with 0x": post(CHUNKED, body=b"0xb\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "a chunk's size with a sign": post(CHUNKED, body=b"+b\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "a chunk without a size": post(CHUNKED, body=b"\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "a chunk's size that is too long": post(CHUNKED, body=b"0" * 16 + b"b\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": post(CHUNKED, body=b"a\r\n" + JOB + b"\r\n0\r\n\r\n"),
    "chunks with bare LFs": post(CHUNKED, body=b"b\n" + JOB + b"\n0\n\n"),
    "a trailer": post(CHUNKED, body=b"b\r\n" + JOB + b"\r\n0\r\nAuthorization: Bearer other\r\n\r\n"),
    "a space in the path": post(line="POST /v2/x/run /y HTTP/1.1"),
    "two spaces": post(line="POST  /v2/x/run HTTP/1.1"),
    "a space behind the version": post(line="POST /v2/x/run HTTP/1.1 "),
    "a tab in the line": post(line="POST\t/v2/x/run HTTP/1.1"),
    "a whole URL": post(line="POST http://other/v2/x/run HTTP/1.1"),
    "a tunnel": post(line="CONNECT other:443 HTTP/1.1"),
    "an asterisk": post(line="OPTIONS * HTTP/1.1"),
    "a fragment": post(line="GET /v2/x/health#y HTTP/1.1"),
    "bytes that are not ASCII": post(line="GET /v2/x/\xe9 HTTP/1.1"),
    "a small letter": post(line="get /v2/x/health HTTP/1.1"),
    "a method nobody knows": post(line="BREW /v2/x/health HTTP/1.1"),
    "no version": b"GET /v2/x/health\r\n\r\n",
    "HTTP/0.9": post(line="GET /v2/x/health HTTP/0.9"),
    "HTTP/1.2": post(line="GET /v2/x/health HTTP/1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\r\n\r\n",
}


@pytest.mark.parametrize("sent", TWO_WAYS.values(), ids=TWO_WAYS.keys())
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_could_be_read_in_two_ways_is_refused(gateway: Gateway, sent: bytes, at_once: bool) -> None:
    """Nothing behind it is taken for a request: there is one answer."""
    half = len(sent) * 2 // 3
    response = only_answer(gateway, *([sent + SECOND] if at_once else [sent[:half], sent[half:] + SECOND]))
    assert response.status == 400
    assert response.error


async def test_a_request_that_is_refused_has_no_effect(gateway: Gateway, target: Target) -> None:
    for headers, body in (
        (["Content-Length: 11", "Content-Length: 11"], JOB),
        ([CHUNKED], b"b\r\n" + JOB + b"\r\n0;x\r\n\r\n"),
        ([CHUNKED], b"b\r\n" + JOB + b"\r\n0\r\nX: y\r\n\r\n"),
    ):
        line = f"POST {target.path}/run HTTP/1.1"
        assert only_answer(gateway, post(*headers, body=body, line=line)).status == 400
    assert await target.listed() == []


async def test_what_is_in_order_before_it_is_answered(gateway: Gateway, target: Target) -> None:
    run = asked("POST", f"{target.path}/run", "Content-Length: 11", body=JOB)
    with connected(gateway) as connection:
        connection.sendall(run + run + post("Content-Length: 1", "Content-Length: 1") + run)
        statuses = [response.status for response in responses(until_closed(connection))]
    assert statuses == [200, 200, 400]
    assert len(await target.listed()) == 2


# too much


@pytest.mark.parametrize("size", [SMALL_HEADER_LIMIT, SMALL_HEADER_LIMIT + 1])
@pytest.mark.parametrize("piece", [1_000_000, 4000, 99])
def test_the_limit_of_the_headers_is_exact(small_gateway: Gateway, size: int, piece: int) -> None:
    begin = message("GET / HTTP/1.1", "Host: x", "Connection: close")[:-2]
    sent = begin + b"X: " + b"x" * (size - len(begin) - 7) + b"\r\n\r\n"
    assert len(sent) == size
    response = only_answer(small_gateway, *(sent[at : at + piece] for at in range(0, size, piece)))
    assert response.status == (404 if size == SMALL_HEADER_LIMIT else 431)
    assert response.error


@pytest.mark.parametrize("piece", [1_000_000, 999])
def test_headers_without_an_end(gateway: Gateway, piece: int) -> None:
    sent = message("GET / HTTP/1.1", "Host: x")[:-2] + b"X: " + b"x" * 1_000_000
    with connected(gateway) as connection:
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(sent), piece):
                connection.sendall(sent[at : at + piece])
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(("count", "status"), [(100, 404), (101, 431), (20_000, 431)])
def test_the_number_of_headers(gateway: Gateway, count: int, status: int) -> None:
    headers = ["Host: x", "Connection: close", *(["a:"] * (count - 2))]
    assert only_answer(gateway, message("GET / HTTP/1.1", *headers)).status == status


@pytest.mark.parametrize(("length", "status"), [(16_384, 404), (16_385, 414), (30_000, 414), (1_000_000, 414)])
def test_the_length_of_the_url(gateway: Gateway, length: int, status: int) -> None:
    sent = message(f"GET /{'x' * (length - 1)} HTTP/1.1", "Host: x", "Connection: close")
    with connected(gateway) as connection:
        connection.sendall(sent)
        (response,) = responses(until_closed(connection))
    assert response.status == status
    assert response.error


# too slow


def test_a_connection_that_says_nothing_is_closed(small_gateway: Gateway) -> None:
    with connected(small_gateway) as connection:
        assert until_closed(connection) == b""


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r"])
def test_a_head_that_stops_coming(small_gateway: Gateway, sent: bytes) -> None:
    response = only_answer(small_gateway, sent)
    assert response.status == 408
    assert "1 s" in response.error


@pytest.mark.parametrize("first", [b"", SECOND])
def test_a_head_that_trickles(small_gateway: Gateway, first: bytes) -> None:
    """Also behind a request that was answered."""
    with connected(small_gateway) as connection:
        if first:
            connection.sendall(first)
            assert answer_on(connection).status == 200
        connection.sendall(b"GET /")
        connection.settimeout(0.1)
        answer = b""
        while not answer:  # each byte comes in time, the whole does not
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_between_two_requests_is_kept(small_gateway: Gateway) -> None:
    with connected(small_gateway) as idle:
        idle.sendall(SECOND)
        assert answer_on(idle).status == 200
        for _ in range(2):
            assert only_answer(small_gateway, b"GET").status == 408  # as late as the other would be
        idle.sendall(SECOND)
        assert answer_on(idle).status == 200


@pytest.mark.parametrize("path", ["/v2/x/health", "/nothing"])
@pytest.mark.parametrize("trickles", [True, False])
def test_a_body_that_nobody_reads_holds_no_connection(small_gateway: Gateway, path: str, trickles: bool) -> None:
    with connected(small_gateway) as connection:
        connection.sendall(asked("POST", path, "Content-Length: 1000000000", body=b" "))
        assert answer_on(connection).status in (404, 405)
        connection.settimeout(0.1 if trickles else 20)
        received = b"more"
        while received:
            with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
                if trickles:
                    connection.sendall(b" ")
                received = connection.recv(1000)


async def test_a_body_that_nobody_reads_is_not_kept(gateway: Gateway, target: Target) -> None:
    """It waits at the client while the operation does something else, and goes when the answer is there."""
    id = await target.run(1)
    size = 100_000_000
    with connected(gateway) as connection:
        connection.sendall(asked("GET", f"{target.path}/status-sync/{id}?wait=2000", f"Content-Length: {size}"))
        connection.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += connection.send(b" " * 100_000)
        assert sent < size // 5
        connection.settimeout(20)
        assert answer_on(connection).status == 200
        while sent < size:
            sent += connection.send(b" " * min(1_000_000, size - sent))
        connection.sendall(SECOND)
        assert answer_on(connection).status == 200


async def test_a_body_that_a_poll_drops_takes_no_memory(gateway: Gateway, target: Target) -> None:
    def resident() -> int:
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    before = resident()
    with connected(gateway) as connection:
        connection.sendall(
            message(f"GET {target.path}/job-stop/w HTTP/1.1", "Host: x", f"Authorization: {target.worker_key}", CHUNKED)
        )
        for _ in range(100):
            connection.sendall(b"f4240\r\n" + b" " * 1_000_000 + b"\r\n")
        assert resident() - before < 30_000_000


# what goes on


async def test_http_1_0(gateway: Gateway, target: Target, worker: Worker) -> None:
    sent = message(f"GET {target.path}/health HTTP/1.0", f"Authorization: Bearer {API_KEY}")
    response = only_answer(gateway, sent + SECOND)
    assert (response.status, list(json.loads(response.body))) == (200, ["jobs", "workers"])

    id = await target.run(1)
    (job,) = worker.take()
    worker.emit(job, 1, b'"one"')
    worker.end(job)
    accept = "Accept: text/event-stream"
    stream = only_answer(
        gateway, message(f"GET {target.path}/stream/{id} HTTP/1.0", f"Authorization: Bearer {API_KEY}", accept)
    )
    assert "transfer-encoding" not in stream.headers  # which HTTP/1.0 does not know: the end is the end
    assert stream.body.count(b"event: done") == 1


def test_a_connection_that_its_client_wants_closed(gateway: Gateway) -> None:
    assert only_answer(gateway, asked("GET", "/v1/endpoints", "Connection: close") + SECOND).status == 200


async def test_requests_behind_one_that_waits(gateway: Gateway, target: Target, worker: Worker) -> None:
    """Answers come in the order of the requests, which are taken one after the other."""
    run = asked("POST", f"{target.path}/run", "Content-Length: 11", body=JOB)
    sync = asked("POST", f"{target.path}/runsync", "Content-Length: 11", body=JOB)
    chunked = asked(
        "POST", f"{target.path}/run", CHUNKED, body=b"5\r\n" + JOB[:5] + b"\r\n6\r\n" + JOB[5:] + b"\r\n0\r\n\r\n"
    )
    with connected(gateway) as connection:
        connection.sendall(run + sync + chunked + b"\r\n" + run)  # some send an empty line behind a body
        jobs = [await worker.next() for _ in range(2)]
        assert len(await target.listed()) == 2
        for job in jobs:
            worker.finish(job, b'"done"')
        statuses = [response.status for response in answer_on_each(connection, 4)]
    assert statuses == [200] * 4
    assert len(await target.listed()) == 4


def answer_on_each(connection: socket.socket, count: int) -> list[Response]:
    data = b""
    while True:
        data += connection.recv(65536)
        with contextlib.suppress(AssertionError, IndexError):
            found = responses(data)
            if len(found) == count:
                return found


async def test_a_request_in_single_bytes(gateway: Gateway, target: Target) -> None:
    body = b"5\r\n" + JOB[:5] + b"\r\n6\r\n" + JOB[5:] + b"\r\n0\r\n\r\n"
    with connected(gateway) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in asked("POST", f"{target.path}/run", CHUNKED, body=body):
            connection.sendall(bytes([byte]))
        assert answer_on(connection).status == 200


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE"])
async def test_another_protocol_is_not_taken(gateway: Gateway, target: Target, protocol: str, name: str) -> None:
    """As RFC 9110 has it: who offers one gets his answer in HTTP/1.1, with the body that he sent."""
    sent = asked(
        "POST", f"{target.path}/run", "Connection: Upgrade", f"{name}: {protocol}", "Content-Length: 11", body=JOB
    )  # fmt: skip
    with connected(gateway) as connection:
        connection.sendall(sent + SECOND)
        assert [response.status for response in answer_on_each(connection, 2)] == [200, 200]
    assert len(await target.listed()) == 1


async def test_who_asks_first_and_is_refused_may_send_its_body_or_not(gateway: Gateway, target: Target) -> None:
    """What comes next could be either, so the connection ends."""
    sent = asked("POST", "/nothing", f"Content-Length: {len(SECOND)}", "Expect: 100-continue")
    assert only_answer(gateway, sent, SECOND).status == 404


def test_many_at_once_that_send_half_a_head(small_gateway: Gateway) -> None:
    """They keep nobody else from being answered, and all come to an end."""
    waiting = [socket.create_connection(("127.0.0.1", small_gateway.port), timeout=20) for _ in range(200)]
    ended: list[bytes] = []
    for connection in waiting:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    thread = threading.Thread(target=lambda: ended.extend(until_closed(connection) for connection in waiting))
    thread.start()
    with connected(small_gateway) as connection:
        connection.sendall(SECOND)
        assert answer_on(connection).status == 200
    thread.join()
    assert {answer.split()[1] for answer in ended} == {b"408"}
    for connection in waiting:
        connection.close()
    eventually_true(lambda: len(list(Path(f"/proc/{small_gateway.pid}/fd").iterdir())) < 200)
