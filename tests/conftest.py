import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.store import Store, open_store

from .gateway.receiver import Receiver
from .stores import Cluster, Running, Server, redis_server, valkey

KINDS = ("valkey", "redis", "cluster")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_store: run on Valkey, on Redis and on a cluster of three Valkey nodes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_store")
        metafunc.parametrize("server", KINDS if every else KINDS[:1], indirect=True)


class Servers:
    """The shared servers, each started when the first test asks for it. Tests keep apart by the ids of endpoints."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Running] = {}

    def get(self, kind: str) -> Running:
        if kind not in self._running:
            self._running[kind] = self._make(kind)
            self._running[kind].start()
        return self._running[kind]

    def stop(self) -> None:
        for running in self._running.values():
            running.stop()

    def _make(self, kind: str) -> Running:
        if kind == "cluster":
            return Cluster(self._folder / kind, valkey())
        if kind == "valkey":
            return Server(self._folder / kind, valkey())
        binary = redis_server()
        if binary is None:
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up("no Redis server runs here; name one with RUNLANE_TEST_REDIS")
        return Server(self._folder / kind, binary)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("stores"))
    yield servers
    servers.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Servers) -> Running:
    """A store that the tests share: no test stops it, flushes it or changes its settings."""
    return servers.get(request.param)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A store that belongs to the test alone, to be stopped, killed and filled as it likes. What it has answered is on
    the disk, which it might put off otherwise while the disk is busy."""
    server = Server(tmp_path / "store", valkey(), appendfsync="always")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(server: Running) -> AsyncIterator[Store]:
    store = await open_store(server.url)
    yield store
    await store.close()


@pytest.fixture
async def own_store(own_server: Server) -> AsyncIterator[Store]:
    store = await open_store(own_server.url)
    yield store
    await store.close()


@pytest.fixture
def endpoint() -> str:
    """An endpoint's id that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver of webhooks, to which gateways may send only if they are told so."""
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()
