"""What HTTP itself allows a client to do, over bare sockets where a well-behaved client would not."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from .clients import API_KEY, Target, Worker
from .conftest import BODY_SECONDS, SMALL_LIMIT, client_of
from .processes import Gateway
from .waiting import eventually

RUN_LIMIT = 10_000_000
RUNSYNC_LIMIT = 20_000_000


@contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        yield connection


def head(target: Target, path: str, *headers: str, method: str = "POST", key: str = API_KEY) -> bytes:
    """The first part of a request, up to the empty line."""
    lines = (f"{method} {target.path}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def response_on(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response; its body has a length."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


def is_closed(connection: socket.socket) -> bool:
    """Waits until the other side has closed the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


async def no_job(target: Target) -> bool:
    return await target.listed() == [] and (await target.health())["jobs"]["inQueue"] == 0


# too large


@pytest.mark.parametrize(("path", "limit"), [("/run", RUN_LIMIT), ("/runsync", RUNSYNC_LIMIT)])
async def test_a_body_that_says_it_is_too_large_is_refused_unread(
    gateway: Gateway, target: Target, path: str, limit: int
) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, path, f"Content-Length: {limit + 1}"))  # and not a byte of it
        status, headers, body = response_on(connection)
        assert status == 413
        assert str(limit) in json.loads(body)["error"]
        assert headers["connection"] == "close"
        assert is_closed(connection)
    assert await no_job(target)


async def test_a_client_that_sends_all_of_a_body_too_large_gets_the_answer(gateway: Gateway, target: Target) -> None:
    for _ in range(5):
        async with client_of(gateway) as http:
            response = await http.post(f"{target.path}/run", content=b" " * (RUN_LIMIT + 1))
        assert response.status_code == 413
        assert response.json().keys() == {"error"}
    assert await no_job(target)


async def test_a_body_without_a_length_is_refused_once_it_is_too_large(gateway: Gateway, target: Target) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", "Transfer-Encoding: chunked"))
        for _ in range(RUN_LIMIT // 65536 + 1):
            connection.sendall(chunk)
        status, _, body = response_on(connection)  # though the body has no end yet
    assert status == 413
    assert json.loads(body).keys() == {"error"}
    assert await no_job(target)


async def test_a_body_without_an_end_does_not_fill_the_memory(gateway: Gateway, target: Target) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    sent = 0
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", "Transfer-Encoding: chunked"))
        try:
            for _ in range(400):
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert RUN_LIMIT // 2 < sent < 100_000_000
    assert (await target.health())["jobs"]["inQueue"] == 0


@pytest.mark.parametrize(("path", "limit"), [("/run", SMALL_LIMIT), ("/runsync?wait=1000", 2 * SMALL_LIMIT)])
async def test_the_limit_is_exact(small_gateway: Gateway, target: Target, path: str, limit: int) -> None:
    async with client_of(small_gateway) as http:
        for size, expected in ((limit, 200), (limit + 1, 413)):
            body = b'{"input":"' + b"x" * (size - 12) + b'"}'
            announced, chunked = await asyncio.gather(
                http.post(f"{target.path}{path}", content=body),
                http.post(f"{target.path}{path}", content=pieces(body)),
            )
            assert (announced.status_code, chunked.status_code) == (expected, expected)
    assert len(await target.listed()) == 2


async def pieces(body: bytes):  # type: ignore[no-untyped-def]
    """A body of which nobody says the length beforehand."""
    for at in range(0, len(body), 100):
        yield body[at : at + 100]


async def test_a_chunked_body_is_taken(gateway: Gateway, target: Target, worker: Worker) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", "Transfer-Encoding: chunked"))
        for part in (b'{"in', b'put": ', b"42}"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")
        assert response_on(connection)[0] == 200
    assert worker.take()[0].input == b"42"


async def test_a_client_may_ask_before_it_sends_the_body(gateway: Gateway, target: Target) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", "Content-Length: 11", "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b'{"input":1}')
        assert response_on(connection)[0] == 200


async def test_a_client_that_asks_with_a_body_too_large_need_not_send_it(gateway: Gateway, target: Target) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", f"Content-Length: {RUN_LIMIT + 1}", "Expect: 100-continue"))
        assert response_on(connection)[0] == 413


# slow, or cut off


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_stops_coming_is_cut_off(small_gateway: Gateway, target: Target, length: str) -> None:
    with connected(small_gateway) as connection:
        connection.sendall(head(target, "/run", length))
        connection.sendall(b'{"input":' if "Content" in length else b'9\r\n{"input":\r\n')
        status, headers, body = response_on(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body).keys() == {"error"}
        assert is_closed(connection)
    assert await no_job(target)


async def test_a_body_that_trickles_is_cut_off(small_gateway: Gateway, target: Target) -> None:
    began = time.monotonic()
    with connected(small_gateway) as connection:
        connection.sendall(head(target, "/run", "Content-Length: 1000"))
        connection.settimeout(0.1)
        answer = b""
        while not answer:  # each byte comes in time, the whole does not
            connection.sendall(b" ")
            try:
                answer = connection.recv(1000)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < BODY_SECONDS + 5
    assert await no_job(target)


async def test_a_body_that_is_cut_off_makes_no_job(gateway: Gateway, target: Target) -> None:
    for length, body in (
        ("Content-Length: 100", b'{"input":1}'),
        ("Content-Length: 12", b'{"input":1}'),
        ("Transfer-Encoding: chunked", b'b\r\n{"input":1}\r\n'),
    ):
        with connected(gateway) as connection:
            connection.sendall(head(target, "/run", length) + body)
            connection.shutdown(socket.SHUT_WR)
            assert is_closed(connection)
    assert await no_job(target)


async def test_a_client_that_resets_the_connection_makes_no_job(gateway: Gateway, target: Target) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", "Content-Length: 100") + b'{"input":1}')
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert await no_job(target)


async def test_a_client_that_hangs_up_during_runsync_loses_no_job(
    gateway: Gateway, target: Target, worker: Worker
) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/runsync", "Content-Length: 11") + b'{"input":1}')
        job = await worker.next()
    worker.finish(job, b'"still here"')
    assert (await target.status(job.id))["output"] == "still here"


# what is not HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"\x16\x03\x01\x00\xa5", b"GET / HTTP/9.9\r\n\r\n",
     b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=lambda text: text[:40].decode("latin-1"),
)  # fmt: skip
async def test_what_is_not_http_is_refused(gateway: Gateway, target: Target, request_bytes: bytes) -> None:
    with connected(gateway) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert not answer or answer.split()[1].startswith(b"4"), answer[:100]
    assert (await target.get("/health")).status_code == 200


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "9" * 40, "5, 5", ""])
async def test_a_length_that_is_none(gateway: Gateway, target: Target, length: str) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, "/run", f"Content-Length: {length}") + b'{"input":1}')
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert not answer or answer.split()[1].startswith(b"4"), answer[:100]
    assert await no_job(target)


# connections


async def test_a_connection_goes_on_after_an_error(gateway: Gateway, target: Target) -> None:
    body = b'{"input":' + b" " * 200_000 + b"1}"
    length = f"Content-Length: {len(body)}"
    with connected(gateway) as connection:
        for expected, start in (
            (401, head(target, "/run", length, key="wrong")),
            (404, head(target, "/nothing", length)),
            (405, head(target, "/health", length)),
            (200, head(target, "/run", length)),
        ):
            connection.sendall(start + body)
            assert response_on(connection)[0] == expected
    assert len(await target.listed()) == 1


async def test_requests_may_be_sent_before_the_answers_come(gateway: Gateway, target: Target) -> None:
    request = head(target, "/run", "Content-Length: 11") + b'{"input":1}'
    with connected(gateway) as connection, connection.makefile("rb") as file:
        connection.sendall(request * 20)
        statuses = []
        for _ in range(20):
            statuses.append(file.readline().split()[1])
            length = 0
            while line := file.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split()[1])
            file.read(length)
    assert statuses == [b"200"] * 20
    assert len(await target.listed()) == 20


async def test_head_gets_no_body(target: Target) -> None:
    response = await target.http.head(f"{target.path}/health")
    assert (response.status_code, response.headers["allow"], response.content) == (405, "GET", b"")


async def test_a_large_header_is_no_fault_of_the_gateway_s(target: Target) -> None:
    async def look() -> bool:
        try:
            response = await target.get("/health", headers={"X-Large": "x" * 40_000})
        except httpx.HTTPError:
            return True
        return response.status_code < 500

    assert await eventually(look)


async def test_errors_do_not_reveal_the_store(small_gateway: Gateway, target: Target) -> None:
    async with client_of(small_gateway, "wrong") as http:
        response = await http.post(f"{target.path}/run", json={"input": 1})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json() == {"error": "missing or wrong API key"}
