"""Commands over a line to something that is no store."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from handler_sdk.links.line import Commands

SECONDS = 0.3


@pytest.fixture
async def silent() -> AsyncIterator[ConnectionPool]:
    """The way to a server that takes connections and never answers."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield ConnectionPool.from_url(f"redis://{host}:{port}", socket_timeout=SECONDS, protocol=2)
    server.close()


async def test_all_that_wait_for_a_line_give_up_together(silent: ConnectionPool) -> None:
    commands = Commands(silent, SECONDS)
    async with asyncio.timeout(4 * SECONDS):
        failures = await asyncio.gather(*(commands.execute("PING") for _ in range(8)), return_exceptions=True)
    assert [isinstance(failure, RedisError | OSError) for failure in failures] == [True] * 8


async def test_what_was_closed_makes_no_line_any_more(silent: ConnectionPool) -> None:
    commands = Commands(silent, SECONDS)
    commands.close()
    with pytest.raises(RedisError, match="was closed"):
        await commands.execute("PING")
