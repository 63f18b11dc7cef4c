"""Fair endpoints by way of the engine, in a full store, and what they cost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.engine.endpoints import Config, Endpoints
from gateway.engine.engine import Engine, Submission
from gateway.errors import Unavailable
from gateway.store import Store, open_store

from ..stores import Server, valkey
from .driver import DAY_MS, RETENTION_MS, Driver, ends
from .test_fair import begin, kept, queue, shares_of


@pytest.fixture
async def own_store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """A store that is the test's alone, to be filled."""
    server = Server(tmp_path_factory.mktemp("own"), valkey())
    server.start()
    store = await open_store(server.url)
    yield store
    await store.close()
    server.stop()


class TestEngine:
    @staticmethod
    def job(id: str, share: str, weight: int = 1) -> Submission:
        return Submission(id, b"1", 0, DAY_MS, RETENTION_MS, share=share, weight=weight)

    async def test_a_configured_endpoint_is_fair(self, engine: Engine, driver: Driver) -> None:
        endpoints = Endpoints(engine.store, engine.batcher)
        other = Driver(engine.store, f"{driver.endpoint}-made")
        await endpoints.create(other.endpoint, Config(fair=True))
        jobs = [self.job(f"{share}-{i}", share, weight) for share, weight in (("a", 1), ("b", 3)) for i in range(8)]

        await asyncio.gather(*(engine.submit(other.endpoint, job) for job in jobs))

        assert Counter(await shares_of(other, 8)) == {"a": 2, "b": 6}
        queued = (await engine.status(other.endpoint, "a-7")).queued
        assert queued is not None
        assert queued.position == 8
        assert (await engine.health(other.endpoint)).in_queue == 8
        await endpoints.update(other.endpoint, {"fair": False})
        await engine.submit(other.endpoint, self.job("last", "a"))
        assert [job.id for job in await begin(other, 9)][-1] == "last"
        await endpoints.delete(other.endpoint)
        assert await other.keys() == set()

    async def test_a_full_store_ends_what_waits(self, own_store: Store) -> None:
        engine = Engine(own_store)
        endpoint = "full"
        await Endpoints(own_store, engine.batcher).create(endpoint, Config(fair=True, attempts=2))
        driver = Driver(own_store, endpoint)
        await driver.load()
        for share in ("a", "b"):
            for number in range(3):
                await engine.submit(endpoint, self.job(f"{share}-{number}", share))
        (running,) = await driver.take()
        await own_store.commands.config_set("maxmemory", 1)

        with pytest.raises(Unavailable):
            await engine.submit(endpoint, self.job("late", "a"))
        assert (await engine.cancel(endpoint, "a-2")).final
        assert await driver.finish(running) == "OK"
        assert await engine.purge(endpoint) == 4

        await own_store.commands.config_set("maxmemory", 0)
        assert await kept(driver) == set()
        assert (await engine.health(endpoint)).in_queue == 0
        assert await ends(engine.close())


async def made_on(store: Store, name: str, **settings: int) -> Driver:
    driver = Driver(store, name)
    await driver.load()
    await driver.configure(**settings)
    return driver


async def calls(driver: Driver, function: str, *arguments: Any) -> int:
    """How many commands a function calls, with the one that calls it. Nobody else uses the store."""
    node: Any = driver.store.node_of(driver.base)

    async def so_far() -> int:
        return sum(stat["calls"] for stat in (await node.info("commandstats")).values())

    before = await so_far()
    await driver.call(function, *arguments)
    return await so_far() - before - 1


class TestCost:
    async def test_does_not_grow_with_jobs_and_shares(self, own_store: Store) -> None:
        few, many = [await made_on(own_store, name, fair=1) for name in ("few", "many")]
        await queue(few, "s0", 2)
        for number in range(50):
            await queue(many, f"s{number}", 40)

        for function, *arguments in (
            ("health",),
            ("status", "s0-0", ""),
            ("cancel", "s0-1"),
            ("submit", *few.submission("more", share="s0")),
            ("take", "w", 1),
        ):
            of_few, of_many = [await calls(driver, function, *arguments) for driver in (few, many)]
            assert of_many == of_few, function
