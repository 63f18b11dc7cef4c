from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.engine import following as module
from gateway.engine.engine import Engine, Job
from gateway.engine.following import Arrived, Follower
from gateway.engine.wakeups import Missed, Watch
from gateway.errors import NotFound, Unavailable

from .driver import Driver, Taken

SECONDS = 10.0


@asynccontextmanager
async def following(
    engine: Engine, driver: Driver, job: str, position: int = 0, is_new: bool = False
) -> AsyncIterator[tuple[Follower, Watch]]:
    await engine.wakeups.subscribe(driver.endpoint)
    with engine.wakeups.watch(driver.endpoint, job) as watch:
        yield Follower(engine, driver.endpoint, job, watch, position, is_new=is_new), watch


async def begin_again(driver: Driver, job: Taken) -> Taken:
    """Has the worker lose the job and take it again."""
    await driver.call("lose", job.id, job.attempt, "lost")
    (again,) = await driver.take()
    return again


async def is_over(follower: Follower, state: str = "COMPLETED") -> bool:
    found = await follower.next(SECONDS)
    return isinstance(found, Job) and found.state == state


async def test_what_is_stored_comes_first_and_then_what_happens(engine: Engine, driver: Driver) -> None:
    job = await driver.begin()
    await driver.emit(job, 1, "1", "2")
    async with following(engine, driver, job.id) as (follower, _):
        assert await follower.next(SECONDS) == Arrived(1, [b"1", b"2"])
        await driver.emit(job, 3, "3")
        assert await follower.next(SECONDS) == Arrived(3, [b"3"])
        await driver.finish(job, value="[9]")
        found = await follower.next(SECONDS)
    assert isinstance(found, Job)
    assert found == Job(**{**vars_of(await engine.status(driver.endpoint, job.id)), "attempt": 0})


def vars_of(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


async def test_a_job_that_is_over_comes_behind_its_chunks(engine: Engine, driver: Driver) -> None:
    job = await driver.begin()
    await driver.emit(job, 1, "1", "2")
    await driver.finish(job)
    async with following(engine, driver, job.id, position=1) as (follower, _):
        assert await follower.next(SECONDS) == Arrived(2, [b"2"])
        assert await is_over(follower)


async def test_a_new_job_is_not_read(engine: Engine, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await driver.begin(watcher=engine.wakeups.process)

    async def read(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(engine, "read", read)
    async with following(engine, driver, job.id, is_new=True) as (follower, _):
        await driver.emit(job, 1, "1")
        assert await follower.next(SECONDS) == Arrived(1, [b"1"])
        await driver.emit(job, 2, "2")
        await driver.finish(job)
        assert await follower.next(SECONDS) == Arrived(2, [b"2"])
        assert await is_over(follower)


async def test_after_a_silence_it_looks_for_what_was_not_announced(engine: Engine, driver: Driver) -> None:
    job = await driver.begin()  # nobody watches it
    async with following(engine, driver, job.id, is_new=True) as (follower, _):
        await driver.emit(job, 1, "1")
        assert await follower.next(0.01) is None
        assert await follower.next(SECONDS) == Arrived(1, [b"1"])


async def test_nothing_comes_twice_when_a_message_was_lost(engine: Engine, driver: Driver) -> None:
    job = await driver.begin(watcher=engine.wakeups.process)
    async with following(engine, driver, job.id, is_new=True) as (follower, watch):
        await driver.emit(job, 1, "1")
        assert await follower.next(SECONDS) == Arrived(1, [b"1"])
        watch.put(Missed(), 0)
        await driver.emit(job, 2, "2")
        await driver.emit(job, 3, "3")
        assert await follower.next(SECONDS) == Arrived(2, [b"2", b"3"])
        await driver.finish(job)
        assert await is_over(follower)


async def test_it_ends_with_its_watch(engine: Engine, driver: Driver) -> None:
    job = await driver.begin()
    async with following(engine, driver, job.id) as (follower, watch):
        watch.end()
        assert await follower.next() is None
        assert watch.ended


@pytest.mark.parametrize("seen", [False, True])
async def test_a_new_attempt_is_told_to_whoever_has_seen_the_old_one(
    engine: Engine, driver: Driver, seen: bool
) -> None:
    old = await driver.begin(watcher=engine.wakeups.process)
    async with following(engine, driver, old.id, is_new=True) as (follower, _):
        await driver.emit(old, 1, "1", "2")
        if seen:
            await follower.next(SECONDS)
        new = await begin_again(driver, old)
        await driver.emit(new, 1, "10")
        if not seen:  # the wake-up of the old attempt is there still, and comes before the new one is known of
            assert await follower.next(SECONDS) == Arrived(1, [b"1", b"2"])
        assert await follower.next(SECONDS) == Arrived(3, [b"10"], restarted=2)
        await driver.finish(new)
        assert await is_over(follower)


async def test_an_attempt_that_nobody_has_seen_is_not_told_of(engine: Engine, driver: Driver) -> None:
    old = await driver.begin()
    await driver.emit(old, 1, "1", "2")
    new = await begin_again(driver, old)
    await driver.emit(new, 1, "10")
    async with following(engine, driver, old.id) as (follower, _):
        assert await follower.next(SECONDS) == Arrived(3, [b"10"])


async def test_chunks_that_are_no_longer_kept_are_told_of(engine: Engine, driver: Driver) -> None:
    job = await driver.begin()
    await driver.key("HSET", "settings", "stream_bytes", 2_000_000)
    chunks = [f'"{letter * 900_000}"' for letter in "abcd"]
    await driver.emit(job, 1, *chunks)
    async with following(engine, driver, job.id) as (follower, _):
        found = await follower.next(SECONDS)
    assert isinstance(found, Arrived)
    assert (found.first, found.missing) == (3, True)


async def test_a_store_that_is_away_is_waited_for(
    engine: Engine, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_TRY_AGAIN", 0.01)
    job = await driver.begin()
    await driver.emit(job, 1, "1")
    read, failures = engine.read, [Unavailable(), Unavailable()]

    async def fail_first(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await read(*arguments)

    monkeypatch.setattr(engine, "read", fail_first)
    async with following(engine, driver, job.id) as (follower, _):
        assert await follower.next(SECONDS) == Arrived(1, [b"1"])
    assert failures == []


async def test_a_job_that_is_not_there(engine: Engine, driver: Driver) -> None:
    async with following(engine, driver, "none") as (follower, _):
        with pytest.raises(NotFound):
            await follower.next(SECONDS)
