import asyncio
import uuid
from collections import Counter
from typing import Any

import pytest

from gateway.engine.engine import MOST_IN_CALL, Alike, Changed, Engine, Policy, Queued, State, Submission, Workers
from gateway.errors import Conflict, NotFound, TooManyRequests

from .driver import DAY_MS, RETENTION_MS, Driver, text

pytestmark = pytest.mark.every_store


def submission(**options: Any) -> Submission:
    defaults: dict[str, Any] = {"id": str(uuid.uuid4()), "input": b"{}", "timeout": 0, "ttl": DAY_MS,
                                "retention": RETENTION_MS}  # fmt: skip
    return Submission(**(defaults | options))


async def submit(engine: Engine, endpoint: str, **options: Any) -> str:
    id, state = await engine.submit(endpoint, submission(**options))
    assert state is State.IN_QUEUE
    return id


class TestSubmit:
    async def test_a_worker_gets_the_job_as_it_was_sent(self, engine: Engine, driver: Driver) -> None:
        input = '{"prompt": "\u00e9", "n": 1.50}'.encode()

        id = await submit(engine, driver.endpoint, input=input, request=b'{"webhook":"x"}', timeout=9000)

        (job,) = await driver.take()
        assert job == (id, 1, 9000, input.decode(), '{"webhook":"x"}')

    async def test_low_priority(self, engine: Engine, driver: Driver) -> None:
        low = await submit(engine, driver.endpoint, queue="low")
        normal = await submit(engine, driver.endpoint)

        assert [job.id for job in await driver.take(capacity=2)] == [normal, low]

    async def test_without_an_endpoint(self, engine: Engine, endpoint: str) -> None:
        with pytest.raises(NotFound, match=endpoint):
            await engine.submit(endpoint, submission())

    async def test_with_a_key_that_was_used(self, engine: Engine, driver: Driver) -> None:
        first = await submit(engine, driver.endpoint, idempotency_key="k", fingerprint="f", ttl=10_000)

        again = await engine.submit(driver.endpoint, submission(idempotency_key="k", fingerprint="f"))
        assert again == (first, State.IN_QUEUE)
        with pytest.raises(Conflict, match="another body"):
            await engine.submit(driver.endpoint, submission(idempotency_key="k", fingerprint="g"))
        await driver.pass_time(10_001)
        await driver.upkeep()
        with pytest.raises(Conflict, match="no longer kept"):
            await engine.submit(driver.endpoint, submission(idempotency_key="k", fingerprint="f"))

    async def test_many_at_once_are_all_there_once(self, engine: Engine, driver: Driver) -> None:
        ids = await asyncio.gather(*(submit(engine, driver.endpoint) for _ in range(300)))

        assert [job.id for job in await driver.take(capacity=1000)] == ids


class TestStatus:
    async def test_of_no_job(self, engine: Engine, driver: Driver) -> None:
        for call in (engine.status, engine.cancel, engine.retry, engine.poll):
            with pytest.raises(NotFound):
                await call(driver.endpoint, "nobody")
        with pytest.raises(NotFound):
            await engine.read(driver.endpoint, "nobody", 0)

    async def test_of_a_job_of_another_endpoint(self, engine: Engine, driver: Driver) -> None:
        id = await submit(engine, driver.endpoint)

        with pytest.raises(NotFound):
            await engine.status(f"{driver.endpoint}-other", id)

    async def test_from_the_queue_to_the_end(self, engine: Engine, driver: Driver) -> None:
        id = await submit(engine, driver.endpoint)
        queued = await engine.status(driver.endpoint, id)
        (taken,) = await driver.take("w")
        await driver.emit(taken, 1, "1", "2")
        await driver.call("progress", id, 1, '"half"')
        running = await engine.status(driver.endpoint, id)
        await driver.finish(taken, value="null")
        final = await engine.status(driver.endpoint, id)

        assert (queued.state, queued.final, queued.attempt) == (State.IN_QUEUE, False, 0)
        assert (running.state, running.progress, running.chunks, running.worker) == (
            State.IN_PROGRESS, b'"half"', 2, "w",
        )  # fmt: skip
        assert (final.state, final.final, final.output, final.progress) == (State.COMPLETED, True, b"null", None)
        assert final.created <= (final.started or 0) <= (final.finished or 0)

    async def test_of_a_failed_job(self, engine: Engine, driver: Driver) -> None:
        id = await submit(engine, driver.endpoint)
        (taken,) = await driver.take()
        await driver.finish(taken, "FAILED", "error", "ValueError: \u00e9")

        job = await engine.status(driver.endpoint, id)

        assert (job.state, job.error, job.output) == (State.FAILED, "ValueError: \u00e9", None)

    async def test_tells_why_a_job_waits(self, engine: Engine, driver: Driver) -> None:
        ids = [await submit(engine, driver.endpoint) for _ in range(2)]
        reasons = []
        for state in (None, "unhealthy", "initializing", "crashing", "ready"):
            if state:
                await driver.call("renew", state, 30_000, 1, state, "")
            job = await engine.status(driver.endpoint, ids[1])
            assert job.queued is not None
            assert job.queued.position == 2
            reasons.append(job.queued.reason)

        assert reasons == [
            "no_workers",
            "workers_unhealthy",
            "workers_initializing",
            "workers_crashing",
            "at_capacity",
        ]

    async def test_tells_of_a_delayed_retry(self, engine: Engine, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        found = await engine.status(driver.endpoint, job.id)

        assert found.queued == Queued(None, Workers(0, 0, 0, 0, 0), tried=True)
        assert found.queued.reason == "retry_delayed"


class TestChunks:
    async def test_read_goes_on_from_a_position(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "a", "b", "c")

        reading = await engine.read(driver.endpoint, job.id, 1, 1)

        assert (reading.first, reading.chunks, reading.restarted) == (2, [b"b"], 0)
        assert reading.job.state is State.IN_PROGRESS

    async def test_poll_hands_out_once(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "a", "b")
        await driver.finish(job)

        polls = [await engine.poll(driver.endpoint, job.id) for _ in range(2)]

        assert [poll.chunks for poll in polls] == [[b"a", b"b"], []]
        assert [poll.job.state for poll in polls] == [State.COMPLETED] * 2

    async def test_concurrent_polls_share_the_chunks_without_a_duplicate(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, *map(str, range(100)))

        polls = await asyncio.gather(*(engine.poll(driver.endpoint, job.id) for _ in range(20)))

        assert [chunk for poll in polls for chunk in poll.chunks] == [str(i).encode() for i in range(100)]

    async def test_looking_watches_until_unwatch(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        await engine.read(driver.endpoint, job.id, 0)
        assert await driver.field(job.id, "watchers") == engine.wakeups.process

        await engine.unwatch(driver.endpoint, job.id)

        assert await driver.field(job.id, "watchers") is None


class TestChanges:
    async def test_cancel(self, engine: Engine, driver: Driver) -> None:
        id = await submit(engine, driver.endpoint)

        assert (await engine.cancel(driver.endpoint, id)).state is State.CANCELLED
        assert (await engine.cancel(driver.endpoint, id)).state is State.CANCELLED

    async def test_retry(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        with pytest.raises(Conflict, match="IN_PROGRESS"):
            await engine.retry(driver.endpoint, job.id)
        await driver.finish(job, "FAILED", "error", "x")

        await engine.retry(driver.endpoint, job.id)

        assert (await engine.status(driver.endpoint, job.id)).state is State.IN_QUEUE

    async def test_touch(self, engine: Engine, driver: Driver) -> None:
        id = await submit(engine, driver.endpoint, ttl=10_000)

        await engine.touch(driver.endpoint, id, 100_000)

        await driver.pass_time(50_000)
        await driver.upkeep()
        assert (await engine.status(driver.endpoint, id)).state is State.IN_QUEUE

    async def test_purge_in_more_than_one_step(self, engine: Engine, driver: Driver) -> None:
        running = await driver.begin()
        await asyncio.gather(
            *(submit(engine, driver.endpoint, queue="normal" if i % 3 else "low") for i in range(1200))
        )

        assert await engine.purge(driver.endpoint) == 1200

        health = await engine.health(driver.endpoint)
        assert (health.in_queue, health.in_progress) == (0, 1)
        assert await driver.finish(running) == "OK"

    async def test_leave(self, engine: Engine, driver: Driver) -> None:
        await driver.begin("w")

        assert await engine.leave(driver.endpoint, "w") == 1
        assert (await engine.health(driver.endpoint)).in_queue == 1


class TestHealth:
    async def test_counts(self, engine: Engine, driver: Driver) -> None:
        done = await driver.begin("w")
        await driver.finish(done)
        await driver.begin("w")
        await submit(engine, driver.endpoint)
        await driver.call("renew", "w", 30_000, 1, "ready", "")

        health = await engine.health(driver.endpoint)

        assert (health.completed, health.failed, health.in_progress, health.in_queue) == (1, 0, 1, 1)
        assert health.workers == Workers(0, 0, 1, 0, 0)

    async def test_of_no_endpoint(self, engine: Engine, endpoint: str) -> None:
        with pytest.raises(NotFound):
            await engine.health(endpoint)


class TestRequests:
    async def all(self, engine: Engine, endpoint: str, count: int, state: State | None = None) -> list[str]:
        found, cursor = [], None
        for _ in range(1000):
            page = await engine.requests(endpoint, count, cursor, state)
            assert len(page.jobs) <= count
            found += [job.id for job in page.jobs]
            cursor = page.cursor
            if cursor is None:
                return found
        raise AssertionError("the pages do not end")

    @pytest.mark.parametrize("count", [1, 3, 10, 100])
    async def test_pages_show_every_job_once(self, engine: Engine, driver: Driver, count: int) -> None:
        ids = await asyncio.gather(*(submit(engine, driver.endpoint) for _ in range(23)))

        assert sorted(await self.all(engine, driver.endpoint, count)) == sorted(ids)

    @pytest.mark.parametrize("count", [1, 2, 50])
    async def test_pages_of_one_state(self, engine: Engine, driver: Driver, count: int) -> None:
        await asyncio.gather(*(submit(engine, driver.endpoint) for _ in range(40)))
        failed = [job.id for job in await driver.take(capacity=5)]
        for id in failed:
            await driver.call("finish", id, 1, "FAILED", "error", "x")

        assert sorted(await self.all(engine, driver.endpoint, count, State.FAILED)) == sorted(failed)
        assert await self.all(engine, driver.endpoint, count, State.TIMED_OUT) == []

    async def test_shows_no_output(self, engine: Engine, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job, value="[1]")

        (shown,) = (await engine.requests(driver.endpoint, 10, None, None)).jobs

        assert (shown.id, shown.state, shown.output) == (job.id, State.COMPLETED, None)


async def test_a_thousand_cancels_against_takes_and_finishes(engine: Engine, driver: Driver) -> None:
    ids = await asyncio.gather(*(submit(engine, driver.endpoint) for _ in range(1000)))

    async def work(worker: str) -> list[tuple[str, Any]]:
        outcomes: list[tuple[str, Any]] = []
        while jobs := text(await engine.batcher.call(driver.base, "take", worker, 3)):
            for id, attempt, *_ in jobs:
                await asyncio.sleep(0)
                reply = await engine.batcher.call(driver.base, "finish", id, attempt, "COMPLETED", "output", b"1")
                outcomes.append((id, text(reply)))
        return outcomes

    workers = [asyncio.create_task(work(f"w{i}")) for i in range(4)]
    await asyncio.sleep(0)
    cancelled = await asyncio.gather(*(engine.cancel(driver.endpoint, id) for id in reversed(ids)))
    outcomes = {id: reply for outcomes in await asyncio.gather(*workers) for id, reply in outcomes}

    committed = {id for id, reply in outcomes.items() if reply == "OK"}
    assert {job.id for job in cancelled if job.state is State.COMPLETED} == committed
    final = [await driver.state(id) for id in ids]
    assert Counter(final) == Counter({"COMPLETED": len(committed), "CANCELLED": 1000 - len(committed)})
    health = await engine.health(driver.endpoint)
    assert (health.completed, health.in_progress, health.in_queue) == (len(committed), 0, 0)
    assert [await driver.queued(queue) for queue in ("normal", "normal:again")] == [[], []]


BEGINNING = "12345678-1234-4234-a234-"


def many(count: int, **fields: Any) -> Alike:
    """Jobs whose ids begin with `BEGINNING`."""
    like: dict[str, Any] = {"id": BEGINNING, "input": b"", "timeout": 0, "ttl": 60_000, "retention": 60_000}
    return Alike(Submission(**(like | fields)), [b'{"n":1}'] * count)


def ids(*numbers: int) -> list[str]:
    return [f"{BEGINNING}{number:012x}" for number in numbers]


class TestManyAtOnce:
    """Submissions of one request."""

    async def test_they_are_as_those_that_come_alone(self, engine: Engine, driver: Driver) -> None:
        policy = Policy(tries=3, backoff=10, pending=5_000, failed_retention=1000, keep_output=True)
        fields: dict[str, Any] = {
            "timeout": 9_000, "ttl": 70_000, "retention": 80_000, "queue": "low", "policy": policy, "stamp": "-",
        }  # fmt: skip
        await driver.key("HSET", "settings", "webhook", "https://example.com/")
        await engine.submit_many(driver.endpoint, [many(1, **fields)])
        for id in (BEGINNING, "alone"):
            await engine.submit(driver.endpoint, Submission(id=id, input=b'{"n":1}', **fields))
        found = []
        for id in (*ids(1, 2), "alone"):
            assert await driver.key("ZSCORE", "timeouts", id)
            await driver.call("touch", id, 60_000)  # which opens those that were sealed
            flat = await driver.key("HGETALL", f"job:{id}")
            kept = dict(zip(flat[::2], flat[1::2], strict=True))
            assert kept.pop("entry")
            assert int(kept.pop("created"))
            found.append(kept)
        assert found[0] == found[1] == found[2]

    @pytest.mark.parametrize("fair", [0, 1])
    async def test_they_are_handed_over(self, engine: Engine, driver: Driver, fair: int) -> None:
        await driver.change(fair=fair)
        async with await driver.join("w") as listening:
            await driver.call("take", "w", 2)
            assert await engine.submit_many(driver.endpoint, [many(3)]) == ids(1, 2, 3)
            assert await listening.jobs(2) == ids(1, 2)
        assert [job.id for job in await driver.take("other")] == ids(3)

    async def test_each_has_its_own_answer(self, engine: Engine, driver: Driver) -> None:
        await driver.key("HSET", "settings", "max_queued", 3)
        groups = [many(2, unique="one"), many(3, delay=5_000)]
        found = await engine.submit_many(driver.endpoint, groups)
        assert [type(each) for each in found] == [str, Conflict, str, str, TooManyRequests]
        assert await driver.queued() == [found[0]]
        assert await driver.key("ZRANGE", "scheduled:normal", 0, -1) == found[2:4]

    async def test_more_than_one_call_takes(self, engine: Engine, driver: Driver) -> None:
        found = await engine.submit_many(driver.endpoint, [many(MOST_IN_CALL + 5)])
        assert found == ids(*range(1, MOST_IN_CALL + 6))
        assert await driver.queued() == found

    async def test_they_are_one_request(self, engine: Engine, driver: Driver) -> None:
        limit = "key:add 2 0 0 gw 1"
        groups = [many(50), many(1, timeout=9_000)]
        for _ in range(2):
            await engine.submit_many(driver.endpoint, groups, limit)
        with pytest.raises(TooManyRequests):
            await engine.submit_many(driver.endpoint, groups, limit)
        assert len(await driver.queued()) == 102

    async def test_other_settings(self, engine: Engine, driver: Driver) -> None:
        with pytest.raises(Changed):
            await engine.submit_many(driver.endpoint, [many(3, stamp="99.1")])
        assert await driver.queued() == []

    async def test_what_is_queued_before_something_goes_wrong_is_told(self, engine: Engine, driver: Driver) -> None:
        found = await engine.submit_many(driver.endpoint, [many(5), many(2, stamp="99.1"), many(1)])
        assert [type(each) for each in found] == [str] * 5 + [Conflict] * 2 + [str]
        assert await driver.queued() == [id for id in found if isinstance(id, str)]

    async def test_no_endpoint(self, engine: Engine, driver: Driver) -> None:
        with pytest.raises(NotFound):
            await engine.submit_many("none", [many(1)])

    async def test_a_queue_that_is_disabled(self, engine: Engine, driver: Driver) -> None:
        await driver.key("HSET", "settings", "closed", "normal")
        with pytest.raises(NotFound, match=r"\.default is disabled"):
            await submit(engine, driver.endpoint)


class TestTasks:
    async def test_shows_what_there_is(self, engine: Engine, driver: Driver) -> None:
        policy = Policy(tries=3, backoff=10, pending=0, failed_retention=1000, keep_output=True)
        job = Submission("t", b'{"a":1}', 5_000, 60_000, 60_000, policy=policy, delay=30_000)
        await engine.submit(driver.endpoint, job)
        task = await engine.task(driver.endpoint, "t")
        assert (task.state, task.queue, task.payload, task.tries) == ("scheduled", "normal", b'{"a":1}', 0)
        assert (task.policy, task.timeout, task.last_error, task.failed_at) == (policy, 5_000, "", None)
        assert task.next_at == task.job.created + 30_000
        assert await engine.tasks(driver.endpoint, ["normal", "low"], "scheduled", 0, 10) == [task]

        await engine.run_now(driver.endpoint, "t")
        await driver.call("take", "w", 1)
        await driver.call("finish", "t", 1, "RETRY", "error", "no luck")
        task = await engine.task(driver.endpoint, "t")
        assert (task.state, task.tries, task.last_error, task.job.state) == ("retry", 1, "no luck", State.IN_QUEUE)
        assert task.failed_at is not None

    async def test_counts_and_pauses(self, engine: Engine, driver: Driver) -> None:
        await driver.submit()
        assert await engine.pause(driver.endpoint, ["normal"], paused=True) == ["normal"]
        normal, low = await engine.queues(driver.endpoint)
        assert (normal.queue, normal.pending, normal.active, normal.paused) == ("normal", 1, 0, True)
        assert (low.queue, low.pending, low.paused) == ("low", 0, False)
        for call in (engine.queues("none"), engine.pause("none", [], paused=True), engine.task("none", "x")):
            with pytest.raises(NotFound):
                await call

    async def test_deletes(self, engine: Engine, driver: Driver) -> None:
        running, waiting = (await driver.begin()).id, await driver.submit()
        with pytest.raises(Conflict):
            await engine.delete(driver.endpoint, running)
        with pytest.raises(Conflict):
            await engine.run_now(driver.endpoint, running)
        await engine.delete(driver.endpoint, waiting)
        for call in (engine.delete(driver.endpoint, waiting), engine.run_now(driver.endpoint, waiting)):
            with pytest.raises(NotFound):
                await call

    async def test_clears_in_steps(self, engine: Engine, driver: Driver) -> None:
        await engine.submit_many(driver.endpoint, [many(1000)])
        assert await engine.clear(driver.endpoint, "normal") == 1000
        assert await driver.queued() == []
