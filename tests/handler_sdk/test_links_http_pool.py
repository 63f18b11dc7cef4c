"""The client, against a server that says only what the test has it say."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from handler_sdk.links import PROMPT_BYTES
from handler_sdk.links.http_connection import Exchange, Request, WithdrawnError
from handler_sdk.links.http_pool import MOST_CONNECTIONS, WARM, Place, Pool

from ..gateway.waiting import eventually

SECONDS = 0.6
SAY = Request("POST", "/say", b'"x"')
ONCE = Request("POST", "/once", b"{}", repeats=False)
POLL = Request("GET", "/poll", wait=10.0, repeats=False)
LARGE = Request("POST", "/large", b"x" * (2 * PROMPT_BYTES))


class Client:
    """One of the pool's connections, at the server's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.ended = asyncio.Event()
        self._reader = reader

    async def hear(self) -> str:
        """The path of the next request."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await self._reader.readexactly(int(length or 0))
        return head.split(" ")[1]

    def say(self, body: str = "ok", more: str = "") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        self.writer.write((head + body).encode())

    def cut(self) -> None:
        self.writer.transport.abort()

    def hang_up(self) -> None:
        """Behind the back of the loop, which is the pool's as well: it has had no time to notice."""
        self.writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class Server:
    """heard: requests, by their clients and their paths."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.heard: asyncio.Queue[tuple[Client, str]] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer)
        self.clients.append(client)
        with suppress(OSError, EOFError):
            while True:
                self.heard.put_nowait((client, await client.hear()))
        client.ended.set()

    async def cut(self, number: int) -> None:
        """Cuts so many clients, each when it has said something."""
        for _ in range(number):
            client, _ = await self.heard.get()
            client.cut()

    async def has_had(self, number: int) -> None:
        await eventually(lambda: self._has_had(number), 5)

    async def _has_had(self, number: int) -> bool:
        return len(self.clients) >= number


@pytest.fixture
async def scripted() -> Server:
    return Server()


@pytest.fixture
async def url(scripted: Server) -> AsyncIterator[str]:
    listener = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    yield url_of(listener.sockets[0])
    listener.close()
    for client in scripted.clients:
        client.cut()
        await client.ended.wait()


@pytest.fixture
def seconds() -> float:
    """What the pool waits for an answer."""
    return SECONDS


@pytest.fixture
async def pool(url: str, seconds: float) -> AsyncIterator[Pool]:
    """With its connections made."""
    pool = Pool(f"{url}/base", "", seconds)
    await pool.open()
    await standing(pool, WARM)
    yield pool
    await pool.close()


def url_of(listener: Any) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def standing(pool: Pool, number: int) -> None:
    """Waits until so many connections are free."""

    async def look() -> bool:
        return len(pool._idle) >= number

    await eventually(look, 5)


async def text_of(exchange: Exchange) -> str:
    return (await exchange.answer).body.decode()


class TestSending:
    @pytest.fixture
    def deaf(self) -> Iterator[socket.socket]:
        """A server in no loop at all: what it has got was sent without one turn of ours."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener

    async def test_is_done_when_the_call_returns(self, deaf: socket.socket) -> None:
        pool = Pool(url_of(deaf), "key", SECONDS, warm=1)
        await pool.open()
        with deaf.accept()[0] as client:
            client.setblocking(False)
            for number in range(3):
                pool.send(Request("POST", f"/{number}", b"x" * (PROMPT_BYTES // 3)))
            data = b""
            with suppress(BlockingIOError):
                while True:
                    data += client.recv(PROMPT_BYTES)
            assert data.startswith(b"POST /0 HTTP/1.1\r\nHost: 127.0.0.1:")
            assert data.count(b"\r\nAuthorization: Bearer key\r\n") == 3
            assert data.count(b"x") == PROMPT_BYTES // 3 * 3
            await pool.close()

    async def test_goes_below_the_url(self, pool: Pool, scripted: Server) -> None:
        pool.send(SAY)
        assert (await scripted.heard.get())[1] == "/base/say"

    async def test_gives_each_its_own_connection_where_there_are_some(self, pool: Pool) -> None:
        first, second = pool.send(SAY), pool.send(SAY)
        assert first.connection is not second.connection

    async def test_puts_a_small_request_behind_others_when_there_is_no_connection(
        self, pool: Pool, scripted: Server
    ) -> None:
        exchanges = [pool.send(SAY._replace(path=f"/{number}")) for number in range(3)]
        assert exchanges[2].connection in (exchanges[0].connection, exchanges[1].connection)
        for _ in range(3):
            client, path = await scripted.heard.get()
            client.say(path)
        assert [await text_of(exchange) for exchange in exchanges] == ["/base/0", "/base/1", "/base/2"]

    async def test_makes_another_connection_when_few_are_left(self, pool: Pool) -> None:
        for _ in range(WARM):
            pool.send(SAY)
        await standing(pool, WARM)

    async def test_keeps_the_order_of_those_that_go_behind_each_other(self, pool: Pool) -> None:
        first = pool.send(ONCE)
        second = pool.send(ONCE, behind=first)
        assert first.connection is second.connection

    @pytest.mark.parametrize("request_", [POLL, LARGE])
    async def test_leaves_connections_to_the_small_ones(self, request_: Request, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(request_)
        assert len(pool._idle) == WARM
        client, _ = await scripted.heard.get()
        client.say()
        assert await text_of(exchange) == "ok"
        again = pool.send(request_)
        assert again.connection is not None  # there is one more now
        assert len(pool._idle) == WARM

    async def test_never_goes_behind_what_takes_its_time(self, pool: Pool, scripted: Server) -> None:
        polls = [pool.send(POLL) for _ in range(2)]
        for _ in polls:
            await scripted.heard.get()
        busy = [pool.send(SAY) for _ in range(6)]
        assert not {exchange.connection for exchange in polls} & {exchange.connection for exchange in busy}

    @pytest.mark.parametrize("seconds", [10.0])  # that many take a while to be opened
    async def test_waits_when_there_are_many_connections_already(self, pool: Pool, scripted: Server) -> None:
        polls = [pool.send(POLL) for _ in range(MOST_CONNECTIONS)]
        heard = [await scripted.heard.get() for _ in range(MOST_CONNECTIONS - WARM)]
        waiting = [poll for poll in polls if poll.connection is None]
        assert len(waiting) == WARM
        heard[0][0].say()
        await scripted.heard.get()
        assert waiting[0].connection is not None
        assert len(scripted.clients) == MOST_CONNECTIONS


class TestAnswers:
    async def test_come_in_whatever_pieces(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(SAY)
        client, _ = await scripted.heard.get()
        client.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Enc")
        await asyncio.sleep(0)
        client.writer.write(b"oding: chunked\r\n\r\n2\r\nab\r\n1")
        await asyncio.sleep(0)
        client.writer.write(b"\r\nc\r\n0\r\n\r\n")
        assert await text_of(exchange) == "abc"

    async def test_may_take_long_as_long_as_they_come(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(SAY)
        client, _ = await scripted.heard.get()
        client.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(SECONDS / 4)
            client.writer.write(b"x")
        assert await text_of(exchange) == "x" * 8

    async def test_that_do_not_come_are_given_up(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(SAY)
        client, _ = await scripted.heard.get()
        with pytest.raises(TimeoutError, match=f"no answer within {SECONDS:g} s"):
            await exchange.answer
        await asyncio.wait_for(client.ended.wait(), 5)

    async def test_that_are_no_http_are_errors(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(ONCE)
        client, _ = await scripted.heard.get()
        client.writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        with pytest.raises(ConnectionError, match="the answer cannot be read"):
            await exchange.answer

    async def test_that_break_off_are_errors(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(ONCE)
        client, _ = await scripted.heard.get()
        client.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nx")
        client.writer.close()
        with pytest.raises(ConnectionError, match="the answer cannot be read"):
            await exchange.answer

    async def test_that_are_not_wanted_any_more_end_the_connection(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(POLL)
        client, _ = await scripted.heard.get()
        exchange.withdraw()
        with pytest.raises(WithdrawnError):
            await exchange.answer
        await asyncio.wait_for(client.ended.wait(), 5)

    async def test_leave_the_connection_to_others_unless_they_say_that_it_ends(
        self, pool: Pool, scripted: Server
    ) -> None:
        exchange = pool.send(SAY)
        client, _ = await scripted.heard.get()
        client.say(more="Connection: close\r\n")
        assert await text_of(exchange) == "ok"
        await asyncio.wait_for(client.ended.wait(), 5)


class TestLostConnections:
    async def test_cost_nothing_but_a_repetition(self, pool: Pool, scripted: Server) -> None:
        """As when the server ends a connection that was idle for long, just then."""
        exchange = pool.send(SAY)
        await scripted.cut(1)
        client, path = await scripted.heard.get()
        client.say()
        assert (path, await text_of(exchange)) == ("/base/say", "ok")

    async def test_are_errors_the_second_time(self, pool: Pool, scripted: Server) -> None:
        exchange = pool.send(SAY)
        await scripted.cut(2)
        with pytest.raises(ConnectionError):
            await exchange.answer

    @pytest.mark.parametrize("request_", [ONCE, POLL])
    async def test_are_errors_for_what_is_not_to_be_repeated(
        self, request_: Request, pool: Pool, scripted: Server
    ) -> None:
        exchange = pool.send(request_)
        await scripted.cut(1)
        with pytest.raises(ConnectionError):
            await exchange.answer

    async def test_are_noticed_before_they_are_used_though_the_loop_was_blocked(
        self, pool: Pool, scripted: Server
    ) -> None:
        gone, stands = scripted.clients[:2]
        gone.hang_up()
        exchanges = [pool.send(SAY) for _ in range(3)]
        for _ in exchanges:
            client, _ = await scripted.heard.get()
            assert client is stands
            client.say()
        assert [await text_of(exchange) for exchange in exchanges] == ["ok"] * 3

    async def test_are_replaced(self, pool: Pool, scripted: Server) -> None:
        for client in scripted.clients:
            client.cut()
        await scripted.has_had(2 * WARM)
        await standing(pool, WARM)
        assert pool.stands

    async def test_leave_nothing_that_what_must_go_at_once_could_wait_for(self, pool: Pool, scripted: Server) -> None:
        for client in scripted.clients:
            client.hang_up()
        assert not pool.stands
        with pytest.raises(ConnectionError, match="there is no connection"):
            await pool.send(ONCE).answer


class TestServersThatAreAway:
    async def test_are_told_by_the_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            pool = Pool(url_of(listener), "", SECONDS)
        with pytest.raises(OSError, match="Connect call failed"):
            await pool.open()
        exchanges = [pool.send(SAY) for _ in range(3)]
        for exchange in exchanges:
            with pytest.raises(OSError, match="Connect call failed"):
                await exchange.answer
        await pool.close()

    async def test_that_take_no_connection_are_given_up(self) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.create_connection(full.getsockname()):  # there is no room for another
                pool = Pool(url_of(full), "", SECONDS)
                with pytest.raises(TimeoutError, match="no connection within"):
                    await pool.open()
                await pool.close()


async def test_what_is_under_way_fails_when_the_pool_is_closed(pool: Pool) -> None:
    exchanges = [pool.send(request) for request in (SAY, POLL)]
    await pool.close()
    for exchange in exchanges:
        with pytest.raises(ConnectionError):
            await exchange.answer


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://gateway:8000", Place("gateway", 8000, False, "gateway:8000", "")),
        ("https://gateway/runlane/", Place("gateway", 443, True, "gateway", "/runlane")),
        ("http://user:secret@[::1]:80/a/b", Place("::1", 80, False, "[::1]:80", "/a/b")),
    ],
)
def test_a_url_leads_to_a_place(url: str, place: Place) -> None:
    assert Place.of(url) == place


@pytest.mark.parametrize("url", ["gateway:8000", "ftp://gateway", "http://", "http://gateway:port"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Place.of(url)
