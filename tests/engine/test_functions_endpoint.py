"""What is done to an endpoint as a whole: settings, counts, lists, purge, removal; and that nothing is left behind."""

import pytest

from .driver import DAY_MS, QUEUES, Driver

pytestmark = pytest.mark.every_store

STREAMS = {f"queue:{queue}" for queue in QUEUES}


async def unowned(driver: Driver) -> set[str]:
    """Keys that neither expire nor belong to an endpoint without jobs and workers."""
    found = await driver.keys() - STREAMS - {"settings", "counts", "waiting"}
    return {key for key in found if await driver.key("PTTL", key) == -1}


class TestConfigure:
    async def test_makes_an_endpoint_once(self, driver: Driver) -> None:
        assert await driver.call("configure", "", "attempts", 9) == "EXISTS"

        assert await driver.key("HMGET", "settings", "version", "attempts") == ["1", "3"]

    async def test_changes_the_version_that_was_read(self, driver: Driver) -> None:
        assert await driver.call("configure", 1, "attempts", 5) == "OK"
        assert await driver.call("configure", 1, "attempts", 7) == "CHANGED"

        assert await driver.key("HMGET", "settings", "version", "attempts", "lease_ms") == ["2", "5", "30000"]

    async def test_does_not_make_what_is_not_there(self, driver: Driver) -> None:
        other = Driver(driver.store, f"{driver.endpoint}-other")

        assert await other.call("configure", 1, "attempts", 5) == "NO_ENDPOINT"

        assert await other.keys() == set()

    async def test_keeps_the_jobs(self, driver: Driver) -> None:
        id = await driver.submit()

        await driver.call("configure", 1, "attempts", 5)

        assert [job.id for job in await driver.take()] == [id]


class TestHealth:
    async def test_counts_what_is_and_what_was(self, driver: Driver) -> None:
        completed, failed, timed_out, cancelled = [await driver.begin(timeout=t) for t in (0, 0, 5000, 0)]
        await driver.finish(completed)
        await driver.finish(failed, "FAILED", "error", "x")
        await driver.call("cancel", cancelled.id)
        await driver.pass_time(5001)
        await driver.upkeep()
        await driver.call("retry", timed_out.id)
        for queue in ("normal", "low", "low"):
            await driver.submit(queue=queue)
        await driver.take(capacity=1)

        assert (await driver.call("health"))[:5] == [1, 2, 1, 3, 1]

    async def test_is_exact_after_cancels_in_the_middle(self, driver: Driver) -> None:
        ids = [await driver.submit() for _ in range(10)]
        await driver.take(capacity=3)
        for id in ids[1:8:2]:
            await driver.call("cancel", id)

        assert (await driver.call("health"))[2:4] == [2, 4]

    async def test_of_no_endpoint(self, driver: Driver) -> None:
        assert await Driver(driver.store, f"{driver.endpoint}-other").call("health") == []


class TestList:
    async def pages(self, driver: Driver, size: int) -> list[str]:
        """All ids, page by page, as a client with a cursor walks through them."""
        found: list[str] = []
        place = ["0", 0]
        while place[0] != "":
            rows, *place = await driver.call("list", *place, size)
            found += [row[0] for row in rows]
        return found

    async def test_shows_the_job_that_is_kept_longest_first(self, driver: Driver) -> None:
        await driver.submit("a", ttl=20_000)
        await driver.submit("b", ttl=30_000)
        await driver.submit("c", ttl=10_000)

        rows, *_ = await driver.call("list", "0", 0, 10)

        assert [(row[0], row[3]) for row in rows] == [("b", "IN_QUEUE"), ("a", "IN_QUEUE"), ("c", "IN_QUEUE")]

    async def test_says_what_is_known_of_each(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.finish(job)

        ((id, _, _, state, created, started, finished, worker, attempt),), *_ = await driver.call("list", "0", 0, 10)

        assert (id, state, worker, attempt) == (job.id, "COMPLETED", "w", "1")
        assert int(created) <= int(started) <= int(finished)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    async def test_pages_through_equal_times(self, driver: Driver, size: int) -> None:
        # All jobs of one call share their time.
        for first in range(0, 12, 6):
            jobs = [part for i in range(6) for part in driver.submission(f"j{first + i}")]
            await driver.call("submit", *jobs)

        found = await self.pages(driver, size)

        assert sorted(found) == sorted(f"j{i}" for i in range(12))


class TestPurge:
    async def test_removes_what_waits_and_leaves_what_runs(self, driver: Driver) -> None:
        running = await driver.begin()
        waiting = [await driver.submit(queue=queue) for queue in ("normal", "low", "normal")]

        assert await driver.call("purge", 100) == 3

        assert [await driver.state(id) for id in waiting] == ["CANCELLED"] * 3
        assert await driver.take(capacity=9) == []
        assert await driver.finish(running) == "OK"

    async def test_in_steps(self, driver: Driver) -> None:
        for _ in range(5):
            await driver.submit()
        for _ in range(2):
            await driver.submit(queue="low")

        assert [await driver.call("purge", 3) for _ in range(4)] == [3, 3, 1, 0]

    async def test_removes_delayed_retries(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        for job in [await driver.begin() for _ in range(3)]:
            await driver.call("lose", job.id, 1, "gone")

        assert [await driver.call("purge", 2) for _ in range(3)] == [2, 1, 0]

        assert await driver.key("ZCARD", "delayed") == 0
        assert (await driver.call("health"))[2:4] == [0, 0]

    async def test_removes_what_went_back_to_the_front(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        assert await driver.call("purge", 10) == 1

        assert await driver.state(job.id) == "CANCELLED"

    async def test_fewer_than_asked_for_means_that_none_are_left(self, driver: Driver) -> None:
        # Once: leftovers count against the number asked for, so that the last step leaves jobs behind.
        leftover = await driver.begin()
        for number in (1000, 1001, 1002):
            await driver.key("XADD", "queue:normal", f"{number}-0", "job", leftover.id)
        await driver.key("HSET", "counts", "entries:normal", 1002)
        waiting = [await driver.submit() for _ in range(3)]

        while await driver.call("purge", 3) == 3:
            pass

        assert [await driver.state(id) for id in waiting] == ["CANCELLED"] * 3
        assert await driver.state(leftover.id) == "IN_PROGRESS"


class TestRemove:
    async def fill(self, driver: Driver) -> None:
        """Jobs in every state, chunks, workers."""
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        finished, delayed, running = [await driver.begin("w") for _ in range(3)]
        await driver.emit(running, 1, "1")
        await driver.finish(finished)
        await driver.call("lose", delayed.id, 1, "gone")
        await driver.submit()
        await driver.deliver("w")
        for queue in ("normal", "low"):
            await driver.submit(queue=queue)
        await driver.call("renew", "w", 30_000, 1, "ready", "{}", running.id, 1)

    @pytest.mark.parametrize("most", [1, 2, 100])
    async def test_leaves_no_key(self, driver: Driver, most: int) -> None:
        await self.fill(driver)

        for _ in range(50):
            if await driver.call("remove", most):
                break

        assert await driver.keys() == set()

    async def test_refuses_new_jobs_from_the_first_step_on(self, driver: Driver) -> None:
        await self.fill(driver)

        assert await driver.call("remove", 1) == 0

        assert await driver.call("submit", *driver.submission("late")) == "NO_ENDPOINT"
        assert await driver.call("health") == []

    async def test_twice(self, driver: Driver) -> None:
        await driver.call("remove", 100)

        assert await driver.call("remove", 100) == -1
        assert not any((await driver.upkeep()).values())
        assert await driver.keys() == set()

    async def test_the_id_can_be_used_again(self, driver: Driver) -> None:
        await driver.submit()
        await driver.call("remove", 100)

        await driver.configure()

        id = await driver.submit("new")
        assert [job.id for job in await driver.take()] == [id]


class TestNothingIsLeftBehind:
    async def one_of_each_end(self, driver: Driver) -> None:
        jobs = [await driver.begin(watcher="p", timeout=5000) for _ in range(6)]
        for job in jobs:
            await driver.emit(job, 1, "1", "2")
        await driver.finish(jobs[0])
        await driver.finish(jobs[1], "FAILED", "error", "x")
        await driver.call("cancel", jobs[2].id)
        await driver.call("lose", jobs[3].id, 1, "gone")
        await driver.call("cancel", jobs[3].id)
        await driver.silence()
        await driver.upkeep()
        await driver.call("purge", 10)
        timed_out = await driver.begin(timeout=5000, key="k", fingerprint="f")
        await driver.pass_time(5001)
        await driver.upkeep()
        assert await driver.state(timed_out.id) == "TIMED_OUT"

    async def test_when_all_jobs_are_done_every_key_expires_or_belongs_to_the_endpoint(self, driver: Driver) -> None:
        await driver.call("renew", "w", 30_000, 1, "ready", "{}")
        await self.one_of_each_end(driver)
        await driver.call("leave", "w")

        # Retention goes by the list of lifetimes, which upkeep empties.
        assert await unowned(driver) == {"lifetimes", "archived:normal", "completed:normal"}
        assert [await driver.queued(queue) for queue in QUEUES] == [[]] * 4
        assert await driver.leases() == []
        assert (await driver.call("health"))[2:4] == [0, 0]

    async def test_when_their_time_is_over_only_the_endpoint_is_left(self, driver: Driver) -> None:
        await self.one_of_each_end(driver)
        await driver.call("leave", "w")

        await driver.pass_time(DAY_MS)
        await driver.upkeep()

        assert await driver.keys() - {"idempotency:k"} == {"settings", "counts"} | STREAMS

    async def test_memory_goes_back_to_where_it_was(self, driver: Driver) -> None:
        jobs = 200

        async def memory_after_all_is_over() -> int:
            for _ in range(jobs):
                await driver.submit(input=f'"{"x" * 1000}"')
            for job in await driver.take("w", jobs):
                await driver.emit(job, 1, "y" * 1000)
                await driver.finish(job, value="z" * 1000)
            await driver.pass_time(DAY_MS)
            while (await driver.upkeep())["forgotten"]:
                pass
            await driver.call("leave", "w")
            return sum([await driver.raw("MEMORY", "USAGE", f"{driver.base}:{key}") for key in await driver.keys()])

        before = await memory_after_all_is_over()

        # Less than a byte a job: streams give their memory back in blocks.
        assert await memory_after_all_is_over() - before < jobs
