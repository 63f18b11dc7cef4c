"""The line that the fault tests break."""

import socket
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..gateway.waiting import eventually_true
from ..stores import Running, Server
from .proxy import Direction, Proxy

PATIENCE = 0.2


@pytest.fixture
def direct(server: Running) -> "Iterator[redis.Redis]":
    assert isinstance(server, Server)
    with server.client as client:
        yield client


@pytest.fixture
def proxy(server: Running) -> Iterator[Proxy]:
    assert isinstance(server, Server)
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def client(proxy: Proxy) -> "Iterator[redis.Redis]":
    """A client with little patience that never repeats a command."""
    client = redis.Redis.from_url(proxy.url, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0), protocol=2)
    client.ping()
    yield client
    client.close()


def count(direct: "redis.Redis", key: str) -> int:
    return int(str(direct.strlen(key)))


def test_passes(client: "redis.Redis", direct: "redis.Redis", endpoint: str) -> None:
    client.set(endpoint, "x" * 1_000_000)
    assert count(direct, endpoint) == 1_000_000
    assert client.get(endpoint) == b"x" * 1_000_000


def test_holds_what_goes_to_the_store(
    proxy: Proxy, client: "redis.Redis", direct: "redis.Redis", endpoint: str
) -> None:
    proxy.hold(frozenset({Direction.TO_STORE}))
    with pytest.raises(redis.TimeoutError):
        client.append(endpoint, "x")
    assert count(direct, endpoint) == 0
    proxy.heal()  # as by TCP, it arrives though the client has hung up
    eventually_true(lambda: count(direct, endpoint) == 1)
    assert client.append(endpoint, "x") == 2


def test_holds_what_comes_from_the_store(
    proxy: Proxy, client: "redis.Redis", direct: "redis.Redis", endpoint: str
) -> None:
    proxy.hold(frozenset({Direction.FROM_STORE}))
    with pytest.raises(redis.TimeoutError):
        client.append(endpoint, "x")
    assert count(direct, endpoint) == 1
    proxy.heal()
    assert client.append(endpoint, "x") == 2


@pytest.mark.parametrize("held", [False, True])
def test_cuts_all_lines(held: bool, proxy: Proxy, client: "redis.Redis") -> None:
    lines = [socket.create_connection(proxy.address, 5) for _ in range(3)]
    for line in lines:
        line.sendall(b"PING\r\n")
        assert line.recv(100) == b"+PONG\r\n"
    if held:
        proxy.hold()
    proxy.cut()
    for line in lines:
        assert line.recv(100) == b""
        line.close()
    proxy.heal()
    assert client.ping()


def test_loses_the_reply_to_a_command_that_was_executed(
    proxy: Proxy, client: "redis.Redis", direct: "redis.Redis", endpoint: str
) -> None:
    lost = proxy.lose_reply(b"APPEND")
    assert client.ping()
    assert not lost.done()
    with pytest.raises(redis.ConnectionError):
        client.append(endpoint, "x")
    assert lost.done()
    assert count(direct, endpoint) == 1
    assert client.append(endpoint, "x") == 2  # once only


def test_forsakes_the_connections_that_there_are(proxy: Proxy, client: "redis.Redis", endpoint: str) -> None:
    client.get("nothing")
    proxy.forsake(b"nothing")
    with pytest.raises(redis.TimeoutError):
        client.append(endpoint, "x")
    assert client.append(endpoint, "x") == 1  # by a new connection
