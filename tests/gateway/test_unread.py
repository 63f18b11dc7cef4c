"""Clients that do not read what they asked for, and such as only take their time."""

import asyncio
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.server import SECONDS_TO_DRAIN, SECONDS_TO_SAY_GOODBYE
from gateway.unread import LEAST_READ, Unread

from ..stores import Server
from .certificates import Authority, Pair
from .clients import API_KEY, Target
from .processes import Gateway
from .sockets import asked, until_closed
from .waiting import eventually_true

SIZE = 15_000_000
"""Bytes of an answer; more than the system takes by itself."""


class Connection:
    def __init__(self, known: bool = True) -> None:
        self.read = 0
        self.known = known
        self.is_cut_off = False

    def acknowledged(self) -> int | None:
        return self.read if self.known else None

    def abort(self) -> None:
        self.is_cut_off = True


@pytest.mark.parametrize(
    ("step", "known", "is_cut_off"),
    [(0, True, True), (LEAST_READ - 1, True, True), (LEAST_READ, True, False), (0, False, False)],
)
def test_who_reads_too_little_is_cut_off(step: int, known: bool, is_cut_off: bool) -> None:
    unread, connection = Unread(), Connection(known)
    unread.add(connection, 100.0)
    for now in (104.0, 108.0, 112.0):
        connection.read += step if now == 108.0 else 0
        unread.end_stalled(now, 10.0)
    assert connection.is_cut_off is is_cut_off


def test_who_is_there_twice_has_no_more_time() -> None:
    unread, connection = Unread(), Connection()
    unread.add(connection, 100.0)
    unread.add(connection, 109.0)
    unread.end_stalled(110.0, 10.0)
    assert not connection.is_cut_off
    unread.end_stalled(110.1, 10.0)
    assert connection.is_cut_off


def test_who_has_read_all_is_left_alone() -> None:
    unread, connection = Unread(), Connection()
    unread.add(connection, 100.0)
    unread.discard(connection)
    unread.end_stalled(200.0, 10.0)
    assert not connection.is_cut_off


@pytest.fixture(scope="module", params=["http", "https"])
def strict(
    request: pytest.FixtureRequest, backing: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose clients have little time, though more than a connection of TLS would have by itself."""
    gateway = impatient(tmp_path_factory.mktemp("strict"), backing, request.param)
    yield gateway
    gateway.stop()


@pytest.fixture(params=["http", "https"])
def own_strict(request: pytest.FixtureRequest, backing: Server, tmp_path: Path) -> Iterator[Gateway]:
    """Another one, for a single test."""
    gateway = impatient(tmp_path, backing, request.param)
    yield gateway
    gateway.stop()


def impatient(folder: Path, backing: Server, scheme: str) -> Gateway:
    settings = {}
    if scheme == "https":
        pair = Pair(folder / "tls", Authority(folder))
        pair.write("strict")
        settings = pair.settings
    return Gateway(
        folder, backing.url, api_keys=API_KEY, read_seconds=str(SECONDS_TO_SAY_GOODBYE + 2), rate_limits="off",
        audit_log="off", **settings,
    )  # fmt: skip


def connected(gateway: Gateway) -> socket.socket:
    """A connection of which little fits on this side."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    plain.settimeout(20)
    plain.connect(("127.0.0.1", gateway.port))
    if not gateway.url.startswith("https"):
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


async def large_answer(target: Target) -> str:
    """Its path."""
    id = await target.run(1)
    worker = await target.register("w1")
    worker.finish(await worker.next(), b'"%b"' % (b"x" * SIZE))
    return f"{target.path}/status/{id}"


def sockets(gateway: Gateway) -> int:
    return sum(file.is_socket() for file in Path(f"/proc/{gateway.pid}/fd").iterdir() if file.exists())


@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["kept alive", "closed"])
async def test_who_reads_nothing_is_cut_off(strict: Gateway, target: Target, headers: tuple[str, ...]) -> None:
    if strict.url.startswith("https") and not headers:
        pytest.skip("of a single answer under TLS this shows only when the connection has been idle")
    path = await large_answer(target)
    before = sockets(strict)
    connections = [connected(strict) for _ in range(5)]
    for connection in connections:
        connection.sendall(asked("GET", path, *headers))
        assert connection.recv(100)
    assert sockets(strict) == before + 5
    eventually_true(lambda: sockets(strict) <= before)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["kept alive", "closed"])
async def test_who_reads_nothing_does_not_keep_the_server(
    own_strict: Gateway, target: Target, headers: tuple[str, ...]
) -> None:
    with connected(own_strict) as connection:
        connection.sendall(asked("GET", await large_answer(target), *headers))
        assert connection.recv(100)
        own_strict.send(signal.SIGTERM)
        assert own_strict.wait(SECONDS_TO_DRAIN / 2) in (0, -signal.SIGTERM)


async def test_who_takes_his_time_gets_all(strict: Gateway, target: Target) -> None:
    with connected(strict) as connection:
        connection.sendall(asked("GET", await large_answer(target), "Connection: close"))
        received = connection.recv(100)
        # As long as a connection of TLS is kept when it was closed: nothing else tells whether it was.
        await asyncio.sleep(SECONDS_TO_SAY_GOODBYE + 0.5)
        received += until_closed(connection)
    assert len(received) > SIZE
