"""What time does to jobs and workers: leases, timeouts, times to live, delayed retries, silence."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from .driver import DAY_MS, LEASE_MS, Driver

pytestmark = pytest.mark.every_store


async def renew(driver: Driver, worker: str, *held: Any, state: str = "ready", gone: int = 30_000) -> Any:
    pairs = [part for job in held for part in (job.id, job.attempt)]
    return await driver.call("renew", worker, gone, 1, state, "", *pairs)


class TestLeases:
    async def test_a_lost_lease_queues_the_job_again(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.silence()

        assert (await driver.upkeep())["leases"] == 1

        (again,) = await driver.take("v")
        assert (again.id, again.attempt) == (job.id, 2)
        assert await driver.finish(job) == ["STALE", "IN_PROGRESS"]

    async def test_a_fresh_lease_is_left_alone(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.silence(LEASE_MS - 5000)

        assert (await driver.upkeep())["leases"] == 0

        assert await driver.finish(job) == "OK"

    async def test_are_left_alone_when_upkeep_is_told_so(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.silence()
        await driver.pass_time(3000)  # in which upkeep has not come by

        assert (await driver.upkeep(settle=5000))["leases"] == 0
        assert await driver.state(job.id) == "IN_PROGRESS"

    async def test_stay_with_silent_workers_when_upkeep_is_told_so(self, driver: Driver) -> None:
        # Once: a worker silent for as long as a frozen store had stood still was forgotten, and with it its leases.
        job = await driver.begin()
        await renew(driver, "w", job, gone=1000)
        await driver.pass_time(LEASE_MS + 3000)

        assert (await driver.upkeep(settle=5000))["workers"] == []

        assert await driver.finish(job) == "OK"

    async def test_a_claim_without_a_start_is_put_back_and_was_no_attempt(self, driver: Driver) -> None:
        await driver.submit()
        await driver.deliver("w")
        await driver.silence()

        await driver.upkeep()

        assert [job.attempt for job in await driver.take("w")] == [1]
        assert len(await driver.leases()) == 1

    async def test_at_the_limit_the_job_fails_with_the_reason(self, driver: Driver) -> None:
        await driver.submit()
        for _ in range(3):
            (job,) = await driver.take("w")
            await driver.silence()
            await driver.upkeep()

        assert await driver.state(job.id) == "FAILED"
        assert await driver.field(job.id, "error") == "the worker gave no sign of life for 30000 ms (attempt 3 of 3)"
        assert await driver.leases() == []

    async def test_an_attempt_limit_of_one_gives_at_most_once(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        job = await driver.begin()
        await driver.silence()

        await driver.upkeep()

        assert await driver.state(job.id) == "FAILED"
        assert await driver.take() == []

    async def test_are_recovered_in_steps_of_bounded_size(self, driver: Driver) -> None:
        for _ in range(25):
            await driver.submit()
        await driver.take("w", 25)
        await driver.silence()

        recovered = [(await driver.upkeep(most=10))["leases"] for _ in range(4)]

        assert (sum(recovered), max(recovered)) == (25, 10)
        assert await driver.leases() == []

    async def test_a_duplicate_entry_whose_worker_died_is_dropped(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.key("XADD", "queue:normal", "1000-0", "job", job.id)
        await driver.deliver("v")
        await driver.silence()
        await renew(driver, "w", job)

        await driver.upkeep()

        assert await driver.state(job.id) == "IN_PROGRESS"
        assert [worker for _, _, worker in await driver.leases()] == ["w"]

    async def test_tell_the_old_worker_to_stop(self, driver: Driver) -> None:
        job = await driver.begin("w")
        pubsub: Any = driver.store.node_of(driver.base).pubsub()
        await pubsub.ssubscribe(f"{driver.base}:stops:w")
        await pubsub.get_message(timeout=5)
        await driver.silence()

        await driver.upkeep()

        message = await pubsub.get_message(timeout=5)
        await pubsub.aclose()
        assert message["data"] == f"{job.id} 1 LOST".encode()


class TestRenew:
    async def test_keeps_the_lease(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.silence()

        assert await renew(driver, "w", job) == []

        assert (await driver.upkeep())["leases"] == 0

    async def test_keeps_what_was_given_and_has_not_begun(self, driver: Driver) -> None:
        """Jobs that wait in a busy process: 300 of them, more than are read at once."""
        for _ in range(300):
            await driver.begin("w")
        await driver.silence()

        assert await renew(driver, "w") == []

        assert (await driver.upkeep())["leases"] == 0
        assert [worker for _, _, worker in await driver.leases()] == ["w"] * 300

    async def test_replies_with_what_was_lost(self, driver: Driver) -> None:
        cancelled, finished, lost, kept = [await driver.begin("w") for _ in range(4)]
        await driver.call("cancel", cancelled.id)
        await driver.finish(finished)
        await driver.call("lose", lost.id, lost.attempt, "gone")

        lapsed = await renew(driver, "w", cancelled, finished, lost, kept)

        assert lapsed == [cancelled.id, "1", "CANCELLED", lost.id, "1", "IN_QUEUE"]

    async def test_replies_with_what_another_attempt_has_finished(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.call("lose", job.id, job.attempt, "gone")
        (again,) = await driver.take("v")
        await driver.finish(again)

        assert await renew(driver, "w", job) == [job.id, "1", "COMPLETED"]

    async def test_does_not_take_a_job_back_from_its_new_worker(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await driver.silence()
        await driver.upkeep()
        (again,) = await driver.take("v")

        assert await renew(driver, "w", job) == [job.id, "1", "IN_PROGRESS"]
        assert await renew(driver, "w", again) == [job.id, "2", "LOST"]

        assert [worker for _, _, worker in await driver.leases()] == ["v"]

    async def test_of_a_forgotten_job_says_gone(self, driver: Driver) -> None:
        job = await driver.begin("w", ttl=10_000)
        await driver.pass_time(10_001)
        await driver.upkeep()

        assert await renew(driver, "w", job) == [job.id, "1", "GONE"]

    async def test_keeps_the_description_until_it_changes(self, driver: Driver) -> None:
        await driver.call("renew", "w", 30_000, 2, "ready", '{"gpu":1}')
        await driver.call("renew", "w", 30_000, 3, "ready", "")

        fields = await driver.key("HMGET", "worker:w", "description", "concurrency", "state")

        assert fields == ['{"gpu":1}', "3", "ready"]
        assert await driver.key("PTTL", "worker:w") > 0

    async def test_after_the_endpoint_is_gone_leaves_nothing(self, driver: Driver) -> None:
        await renew(driver, "w")
        assert await driver.call("remove", 100) == 1

        with pytest.raises(ResponseError, match="NOGROUP"):
            await renew(driver, "w")

        assert [key for key in await driver.keys() if await driver.key("PTTL", key) == -1] == []


class TestLeave:
    async def test_puts_back_what_the_worker_holds(self, driver: Driver) -> None:
        running = await driver.begin("w")
        delivered = await driver.submit()
        await driver.deliver("w")
        other = await driver.begin("v")
        await renew(driver, "w", running)

        assert await driver.call("leave", "w") == 2

        assert await driver.queued("normal:again") == [running.id, delivered]
        assert [worker for _, _, worker in await driver.leases()] == ["v"]
        assert await driver.finish(other) == "OK"
        assert not {"workers", "worker:w"} & await driver.keys()

    async def test_counts_as_an_attempt(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        job = await driver.begin("w")

        await driver.call("leave", "w")

        assert await driver.state(job.id) == "FAILED"
        assert await driver.field(job.id, "error") == "worker w left before the job ended (attempt 1 of 1)"

    async def test_more_than_one_step_of_jobs(self, driver: Driver) -> None:
        for _ in range(250):
            await driver.submit()
        await driver.take("w", 250)

        assert await driver.call("leave", "w") == 250

        assert await driver.leases() == []
        assert len(await driver.queued("normal:again")) == 250

    async def test_of_an_unknown_worker(self, driver: Driver) -> None:
        assert await driver.call("leave", "nobody") == 0

    async def test_removes_the_consumer(self, driver: Driver) -> None:
        await driver.begin("w")

        await driver.call("leave", "w")

        consumers = await driver.raw("XINFO", "CONSUMERS", f"{driver.base}:queue:normal", "workers")
        assert consumers == []


class TestTimeouts:
    async def test_end_the_job(self, driver: Driver) -> None:
        job = await driver.begin(timeout=5000)
        await driver.pass_time(5001)

        assert (await driver.upkeep())["timeouts"] == 1

        assert await driver.state(job.id) == "TIMED_OUT"
        assert await driver.field(job.id, "error") == "the job ran longer than its executionTimeout of 5000 ms"
        assert await driver.finish(job) == ["STALE", "TIMED_OUT"]
        assert await driver.leases() == []

    async def test_count_only_while_the_job_runs(self, driver: Driver) -> None:
        id = await driver.submit(timeout=5000)
        await driver.pass_time(60_000)
        await driver.upkeep()
        (job,) = await driver.take()
        await driver.pass_time(4000)

        assert (await driver.upkeep())["timeouts"] == 0
        assert await driver.state(id) == "IN_PROGRESS"
        assert await driver.finish(job) == "OK"

    async def test_begin_anew_with_each_attempt(self, driver: Driver) -> None:
        job = await driver.begin(timeout=5000)
        await driver.pass_time(4000)
        await driver.call("lose", job.id, 1, "gone")
        await driver.pass_time(4000)
        await driver.upkeep()
        (again,) = await driver.take()
        await driver.pass_time(4000)

        assert (await driver.upkeep())["timeouts"] == 0
        assert await driver.finish(again) == "OK"

    async def test_are_handled_in_steps(self, driver: Driver) -> None:
        for _ in range(5):
            await driver.submit(timeout=5000)
        await driver.take(capacity=5)
        await driver.pass_time(5001)

        assert [(await driver.upkeep(most=2))["timeouts"] for _ in range(4)] == [2, 2, 1, 0]


class TestTimeToLive:
    @pytest.mark.parametrize("state", ["queued", "delivered", "running", "delayed", "final"])
    async def test_over_the_job_is_gone(self, driver: Driver, state: str) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", DAY_MS)
        id = await driver.submit(ttl=10_000, retention=10_000)
        if state == "delivered":
            await driver.deliver()
        elif state != "queued":
            (job,) = await driver.take()
            await driver.emit(job, 1, "1")
            if state == "delayed":
                await driver.call("lose", id, 1, "gone")
            elif state == "final":
                await driver.finish(job)
        await driver.pass_time(10_001)

        assert (await driver.upkeep())["forgotten"] == 1

        assert await driver.call("status", id, "") == []
        assert not {f"job:{id}", f"chunks:{id}", "lifetimes", "timeouts", "delayed"} & await driver.keys()
        assert await driver.leases() == []
        assert await driver.take() == []

    async def test_a_worker_hears_that_its_job_is_gone(self, driver: Driver) -> None:
        job = await driver.begin(ttl=10_000)
        await driver.pass_time(10_001)
        await driver.upkeep()

        assert await driver.finish(job) == ["STALE", "GONE"]
        assert await driver.emit(job, 1, "1") == ["STALE", "GONE"]
        assert await driver.call("progress", job.id, 1, "1") == ["STALE", "GONE"]
        assert await driver.call("lose", job.id, 1, "x") == ["STALE", "GONE"]
        assert not {f"job:{job.id}", f"chunks:{job.id}"} & await driver.keys()

    async def test_a_final_job_is_kept_for_its_retention(self, driver: Driver) -> None:
        job = await driver.begin(ttl=DAY_MS, retention=60_000)
        await driver.finish(job)
        await driver.pass_time(59_000)
        await driver.upkeep()
        assert await driver.state(job.id) == "COMPLETED"

        await driver.pass_time(1_001)
        await driver.upkeep()

        assert await driver.call("status", job.id, "") == []

    async def test_can_be_set_again(self, driver: Driver) -> None:
        job = await driver.begin(ttl=10_000)
        await driver.emit(job, 1, "1")

        assert await driver.call("touch", job.id, 100_000) == 1

        await driver.pass_time(99_000)
        assert (await driver.upkeep())["forgotten"] == 0
        assert await driver.key("PEXPIRETIME", f"chunks:{job.id}") == await driver.key("PEXPIRETIME", f"job:{job.id}")
        await driver.pass_time(1_001)
        assert (await driver.upkeep())["forgotten"] == 1

    async def test_of_no_job_cannot_be_set(self, driver: Driver) -> None:
        assert await driver.call("touch", "nobody", 100_000) == 0
        assert "lifetimes" not in await driver.keys()

    async def test_an_entry_outlives_its_job_at_most_until_it_is_met(self, driver: Driver) -> None:
        id, other = await driver.submit(), await driver.submit()
        await driver.key("UNLINK", f"job:{id}")

        assert [job.id for job in await driver.take(capacity=2)] == [other]
        assert await driver.queued() == [other]


class TestDelayedRetries:
    async def test_wait_for_their_time(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await driver.begin(queue="low")
        await driver.call("lose", job.id, 1, "gone")
        await driver.pass_time(59_000)
        assert (await driver.upkeep())["delayed"] == 0
        assert await driver.take() == []

        await driver.pass_time(1_001)

        assert (await driver.upkeep())["delayed"] == 1
        assert await driver.queued("low:again") == [job.id]
        assert [taken.attempt for taken in await driver.take()] == [2]
        assert await driver.key("ZCARD", "delayed") == 0

    async def test_count_as_waiting(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await driver.begin()

        await driver.call("lose", job.id, 1, "gone")

        assert (await driver.call("health"))[:5] == [0, 0, 0, 1, 1]

    async def test_do_not_delay_what_was_never_begun(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        id = await driver.submit()
        await driver.deliver("w")

        await driver.call("leave", "w")

        assert await driver.queued("normal:again") == [id]


class TestWorkers:
    async def counts(self, driver: Driver) -> list[int]:
        """Workers that are initializing, idle, running, unhealthy, crashing."""
        found: list[int] = (await driver.call("health"))[5:]
        return found

    async def test_are_counted_by_what_they_do(self, driver: Driver) -> None:
        await renew(driver, "a", state="initializing")
        await renew(driver, "b")
        await renew(driver, "c", state="unhealthy")
        job = await driver.begin("d")
        await renew(driver, "d", job)
        await renew(driver, "e", state="crashing")

        assert await self.counts(driver) == [1, 1, 1, 1, 1]
        await driver.finish(job)
        assert await self.counts(driver) == [1, 2, 0, 1, 1]

    async def test_that_are_silent_do_not_count(self, driver: Driver) -> None:
        await renew(driver, "w", gone=10_000)

        await driver.pass_time(10_001)

        assert await self.counts(driver) == [0, 0, 0, 0, 0]

    async def test_that_are_silent_for_long_are_forgotten(self, driver: Driver) -> None:
        await renew(driver, "w", gone=10_000)
        await driver.pass_time(10_000 + LEASE_MS)
        assert (await driver.upkeep())["workers"] == []

        await driver.pass_time(1_001)

        assert (await driver.upkeep())["workers"] == ["w"]
        assert not {"workers", "worker:w"} & await driver.keys()

    async def test_that_are_forgotten_give_their_jobs_back(self, driver: Driver) -> None:
        job = await driver.begin("w")
        await renew(driver, "w", job, gone=10_000)
        await driver.pass_time(10_000 + LEASE_MS + 1_001)

        await driver.upkeep()

        assert await driver.state(job.id) == "IN_QUEUE"
        assert await driver.leases() == []

    async def test_are_part_of_the_status_of_a_queued_job(self, driver: Driver) -> None:
        await renew(driver, "w", state="initializing")
        id = await driver.submit()

        assert (await driver.call("status", id, ""))[10:] == [0, 1, 0, 0, 0, 0, 0]
