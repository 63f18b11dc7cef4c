import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from gateway.engine import batching
from gateway.engine.batching import Batcher
from gateway.errors import Unavailable
from gateway.store import LIBRARY, Store

from ..stores import Server
from .driver import Driver, ends


async def calls_served(store: Store) -> int:
    """How many function calls the store has executed."""
    stats = await cast(Any, store.commands.info("commandstats"))
    return int(stats.get("cmdstat_fcall", {}).get("calls", 0))


def submit(batcher: Batcher, driver: Driver, id: str, **options: Any) -> "asyncio.Future[Any]":
    *arguments, limit = driver.submission(id, **options)
    return batcher.submit(driver.base, arguments, str(limit), len(options.get("input", "{}")))


@pytest.fixture
async def batcher(store: Store) -> AsyncIterator[Batcher]:
    batcher = Batcher(store)
    yield batcher
    assert await ends(batcher.close())


@pytest.fixture
async def own_batcher(own_store: Store) -> AsyncIterator[Batcher]:
    batcher = Batcher(own_store)
    yield batcher
    assert await ends(batcher.close())


@pytest.fixture
async def own_driver(own_store: Store, endpoint: str) -> Driver:
    driver = Driver(own_store, endpoint)
    await driver.load()
    await driver.configure()
    return driver


async def test_concurrent_submissions_go_out_as_one_call(store: Store, batcher: Batcher, driver: Driver) -> None:
    before = await calls_served(store)

    replies = await asyncio.gather(*(submit(batcher, driver, f"j{i}") for i in range(100)))

    assert await calls_served(store) - before == 1
    assert replies == [b"NEW"] * 100
    assert await driver.queued() == [f"j{i}" for i in range(100)]


async def test_what_comes_in_during_calls_goes_out_together(store: Store, batcher: Batcher, driver: Driver) -> None:
    before = await calls_served(store)

    async def client(i: int) -> None:
        await asyncio.sleep(i / 1e6)
        await submit(batcher, driver, f"j{i}")

    await asyncio.gather(*(client(i) for i in range(500)))

    assert await calls_served(store) - before < 250
    assert len(await driver.queued()) == 500


async def test_each_caller_gets_its_own_reply(store: Store, batcher: Batcher, driver: Driver) -> None:
    other = Driver(store, f"{driver.endpoint}-other")
    job = await driver.begin()

    replies: Sequence[Any] = await asyncio.gather(
        submit(batcher, driver, "a", key="k", fingerprint="f"),
        submit(batcher, other, "b"),
        submit(batcher, driver, "c", key="k", fingerprint="f"),
        batcher.call(driver.base, "touch", job.id, 1000),
        batcher.call(driver.base, "emit", job.id, 1, 5, "gap"),
        batcher.call(driver.base, "touch", "nobody", 1000),
        return_exceptions=True,
    )

    assert replies[:4] == [b"NEW", b"NO_ENDPOINT", [b"SAME", b"a", b"IN_QUEUE"], 1]
    assert "GAP" in str(replies[4])
    assert replies[5] == 0


async def test_large_submissions_are_spread_over_calls(
    store: Store, batcher: Batcher, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST_BYTES_IN_CALL", 10_000)
    before = await calls_served(store)

    replies = await asyncio.gather(*(submit(batcher, driver, f"j{i}", input="x" * 4000) for i in range(10)))

    assert replies == [b"NEW"] * 10
    assert 3 <= await calls_served(store) - before <= 5


async def test_more_calls_than_one_pipeline_takes(batcher: Batcher, driver: Driver) -> None:

    replies = await asyncio.gather(*(batcher.call(driver.base, "touch", str(i), 1000) for i in range(2000)))

    assert replies == [0] * 2000


async def test_a_missing_library_is_loaded_and_the_calls_are_repeated(
    own_store: Store, own_batcher: Batcher, own_driver: Driver
) -> None:
    await own_store.commands.execute_command("FUNCTION FLUSH")

    replies: Sequence[Any] = await asyncio.gather(
        submit(own_batcher, own_driver, "a"),
        submit(own_batcher, own_driver, "b"),
        own_batcher.call(own_driver.base, "touch", "nobody", 1000),
    )

    assert replies == [b"NEW", b"NEW", 0]
    assert await own_driver.queued() == ["a", "b"]


async def test_a_store_that_was_emptied_is_served_again(
    own_store: Store, own_batcher: Batcher, own_driver: Driver
) -> None:
    await own_store.commands.execute_command("FUNCTION FLUSH")
    await own_store.commands.flushall()

    assert await submit(own_batcher, own_driver, "a") == b"NO_ENDPOINT"


async def test_a_store_that_is_down_is_unavailable_until_it_is_back(
    own_server: Server, own_batcher: Batcher, own_driver: Driver
) -> None:
    await asyncio.gather(*(own_batcher.call(own_driver.base, "touch", str(i), 1) for i in range(10)))
    own_server.kill()
    futures = [submit(own_batcher, own_driver, "a"), own_batcher.call(own_driver.base, "health")]
    replies = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(reply) for reply in replies] == [Unavailable, Unavailable]
    assert cast(Unavailable, replies[0]).headers["Retry-After"]

    own_server.start()

    assert await submit(own_batcher, own_driver, "b") == b"NEW"


async def test_what_was_acknowledged_survives_the_death_of_the_store(
    own_server: Server, own_batcher: Batcher, own_driver: Driver
) -> None:
    await asyncio.gather(*(submit(own_batcher, own_driver, f"j{i}") for i in range(50)))

    own_server.kill()
    own_server.start()
    await cast(Any, own_driver.store.commands).connection_pool.disconnect()

    assert await own_driver.queued() == [f"j{i}" for i in range(50)]


async def test_a_full_store_refuses_jobs_and_lets_running_ones_end(
    own_store: Store, own_batcher: Batcher, own_driver: Driver
) -> None:
    job = await own_driver.begin()
    await own_store.commands.config_set("maxmemory", 1)

    with pytest.raises(Unavailable, match="out of memory"):
        await submit(own_batcher, own_driver, "a")
    finished = await own_batcher.call(own_driver.base, "finish", job.id, job.attempt, "COMPLETED", "output", "1")

    await own_store.commands.config_set("maxmemory", 0)
    assert finished == b"OK"
    assert await own_driver.state(job.id) == "COMPLETED"
    assert await submit(own_batcher, own_driver, "b") == b"NEW"


async def test_a_store_that_has_become_a_replica_is_unavailable(
    own_store: Store, own_batcher: Batcher, own_driver: Driver
) -> None:
    # Once: redis-py takes the code off the text of the errors that it knows, so `startswith("READONLY")` never holds.
    await own_store.commands.execute_command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(Unavailable):
        await submit(own_batcher, own_driver, "a")


async def test_a_store_without_enough_replicas_is_unavailable(
    own_store: Store, own_batcher: Batcher, own_driver: Driver
) -> None:
    await own_store.commands.config_set("min-replicas-to-write", 1)

    with pytest.raises(Unavailable):
        await submit(own_batcher, own_driver, "a")


async def test_a_caller_that_goes_away_does_not_disturb_the_others(batcher: Batcher, driver: Driver) -> None:
    futures = [submit(batcher, driver, f"j{i}") for i in range(3)]

    futures[1].cancel()

    assert [await futures[0], await futures[2]] == [b"NEW"] * 2
    assert len(await driver.queued()) == 3


async def test_calls_that_nothing_will_answer_are_unavailable_at_close(
    own_server: Server, own_batcher: Batcher, own_driver: Driver
) -> None:
    await own_batcher.call(own_driver.base, "touch", "nobody", 1)
    own_server.freeze()
    future = own_batcher.call(own_driver.base, "touch", "nobody", 1)
    await asyncio.sleep(0.05)

    await own_batcher.close()

    with pytest.raises(Unavailable):
        await future


async def test_a_store_that_does_not_answer_is_unavailable(
    own_server: Server, own_batcher: Batcher, own_driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "SECONDS_TO_ANSWER", 0.2)
    await own_batcher.call(own_driver.base, "touch", "nobody", 1)
    own_server.freeze()
    with pytest.raises(Unavailable):
        await own_batcher.call(own_driver.base, "touch", "nobody", 1)

    own_server.thaw()

    assert await own_batcher.call(own_driver.base, "touch", "nobody", 1) == 0


@pytest.mark.parametrize("argument", ["\ud800", None])
async def test_an_argument_that_cannot_be_sent_harms_no_other_call(
    batcher: Batcher, driver: Driver, argument: Any
) -> None:
    # Once: the error comes up while a batch is packed and ends the task of the connection, so that no later call is
    # ever answered.
    async with asyncio.timeout(2):
        with pytest.raises((TypeError, ValueError)):
            await batcher.call(driver.base, "touch", argument, 1000)

        assert await batcher.call(driver.base, "touch", "nobody", 1000) == 0


async def test_two_versions_of_the_library_live_side_by_side(store: Store, batcher: Batcher, driver: Driver) -> None:
    # The driver's library is another one than the gateway's.
    reply = await submit(batcher, driver, "a")

    libraries = await cast(Any, store.commands.execute_command("FUNCTION LIST"))
    assert reply == b"NEW"
    assert [job.id for job in await driver.take()] == ["a"]
    assert LIBRARY in str(libraries)
    assert len(libraries) >= 2
