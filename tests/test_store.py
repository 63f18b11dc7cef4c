import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import store as module
from gateway.engine.engine import Engine
from gateway.errors import NotFound, StartupError
from gateway.store import LIBRARY, Store, open_store

from .stores import Running, Server, WatchedPrimary, free_port, valkey


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def serves(store: Store) -> bool:
    """Whether the library is there and can be called."""
    engine = Engine(store)
    try:
        with pytest.raises(NotFound):
            await engine.health("nobody")
    finally:
        await engine.close()
    return True


async def libraries(store: Store, **where: Any) -> str:
    return str(await store.commands.execute_command("FUNCTION LIST", **where))


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Server]:
    """A server with a password that has to be quoted in a URL, and a Unix socket."""
    server = Server(tmp_path, valkey(), requirepass="p-4567", unixsocket=f'"{tmp_path / "s.sock"}"')
    server.start()
    yield server
    server.stop()


@pytest.mark.every_store
async def test_the_library_is_loaded_everywhere(server: Running) -> None:
    async with opened(server.url) as store:
        assert await serves(store)
        where = {"target_nodes": "primaries"} if store.clustered else {}
        found = await libraries(store, **where)

    assert found.count(LIBRARY + "_purge") == (3 if store.clustered else 1)


@pytest.mark.every_store
async def test_a_cluster_is_recognized_by_itself(server: Running, request: pytest.FixtureRequest) -> None:
    async with opened(server.url) as store:
        assert store.clustered == ("cluster" in request.node.callspec.id)


async def test_a_library_that_is_there_is_kept(own_server: Server) -> None:
    async with opened(own_server.url) as first, opened(own_server.url) as second:
        await first.load_library()

        assert await serves(second)


async def test_a_node_without_the_library_gets_it(servers: Any) -> None:
    cluster = servers.get("cluster")
    async with opened(cluster.url) as store:
        with cluster.nodes[1].client as client:
            client.execute_command("FUNCTION", "DELETE", LIBRARY)

        await store.load_library()

        assert (await libraries(store, target_nodes="primaries")).count(LIBRARY + "_purge") == 3


async def test_a_url_may_say_that_it_is_a_cluster(servers: Any) -> None:
    ports = [node.port for node in servers.get("cluster").nodes]
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{ports[1]},127.0.0.1:{ports[2]}"

    async with opened(url) as store:
        assert store.clustered
        assert await serves(store)


async def test_unix_socket_and_password(secured: Server) -> None:
    async with opened(f"unix://:p-4567@{secured.folder / 's.sock'}") as store:
        assert await serves(store)


async def test_user_and_password_that_need_quoting(secured: Server) -> None:
    with secured.client as client:
        client.execute_command("ACL", "SETUSER", "us@er", "on", ">p@ss/w:rd", "~*", "&*", "+@all")

    async with opened(f"redis://us%40er:p%40ss%2Fw%3Ard@127.0.0.1:{secured.port}") as store:
        assert await serves(store)


async def test_a_sentinel_leads_to_the_primary(tmp_path: Path) -> None:
    watched = WatchedPrimary(tmp_path, valkey())
    watched.start()
    try:
        async with opened(watched.url) as store:
            assert await serves(store)
            info = await cast(Any, store.commands.info("server"))
        assert info["tcp_port"] == watched.primary.port
        # Once: the clients that ask the Sentinels are never closed, which a warning says once they are collected.
        del store
        gc.collect()
    finally:
        watched.stop()


class TestRefusals:
    """Each is one line that says what is wrong and never shows a password."""

    async def refusal(self, url: str) -> str:
        with pytest.raises(StartupError) as caught:
            await open_store(url)
        message = str(caught.value)
        assert "\n" not in message
        assert "secret" not in message
        return message

    async def test_nobody_listens(self) -> None:
        message = await self.refusal(f"redis://:secret@127.0.0.1:{free_port()}")

        assert "cannot reach the store at redis://***@127.0.0.1" in message
        assert "RUNLANE_REDIS_URL" in message

    async def test_no_such_socket(self, tmp_path: Path) -> None:
        assert "cannot reach" in await self.refusal(f"unix://{tmp_path}/nothing.sock")

    async def test_nobody_answers(self, own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "SECONDS_TO_ANSWER", 0.3)
        own_server.freeze()

        assert "cannot reach" in await self.refusal(own_server.url)

    @pytest.mark.parametrize("credentials", ["", ":secret@", "nobody:secret@"])
    async def test_a_wrong_password(self, secured: Server, credentials: str) -> None:
        message = await self.refusal(f"redis://{credentials}127.0.0.1:{secured.port}")

        assert "refuses our user or password" in message

    @pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379", "", "memory://"])
    async def test_no_store_url(self, url: str) -> None:
        assert "is not a store URL" in await self.refusal(url)

    async def test_a_sentinel_url_without_a_name(self) -> None:
        assert "name of the primary" in await self.refusal("redis+sentinel://127.0.0.1:26379")

    async def test_a_sentinel_that_is_not_there(self) -> None:
        assert "cannot reach" in await self.refusal(f"redis+sentinel://127.0.0.1:{free_port()}/primary")

    async def test_a_cluster_that_is_not_there(self) -> None:
        assert "cannot reach" in await self.refusal(f"redis+cluster://:secret@127.0.0.1:{free_port()}")

    @pytest.mark.parametrize(
        ("info", "shown"),
        [
            ("redis_version:7.0.15\r\n", "Redis 7.0.15"),
            ("redis_version:6.2.14\r\n", "Redis 6.2.14"),
            ("redis_version:7.2.4\r\nvalkey_version:7.2.8\r\n", "Valkey 7.2.8"),
        ],
    )
    async def test_a_server_that_is_too_old(self, info: str, shown: str) -> None:
        async with pretending(info) as port:
            message = await self.refusal(f"redis://127.0.0.1:{port}")

        assert f"is {shown}; runlane needs Redis ≥ 7.2 or Valkey ≥ 8.0" in message


@asynccontextmanager
async def pretending(info: str) -> AsyncIterator[int]:
    """A server that says of itself what it is told to. Yields its port."""
    text = f"# Server\r\n{info}cluster_enabled:0\r\n".encode()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while line := await reader.readline():
            words = [((await reader.readline()), (await reader.readline()).strip())[1] for _ in range(int(line[1:]))]
            command = words[0].upper()
            if command == b"INFO":
                writer.write(b"$%d\r\n%s\r\n" % (len(text), text))
            elif command == b"HELLO":
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                writer.write(b"+OK\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


def test_the_name_of_the_library_changes_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[], tuple[str, str]] = module._library
    name, source = make()

    assert source.startswith(f"#!lua name={name}\n")
    assert "@library@" not in source
    assert (name, source) == (module.LIBRARY, module.LIBRARY_SOURCE)
