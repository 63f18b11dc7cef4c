import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.engine import wakeups as module
from gateway.engine.engine import Engine
from gateway.engine.wakeups import Chunks, Event, Final, Missed, Wakeups, Watch
from gateway.errors import NotFound, Unavailable
from gateway.store import Store

from ..stores import Server
from .driver import Driver, ends

SECONDS = 10.0


@pytest.fixture
async def other(store: Store) -> AsyncIterator[Engine]:
    """The engine of a second gateway process."""
    engine = Engine(store)
    yield engine
    assert await ends(engine.close())


async def until_quiet(watch: Watch) -> list[Event]:
    """All events that have come, after which there is none for a moment."""
    events: list[Event] = []
    while (event := await watch.next(0.05)) is not None:
        events.append(event)
    return events


async def test_nobody_listens_to_an_endpoint_that_is_none(engine: Engine, driver: Driver) -> None:
    with pytest.raises(NotFound):
        await engine.listen(f"{driver.endpoint}-other")
    await engine.listen(driver.endpoint)
    assert not engine.wakeups.hears(f"{driver.endpoint}-other")
    assert engine.wakeups.hears(driver.endpoint)


@pytest.mark.every_store
async def test_chunks_and_the_end_come_with_what_they_say(engine: Engine, driver: Driver) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin("w")
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        await engine.status(driver.endpoint, job.id, watch=True)
        await driver.emit(job, 1, '"a"', '"\u00e9\\n"')
        await driver.finish(job, value="[1]")

        assert await watch.next(SECONDS) == Chunks(1, [b'"a"', '"\u00e9\\n"'.encode()])
        final = await watch.next(SECONDS)

    assert isinstance(final, Final)
    assert (final.state, final.field, final.value, final.worker, final.position) == (
        "COMPLETED", "output", b"[1]", "w", 2,
    )  # fmt: skip
    found = await engine.status(driver.endpoint, job.id)
    assert (final.created, final.started, final.finished) == (found.created, found.started, found.finished)


@pytest.mark.parametrize("end", ["failed", "cancelled", "timed out", "gone"])
async def test_every_end_is_announced(engine: Engine, driver: Driver, end: str) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin(timeout=5000, ttl=6000 if end == "gone" else 60_000, watcher=engine.wakeups.process)
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        if end == "failed":
            await driver.finish(job, "FAILED", "error", "x")
        elif end == "cancelled":
            await engine.cancel(driver.endpoint, job.id)
        elif end == "timed out":
            await driver.pass_time(5001)
            await driver.upkeep()
        else:
            await driver.call("lose", job.id, 1, "x")
            await driver.pass_time(6001)
            await driver.upkeep()
        event = await watch.next(SECONDS)

    expected = {"failed": "FAILED", "cancelled": "CANCELLED", "timed out": "TIMED_OUT"}
    assert (event.state if isinstance(event, Final) else event) == expected.get(end, Missed())


async def test_what_is_too_large_for_a_message_is_missed(engine: Engine, driver: Driver) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin(watcher=engine.wakeups.process)
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        await driver.emit(job, 1, "x" * 100_000)
        assert await watch.next(SECONDS) == Missed()

        await driver.finish(job, value="y" * 100_000)
        assert await watch.next(SECONDS) == Missed()


async def test_a_new_attempt_is_missed_so_that_the_reader_looks(engine: Engine, driver: Driver) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin(watcher=engine.wakeups.process)
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        await driver.emit(job, 1, "a")
        assert isinstance(await watch.next(SECONDS), Chunks)
        await driver.call("lose", job.id, 1, "x")
        await driver.take()

        assert await watch.next(SECONDS) == Missed()


async def test_a_reader_that_is_too_slow_is_told_to_look_again(
    engine: Engine, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 1500)
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin(watcher=engine.wakeups.process)
    with (
        engine.wakeups.watch(driver.endpoint, job.id) as slow,
        engine.wakeups.watch(driver.endpoint, job.id) as quick,
    ):
        for number in range(1, 4):
            await driver.emit(job, number, "x" * 400)
            assert isinstance(await quick.next(SECONDS), Chunks)
        await driver.finish(job)
        assert isinstance(await quick.next(SECONDS), Final)

        events = await until_quiet(slow)

    assert events[0] == Missed()
    assert isinstance(events[-1], Final)


async def test_a_reader_that_never_reads_keeps_a_bounded_number_of_events() -> None:
    # Once: only payload bytes are counted, so that events without any pile up: `Missed` after each large message and
    # after each reconnect.
    watch = Watch()
    for _ in range(10_000):
        watch.put(Missed(), 0)

    assert len(await until_quiet(watch)) < 1000


async def test_only_the_watched_job_wakes(engine: Engine, driver: Driver) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job, other = [await driver.begin(watcher=engine.wakeups.process) for _ in range(2)]
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        await driver.finish(other)
        await driver.emit(job, 1, "a")

        assert await watch.next(SECONDS) == Chunks(1, [b"a"])


@pytest.mark.every_store
async def test_two_processes_watch_one_job(engine: Engine, other: Engine, driver: Driver) -> None:
    job = await driver.begin()
    for each in (engine, other):
        await each.wakeups.subscribe(driver.endpoint)
        await each.status(driver.endpoint, job.id, watch=True)
    with (
        engine.wakeups.watch(driver.endpoint, job.id) as here,
        other.wakeups.watch(driver.endpoint, job.id) as there,
    ):
        await driver.emit(job, 1, "a")
        assert [await watch.next(SECONDS) for watch in (here, there)] == [Chunks(1, [b"a"])] * 2

        await other.unwatch(driver.endpoint, job.id)
        await driver.finish(job)

        assert isinstance(await here.next(SECONDS), Final)
        assert await there.next(0.05) is None


async def test_nothing_comes_between_the_look_and_the_watch(engine: Engine, driver: Driver) -> None:
    """However the end of a job and the look at it fall together, the waiter sees one or the other."""
    await engine.wakeups.subscribe(driver.endpoint)

    async def wait(id: str) -> str:
        with engine.wakeups.watch(driver.endpoint, id) as watch:
            found = await engine.status(driver.endpoint, id, watch=True)
            if found.final:
                return "seen"
            event = await watch.next(SECONDS)
            return "told" if isinstance(event, Final) else str(event)

    jobs = [await driver.begin() for _ in range(100)]
    waits = [asyncio.create_task(wait(job.id)) for job in jobs]
    await asyncio.gather(*(engine.cancel(driver.endpoint, job.id) for job in jobs))

    assert {await task for task in waits} <= {"seen", "told"}


async def test_a_silent_job_is_looked_at_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_SILENCE", 0.01)
    with engine.wakeups.watch("e", "j") as watch:
        assert await watch.next(SECONDS) == Missed()
        assert await watch.next(0.005) is None


async def test_a_watch_that_ends_leaves_nothing(engine: Engine, driver: Driver) -> None:
    wakeups = engine.wakeups
    with wakeups.watch(driver.endpoint, "a"):
        with wakeups.watch(driver.endpoint, "a"):
            pass
        assert wakeups.watched(driver.endpoint, "a")

    with pytest.raises(ZeroDivisionError), wakeups.watch(driver.endpoint, "b"):
        _ = 1 / 0

    assert not wakeups.watched(driver.endpoint, "a")
    assert wakeups._watches == {}


async def test_drain_ends_all_waiting(engine: Engine, driver: Driver) -> None:
    with engine.wakeups.watch(driver.endpoint, "a") as watch:
        waiting = asyncio.create_task(watch.next(SECONDS))
        await asyncio.sleep(0)

        engine.wakeups.drain()

        assert await waiting is None
    with engine.wakeups.watch(driver.endpoint, "b") as late:
        assert await late.next(SECONDS) is None


@pytest.mark.every_store
async def test_a_lost_connection_tells_everyone_and_comes_back(engine: Engine, driver: Driver) -> None:
    await engine.wakeups.subscribe(driver.endpoint)
    job, quiet = [await driver.begin(watcher=engine.wakeups.process) for _ in range(2)]
    with (
        engine.wakeups.watch(driver.endpoint, job.id) as first,
        engine.wakeups.watch(driver.endpoint, quiet.id) as second,
    ):
        await until_quiet(first)
        await until_quiet(second)
        await driver.store.node_of(driver.base).client_kill_filter(_type="pubsub")

        # When it is lost, and when it is back: what happened in between came to nobody.
        for _ in range(2):
            assert [await watch.next(SECONDS) for watch in (first, second)] == [Missed()] * 2
        await engine.wakeups.subscribe(driver.endpoint)
        await driver.emit(job, 1, "a")
        assert await first.next(SECONDS) == Chunks(1, [b"a"])


async def test_many_endpoints_can_be_subscribed_at_once(engine: Engine, driver: Driver) -> None:
    # Once: while the first subscription connects, the next ones use the same PubSub and connect too; all but the last
    # connection are lost with what was subscribed on them, and `subscribe` gives up after five seconds.
    endpoints = [driver.endpoint, *(f"{driver.endpoint}-{i}" for i in range(20))]
    await driver.store.node_of(driver.base).connection_pool.disconnect()

    async def subscribe(i: int, endpoint: str) -> None:
        for _ in range(i):
            await asyncio.sleep(0)
        await engine.wakeups.subscribe(endpoint)

    await asyncio.gather(*(subscribe(i, endpoint) for i, endpoint in enumerate(endpoints)))

    node: Any = driver.store.node_of(driver.base)
    channels = [f"runlane:{{{endpoint}}}:gateway:{engine.wakeups.process}" for endpoint in endpoints]
    counts = await node.execute_command("PUBSUB", "SHARDNUMSUB", *channels)
    assert counts[1::2] == [1] * len(endpoints)


async def test_a_message_that_makes_no_sense_does_no_harm(engine: Engine, driver: Driver) -> None:
    # Once: an error in `_receive` ends the listener's task for good. A worker may write to the channels of its
    # endpoint, and its id, which comes from outside, is part of messages.
    await engine.wakeups.subscribe(driver.endpoint)
    job = await driver.begin(watcher=engine.wakeups.process)
    channel = f"{driver.base}:gateway:{engine.wakeups.process}"
    node: Any = driver.store.node_of(channel)
    with engine.wakeups.watch(driver.endpoint, job.id) as watch:
        for message in (b"", b"nonsense", b'{"kind":1}\n', b'{"kind":"chunks","job":"\xff"}\n'):
            await node.execute_command("SPUBLISH", channel, message)
        await driver.emit(job, 1, "a")

        events = [await watch.next(2)]
        while events[-1] == Missed():
            events.append(await watch.next(2))

    assert events[-1] == Chunks(1, [b"a"])


async def test_without_a_store_subscribe_is_unavailable_and_later_works(
    own_server: Server, own_store: Store, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_SUBSCRIBE", 0.2)
    wakeups = Wakeups(own_store)
    own_server.stop()
    with pytest.raises(Unavailable):
        await wakeups.subscribe(endpoint)

    own_server.start()
    monkeypatch.setattr(module, "SECONDS_TO_SUBSCRIBE", SECONDS)

    await wakeups.subscribe(endpoint)
    assert await ends(wakeups.close())
