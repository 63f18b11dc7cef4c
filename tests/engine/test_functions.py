"""The life of one job: submit, take, emit, progress, finish, cancel, retry, and what clients read of it."""

import json
from typing import Any

import pytest
from redis.exceptions import ResponseError

from .driver import DAY_MS, Driver, Taken

pytestmark = pytest.mark.every_store

MEGABYTE = 1024 * 1024


async def chunks_of(driver: Driver, id: str) -> list[tuple[int, str]]:
    """(position, chunk) of all that is kept."""
    found = await driver.key("XRANGE", f"chunks:{id}", "-", "+")
    return [(int(entry.split("-")[0]), fields[1]) for entry, fields in found]


async def lose(driver: Driver, job: Taken) -> Taken:
    """Loses the attempt and begins the next."""
    assert await driver.call("lose", job.id, job.attempt, "gone") == "OK"
    (again,) = await driver.take("w")
    assert again.id == job.id
    return again


class TestSubmit:
    async def test_puts_each_job_into_its_queue(self, driver: Driver) -> None:
        jobs = driver.submission("a") + driver.submission("b", queue="low") + driver.submission("c")

        assert await driver.call("submit", *jobs) == ["NEW"] * 3

        assert await driver.queued("normal") == ["a", "c"]
        assert await driver.queued("low") == ["b"]
        assert [await driver.state(id) for id in "abc"] == ["IN_QUEUE"] * 3

    async def test_without_an_endpoint_leaves_nothing(self, driver: Driver) -> None:
        other = Driver(driver.store, f"{driver.endpoint}-other")

        assert await other.call("submit", *other.submission("a")) == "NO_ENDPOINT"

        assert await other.keys() == set()

    async def test_the_payload_comes_back_as_it_was(self, driver: Driver) -> None:
        payload = '{"n": 1.0, "text": "\u00e9\\u00e9 \\n", "empty": [] }'

        job = await driver.begin(input=payload, request='{"webhook":"x"}', timeout=7000)

        assert job == Taken(job.id, 1, 7000, payload, '{"webhook":"x"}')

    async def test_takes_the_timeout_of_the_endpoint_when_it_has_none(self, driver: Driver) -> None:
        job = await driver.begin(timeout=0)

        assert job.timeout == 600_000

    async def test_an_error_in_a_batch_does_not_stop_the_queue(self, driver: Driver) -> None:
        # Once: the numbers of the entries are stored only at the end, so that an error in between leaves the queue
        # with an entry of a number that the next submission tries to use again, for ever.
        broken = [*driver.submission("a"), *driver.submission("b")]
        broken[len(driver.submission("a")) + 4] = "not a number"
        with pytest.raises(ResponseError):
            await driver.call("submit", *broken)

        assert await driver.call("submit", *driver.submission("c")) == ["NEW"]

    async def test_is_idempotent_by_key(self, driver: Driver) -> None:
        await driver.submit("a", key="k", fingerprint="f")

        again = await driver.call("submit", *driver.submission("b", key="k", fingerprint="f"))

        assert again == [["SAME", "a", "IN_QUEUE"]]
        assert await driver.queued() == ["a"]
        assert await driver.state("b") is None

    async def test_is_idempotent_within_one_call(self, driver: Driver) -> None:
        jobs = driver.submission("a", key="k", fingerprint="f") + driver.submission("b", key="k", fingerprint="f")

        assert await driver.call("submit", *jobs) == ["NEW", ["SAME", "a", "IN_QUEUE"]]

    async def test_the_same_key_finds_a_finished_job(self, driver: Driver) -> None:
        job = await driver.begin(key="k", fingerprint="f")
        await driver.finish(job)

        again = await driver.call("submit", *driver.submission("b", key="k", fingerprint="f"))

        assert again == [["SAME", job.id, "COMPLETED"]]

    async def test_a_key_used_with_another_body_is_a_conflict(self, driver: Driver) -> None:
        await driver.submit("a", key="k", fingerprint="f")

        other = await driver.call("submit", *driver.submission("b", key="k", fingerprint="g", input="[]"))

        assert other == [["CONFLICT", "a"]]
        assert await driver.state("b") is None

    async def test_a_key_of_a_job_that_is_over_says_so(self, driver: Driver) -> None:
        await driver.submit("a", key="k", fingerprint="f", ttl=10_000)
        await driver.pass_time(10_001)
        await driver.upkeep()

        assert await driver.call("submit", *driver.submission("b", key="k", fingerprint="f")) == [["FORGOTTEN", "a"]]

    async def test_a_key_lives_as_long_as_its_job_may(self, driver: Driver) -> None:
        await driver.submit("a", key="short", fingerprint="f", ttl=10_000)
        await driver.submit("b", key="long", fingerprint="f", ttl=7 * DAY_MS)

        assert DAY_MS - 60_000 < await driver.key("PTTL", "idempotency:short") <= DAY_MS
        assert 7 * DAY_MS - 60_000 < await driver.key("PTTL", "idempotency:long") <= 7 * DAY_MS


class TestTake:
    async def test_begins_the_first_attempt(self, driver: Driver) -> None:
        job = await driver.begin("w1")

        assert job.attempt == 1
        assert await driver.state(job.id) == "IN_PROGRESS"
        assert await driver.field(job.id, "worker") == "w1"
        assert [worker for _, _, worker in await driver.leases()] == ["w1"]

    async def test_serves_in_order_of_submission(self, driver: Driver) -> None:
        ids = [await driver.submit() for _ in range(5)]

        assert [job.id for job in await driver.take(capacity=5)] == ids

    @pytest.mark.parametrize("capacity", [0, 1, 3, 10])
    async def test_takes_no_more_than_the_capacity(self, driver: Driver, capacity: int) -> None:
        ids = [await driver.submit() for _ in range(5)]

        taken = await driver.take(capacity=capacity)

        assert [job.id for job in taken] == ids[:capacity]
        assert len(await driver.leases()) == min(capacity, 5)

    async def test_low_priority_comes_strictly_after_normal(self, driver: Driver) -> None:
        low = await driver.submit(queue="low")
        normal = [await driver.submit() for _ in range(3)]

        assert [job.id for job in await driver.take(capacity=2)] == normal[:2]
        assert [job.id for job in await driver.take(capacity=2)] == [normal[2], low]

    async def test_low_priority_stays_last_when_it_is_queued_again(self, driver: Driver) -> None:
        low = await driver.begin(queue="low")
        other_low = await driver.submit(queue="low")
        await driver.call("lose", low.id, low.attempt, "gone")
        normal = await driver.submit()

        assert [job.id for job in await driver.take(capacity=3)] == [normal, low.id, other_low]

    async def test_a_job_that_is_queued_again_goes_to_the_front(self, driver: Driver) -> None:
        job = await driver.begin()
        waiting = [await driver.submit() for _ in range(2)]
        await driver.call("lose", job.id, job.attempt, "gone")

        assert [taken.id for taken in await driver.take(capacity=3)] == [job.id, *waiting]

    async def test_a_duplicate_entry_is_executed_once(self, driver: Driver) -> None:
        id = await driver.submit()
        await driver.key("XADD", "queue:normal", "1000-0", "job", id)

        assert [job.id for job in await driver.take("w", 5)] == [id]

        assert await driver.queued() == [id]
        assert len(await driver.leases()) == 1

    async def test_an_entry_without_a_job_is_dropped(self, driver: Driver) -> None:
        await driver.key("XADD", "queue:normal", "1000-0", "job", "nobody")

        assert await driver.take("w") == []

        assert await driver.queued() == []
        assert await driver.leases() == []

    async def test_each_attempt_has_the_next_number(self, driver: Driver) -> None:
        first = await driver.begin()

        second = await lose(driver, first)

        assert (first.attempt, second.attempt) == (1, 2)
        assert second.input == first.input


class TestHandOver:
    """A worker that has room and listens gets the next job without asking again."""

    async def test_begins_the_job_and_sends_it(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            assert await driver.take("w", 1, 0) == []

            id = await driver.submit(input='{"n":1}', request='{"webhook":"x"}', timeout=7000)

            head, payload = await listening.next() or ([], b"")
        assert head == [str(listening.epoch), id, "1", "7000", "15"]
        assert payload == b'{"webhook":"x"}{"n":1}'
        assert await driver.state(id) == "IN_PROGRESS"
        assert [worker for _, _, worker in await driver.leases()] == ["w"]

    async def test_of_a_large_job_sends_word_to_fetch_it(self, driver: Driver) -> None:
        large = f'"{"x" * 70_000}"'
        async with await driver.join("w") as listening:
            await driver.take("w", 1, 0)
            id = await driver.submit(input=large, request='{"r":1}')
            head, payload = await listening.next() or ([], b"")

        assert (head[1], head[-1], payload) == (id, "-1", b"")
        assert await driver.call("fetch", id, 1) == [large, '{"r":1}']
        assert await driver.call("fetch", id, 2) == ["STALE", "IN_PROGRESS"]
        assert await driver.call("fetch", "nobody", 1) == ["STALE", "GONE"]

    async def test_of_a_large_job_is_answered_without_its_input(self, driver: Driver) -> None:
        large = f'"{"x" * 70_000}"'
        id = await driver.submit(input=large, request='{"r":1}')

        (taken,) = await driver.take("w")

        assert taken == (id, 1, taken.timeout, None, "")
        assert await driver.call("fetch", id, 1) == [large, '{"r":1}']

    async def test_passes_a_worker_by_that_does_not_listen(self, driver: Driver) -> None:
        await driver.take("deaf", 1, 0)

        id = await driver.submit()

        assert await driver.queued() == [id]
        assert await driver.leases() == []
        assert await driver.field(id, "attempt") is None

    async def test_gives_no_more_than_there_is_room_for(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            await driver.take("w", 2, 0)
            ids = [await driver.submit() for _ in range(4)]

            assert await listening.jobs(2) == ids[:2]
            assert await listening.next(0.1) is None
        assert [await driver.state(id) for id in ids] == ["IN_PROGRESS"] * 2 + ["IN_QUEUE"] * 2

    async def test_a_batch_goes_out_in_order_of_priority(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            await driver.take("w", 3, 0)
            jobs = [
                driver.submission(id, queue=queue) for id, queue in (("a", "low"), ("b", "normal"), ("c", "normal"))
            ]

            await driver.call("submit", *(part for job in jobs for part in job))

            assert await listening.jobs(3) == ["b", "c", "a"]

    async def test_jobs_that_come_together_are_shared_among_workers(self, driver: Driver) -> None:
        async with (
            await driver.join("one") as one,
            await driver.join("two") as two,
            await driver.join("three") as three,
        ):
            for worker, room in (("one", 4), ("two", 1), ("three", 9)):
                await driver.take(worker, room)
            jobs = [driver.submission(f"j{number}") for number in range(9)]
            await driver.call("submit", *(part for job in jobs for part in job))
            assert await one.jobs(4) == ["j0", "j1", "j2", "j7"]  # three each, if they take so many, and then the rest
            assert await two.jobs(1) == ["j3"]
            assert await three.jobs(4) == ["j4", "j5", "j6", "j8"]
            assert await driver.key("HGET", "worker:one", "free") == "0"
            assert await driver.key("HGET", "worker:three", "free") == "5"
            assert await driver.key("ZRANGE", "waiting", 0, -1) == ["three"]

    async def test_workers_get_jobs_in_turn(self, driver: Driver) -> None:
        async with await driver.join("v") as first, await driver.join("w") as second:
            await driver.take("v", 3, 0)
            await driver.take("w", 3, 0)
            ids = [await driver.submit() for _ in range(6)]

            assert await first.jobs(3) == ids[::2]
            assert await second.jobs(3) == ids[1::2]

    async def test_a_worker_that_the_store_has_forgotten_gets_no_more_than_it_asks_for(self, driver: Driver) -> None:
        async with await driver.join("w"):
            for _ in range(3):
                await driver.submit()
            assert len(await driver.take("w", 1, 57)) == 1

    async def test_a_worker_that_asks_counts_what_is_on_its_way(self, driver: Driver) -> None:
        async with await driver.join("w"):
            await driver.take("w", 2, 0)
            for _ in range(4):
                await driver.submit()

            # Two are on their way, of which the worker knows nothing yet.
            assert await driver.take("w", 2, 0) == []
            assert len(await driver.take("w", 2, 1)) == 1
            assert len(await driver.leases()) == 3

    @pytest.mark.parametrize("how", ["lose", "leave", "retry", "delayed", "lease"])
    async def test_follows_whatever_queues_a_job(self, driver: Driver, how: str) -> None:
        if how == "delayed":
            await driver.key("HSET", "settings", "retry_delay_ms", 1000)
        job = await driver.begin("v")
        if how == "retry":
            await driver.finish(job, "FAILED", "error", "x")
        async with await driver.join("w") as listening:
            await driver.take("w", 1, 0)
            if how in ("lose", "delayed"):
                await driver.call("lose", job.id, 1, "gone")
                await driver.pass_time(1001)
                await driver.upkeep()
            elif how == "lease":
                await driver.silence()
                await driver.upkeep()
            else:
                await driver.call(how, "v" if how == "leave" else job.id)

            message = await listening.next()
        assert message is not None
        assert message[0][1:3] == [job.id, "2"]

    async def test_a_worker_that_left_gets_nothing(self, driver: Driver) -> None:
        async with await driver.join("w"):
            await driver.take("w", 1, 0)
            await driver.call("leave", "w")

            id = await driver.submit()

            assert await driver.state(id) == "IN_QUEUE"

    async def test_many_workers_share_many_jobs_and_run_each_once(self, driver: Driver) -> None:
        async with await driver.join("a") as a, await driver.join("b") as b, await driver.join("c") as c:
            for worker in "abc":
                await driver.take(worker, 100, 0)
            jobs = [part for i in range(300) for part in driver.submission(f"j{i}")]
            await driver.call("submit", *jobs)

            got = [await each.jobs(100) for each in (a, b, c)]

        assert sorted(id for ids in got for id in ids) == sorted(f"j{i}" for i in range(300))


class TestJoin:
    async def test_puts_back_what_never_arrived(self, driver: Driver) -> None:
        async with await driver.join("w"):
            arrived = await driver.begin("w")
            await driver.take("w", 1, 1)
            lost = await driver.submit()

        async with await driver.join("w", arrived):
            assert [await driver.state(id) for id in (arrived.id, lost)] == ["IN_PROGRESS", "IN_QUEUE"]
            assert await driver.field(lost, "tries") == "0"
            assert await driver.queued("normal:again") == [lost]
        assert (await driver.take("v"))[0].attempt == 2

    async def test_puts_back_another_attempt_of_a_job_than_the_worker_has(self, driver: Driver) -> None:
        first = await driver.begin("w")
        await driver.call("lose", first.id, first.attempt, "gone")
        await driver.take("w")

        async with await driver.join("w", first):
            assert await driver.state(first.id) == "IN_QUEUE"
            assert await driver.field(first.id, "tries") == "1"

    async def test_each_has_an_epoch_of_its_own(self, driver: Driver) -> None:
        epochs = []
        for _ in range(3):
            async with await driver.join("w") as listening:
                epochs.append(listening.epoch)

        assert len(set(epochs)) == 3

    async def test_begins_the_count_of_jobs_anew(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            await driver.take("w", 1, 0)
            id = await driver.submit()
            assert await listening.jobs(1) == [id]

        async with await driver.join("w", Taken(id, 1, 0, None, "")):
            assert await driver.take("w", 1, 0) == []
            assert await driver.queued() == [id]

    async def test_hands_what_it_puts_back_to_others(self, driver: Driver) -> None:
        job = await driver.begin("w")
        async with await driver.join("v") as listening:
            await driver.take("v", 1, 0)
            async with await driver.join("w"):
                assert await listening.jobs(1) == [job.id]

    async def test_drops_a_lease_whose_job_is_gone(self, driver: Driver) -> None:
        # Once: `put_back` does not look whether the job is there.
        job = await driver.begin("w")
        await driver.key("UNLINK", f"job:{job.id}")

        async with await driver.join("w"):
            assert await driver.leases() == []
            assert await driver.key("EXISTS", f"job:{job.id}") == 0

    async def test_takes_no_job_from_another_worker(self, driver: Driver) -> None:
        # Once: nor whether this entry is the one that the job names.
        job = await driver.begin("v")
        await driver.key("XADD", "queue:normal", "1000-0", "job", job.id)
        await driver.deliver("w")

        async with await driver.join("w"):
            assert await driver.state(job.id) == "IN_PROGRESS"
            assert await driver.finish(job) == "OK"
            assert await driver.leases() == []

    async def test_of_a_worker_that_dies_at_once_leaves_nothing_for_ever(self, driver: Driver) -> None:
        # Once: `join` and `take` make `:worker:<id>` again, which then has no end unless `renew` follows.
        async with await driver.join("w"):
            pass
        await driver.submit()
        await driver.take("v")

        assert await driver.key("PTTL", "worker:w") > 0
        assert await driver.key("PTTL", "worker:v") > 0


class TestEmit:
    async def test_keeps_chunks_in_order(self, driver: Driver) -> None:
        job = await driver.begin()

        assert await driver.emit(job, 1, "1", "2") == "OK"
        assert await driver.emit(job, 3, "3") == "OK"

        assert await chunks_of(driver, job.id) == [(1, "1"), (2, "2"), (3, "3")]

    async def test_may_be_repeated(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "1", "2")

        assert await driver.emit(job, 1, "1", "2") == "OK"
        assert await driver.emit(job, 2, "2", "3") == "OK"
        assert await driver.emit(job, 1, "1") == "OK"

        assert await chunks_of(driver, job.id) == [(1, "1"), (2, "2"), (3, "3")]
        assert await driver.field(job.id, "chunks") == "3"

    async def test_refuses_to_leave_a_gap(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "1")

        with pytest.raises(Exception, match="GAP chunks before number 3"):
            await driver.emit(job, 3, "3")

        assert await chunks_of(driver, job.id) == [(1, "1")]

    async def test_of_an_old_attempt_is_stale(self, driver: Driver) -> None:
        first = await driver.begin()
        second = await lose(driver, first)

        assert await driver.emit(first, 1, "old") == ["STALE", "IN_PROGRESS"]
        assert await driver.emit(second, 1, "new") == "OK"

        assert await chunks_of(driver, second.id) == [(1, "new")]

    async def test_after_the_end_is_stale(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job)

        assert await driver.emit(job, 1, "late") == ["STALE", "COMPLETED"]
        assert await chunks_of(driver, job.id) == []

    async def test_positions_go_on_in_the_next_attempt(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.emit(first, 1, "a", "b")
        second = await lose(driver, first)

        await driver.emit(second, 1, "A")
        await driver.emit(second, 1, "A", "B")

        assert await chunks_of(driver, second.id) == [(3, "A"), (4, "B")]

    async def test_a_new_attempt_drops_the_chunks_of_the_last(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.emit(first, 1, "a", "b")

        await lose(driver, first)

        assert await chunks_of(driver, first.id) == []

    async def test_keeps_the_newest_chunks_up_to_the_limit(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "stream_bytes", 2 * MEGABYTE)
        job = await driver.begin()
        half = MEGABYTE // 2

        for number in range(1, 8):
            await driver.emit(job, number, str(number) * half)

        assert [(position, chunk[0]) for position, chunk in await chunks_of(driver, job.id)] == [
            (4, "4"), (5, "5"), (6, "6"), (7, "7"),
        ]  # fmt: skip
        assert await driver.field(job.id, "stored") == str(2 * MEGABYTE)

    async def test_a_chunk_above_the_limit_does_not_hang(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "stream_bytes", MEGABYTE)
        job = await driver.begin()

        assert await driver.emit(job, 1, "x" * (2 * MEGABYTE)) == "OK"
        assert await driver.emit(job, 2, "y") == "OK"

        assert await chunks_of(driver, job.id) == [(2, "y")]

    async def test_chunks_expire_with_their_job(self, driver: Driver) -> None:
        job = await driver.begin(ttl=100_000)

        await driver.emit(job, 1, "1")

        assert await driver.key("PEXPIRETIME", f"chunks:{job.id}") == await driver.key("PEXPIRETIME", f"job:{job.id}")


class TestProgress:
    async def test_is_shown_while_the_job_runs(self, driver: Driver) -> None:
        job = await driver.begin()

        assert await driver.call("progress", job.id, job.attempt, "50") == "OK"

        assert (await driver.call("status", job.id, ""))[9] == "50"

    async def test_after_the_end_changes_nothing(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job, value="[1]")
        before = await driver.call("status", job.id, "")

        assert await driver.call("progress", job.id, job.attempt, "99") == ["STALE", "COMPLETED"]

        assert await driver.call("status", job.id, "") == before
        assert before[7] == "[1]"

    async def test_of_an_old_attempt_is_stale(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.call("progress", first.id, 1, "50")
        await lose(driver, first)

        assert await driver.call("progress", first.id, 1, "60") == ["STALE", "IN_PROGRESS"]
        assert await driver.field(first.id, "progress") is None


class TestFinish:
    @pytest.mark.parametrize(("state", "field"), [("COMPLETED", "output"), ("FAILED", "error"), ("COMPLETED", "")])
    async def test_commits_the_result(self, driver: Driver, state: str, field: str) -> None:
        job = await driver.begin()

        assert await driver.finish(job, state, field, "value") == "OK"

        assert await driver.state(job.id) == state
        assert await driver.field(job.id, "output") == ("value" if field == "output" else None)
        assert await driver.field(job.id, "error") == ("value" if field == "error" else None)
        assert await driver.leases() == []
        assert await driver.queued() == []

    async def test_may_be_repeated(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job, value="1")

        assert await driver.finish(job, value="2") == "OK"

        assert await driver.field(job.id, "output") == "1"
        assert (await driver.call("health"))[0] == 1

    async def test_of_an_old_attempt_is_stale(self, driver: Driver) -> None:
        first = await driver.begin()
        second = await lose(driver, first)

        assert await driver.finish(first, value="old") == ["STALE", "IN_PROGRESS"]
        assert await driver.finish(second, value="new") == "OK"

        assert await driver.field(first.id, "output") == "new"

    async def test_of_an_attempt_that_is_queued_again_is_stale(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        assert await driver.finish(job) == ["STALE", "IN_QUEUE"]
        assert await driver.state(job.id) == "IN_QUEUE"

    async def test_of_an_attempt_to_come_is_stale(self, driver: Driver) -> None:
        job = await driver.begin()

        assert await driver.call("finish", job.id, 2, "COMPLETED", "output", "1") == ["STALE", "IN_PROGRESS"]
        assert await driver.state(job.id) == "IN_PROGRESS"

    async def test_of_no_job_is_stale(self, driver: Driver) -> None:
        assert await driver.call("finish", "nobody", 1, "COMPLETED", "output", "1") == ["STALE", "GONE"]
        assert await driver.key("EXISTS", "job:nobody") == 0

    @pytest.mark.parametrize("state", ["CANCELLED", "TIMED_OUT", "IN_QUEUE", "nonsense"])
    async def test_a_worker_can_only_complete_or_fail(self, driver: Driver, state: str) -> None:
        job = await driver.begin()

        with pytest.raises(Exception, match="a worker cannot say"):
            await driver.finish(job, state)

        assert await driver.state(job.id) == "IN_PROGRESS"

    async def test_keeps_the_input_only_of_what_can_be_retried(self, driver: Driver) -> None:
        completed, failed = await driver.begin(), await driver.begin()

        await driver.finish(completed)
        await driver.finish(failed, "FAILED", "error", "x")

        assert await driver.field(completed.id, "input") is None
        assert await driver.field(failed.id, "input") == "{}"

    async def test_the_result_is_kept_for_the_retention(self, driver: Driver) -> None:
        job = await driver.begin(retention=60_000)
        await driver.emit(job, 1, "1")

        await driver.finish(job)

        slack = 60_000
        assert 60_000 < await driver.key("PTTL", f"job:{job.id}") <= 60_000 + slack
        assert 60_000 < await driver.key("PTTL", f"chunks:{job.id}") <= 60_000 + slack


class TestLose:
    async def test_queues_the_job_again(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.call("progress", job.id, 1, "50")

        assert await driver.call("lose", job.id, 1, "gone") == "OK"

        assert await driver.queued("normal:again") == [job.id]
        assert await driver.leases() == []
        assert [await driver.field(job.id, name) for name in ("state", "started", "worker", "progress")] == [
            "IN_QUEUE", None, None, None,
        ]  # fmt: skip

    async def test_fails_the_job_at_the_limit_with_the_reason(self, driver: Driver) -> None:
        job = await driver.begin()
        for _ in range(2):
            job = await lose(driver, job)

        assert await driver.call("lose", job.id, 3, "the worker ran out of memory") == "OK"

        assert await driver.state(job.id) == "FAILED"
        assert await driver.field(job.id, "error") == "the worker ran out of memory (attempt 3 of 3)"
        assert await driver.leases() == []

    async def test_of_an_old_attempt_is_stale(self, driver: Driver) -> None:
        first = await driver.begin()
        await lose(driver, first)

        assert await driver.call("lose", first.id, 1, "late") == ["STALE", "IN_PROGRESS"]
        assert await driver.state(first.id) == "IN_PROGRESS"


class TestCancel:
    async def check(self, driver: Driver, id: str) -> None:
        """Cancels, twice, and sees that nothing of the job is left in the queues."""
        first = await driver.call("cancel", id)

        assert first[0] == "CANCELLED"
        assert await driver.call("cancel", id) == first
        assert await driver.leases() == []
        assert [await driver.queued(queue) for queue in ("normal", "normal:again")] == [[], []]
        assert await driver.key("ZCARD", "timeouts") == await driver.key("ZCARD", "delayed") == 0

    async def test_of_a_queued_job(self, driver: Driver) -> None:
        id = await driver.submit()

        await self.check(driver, id)

        assert await driver.take() == []

    async def test_of_a_job_that_is_on_its_way_to_its_worker(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            await driver.take("w", 1, 0)
            id = await driver.submit()

            await self.check(driver, id)

            assert await listening.jobs(1) == [id]
            assert await listening.next() == ([id, "1", "CANCELLED"], b"")
        assert await driver.call("finish", id, 1, "COMPLETED", "output", "1") == ["STALE", "CANCELLED"]

    async def test_of_a_running_job(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "1")

        await self.check(driver, job.id)

        assert await driver.emit(job, 2, "2") == ["STALE", "CANCELLED"]
        assert await driver.finish(job) == ["STALE", "CANCELLED"]
        assert await driver.state(job.id) == "CANCELLED"

    async def test_of_a_job_that_waits_for_its_retry(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        await self.check(driver, job.id)

        await driver.pass_time(60_001)
        await driver.upkeep()
        assert await driver.take() == []

    async def test_of_a_final_job_changes_nothing(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job, value="[1]")
        before = await driver.key("HGETALL", f"job:{job.id}")

        assert (await driver.call("cancel", job.id))[0] == "COMPLETED"

        assert await driver.key("HGETALL", f"job:{job.id}") == before

    async def test_of_no_job(self, driver: Driver) -> None:
        assert await driver.call("cancel", "nobody") == []
        assert await driver.key("EXISTS", "job:nobody") == 0

    async def test_tells_the_worker(self, driver: Driver) -> None:
        job = await driver.begin("w")
        pubsub: Any = driver.store.node_of(driver.base).pubsub()
        await pubsub.ssubscribe(f"{driver.base}:stops:w")
        assert (await pubsub.get_message(timeout=5))["type"] == "ssubscribe"

        await driver.call("cancel", job.id)

        message = await pubsub.get_message(timeout=5)
        await pubsub.aclose()
        assert message["data"] == f"{job.id} 1 CANCELLED".encode()


class TestRetry:
    async def failed(self, driver: Driver, **options: Any) -> Taken:
        job = await driver.begin(**options)
        await driver.emit(job, 1, "a", "b")
        await driver.finish(job, "FAILED", "error", "x")
        return job

    async def test_queues_the_job_with_a_clean_sheet(self, driver: Driver) -> None:
        job = await self.failed(driver, ttl=100_000)

        assert await driver.call("retry", job.id) == "OK"

        names = ("state", "tries", "error", "output", "started", "finished", "worker")
        assert [await driver.field(job.id, name) for name in names] == ["IN_QUEUE", "0", None, None, None, None, None]
        assert await driver.queued() == [job.id]
        assert await driver.key("EXISTS", f"chunks:{job.id}") == 0
        assert 100_000 < await driver.key("PTTL", f"job:{job.id}") <= 160_000

    async def test_goes_to_the_back(self, driver: Driver) -> None:
        job = await self.failed(driver)
        waiting = await driver.submit()

        await driver.call("retry", job.id)

        assert [taken.id for taken in await driver.take(capacity=2)] == [waiting, job.id]

    async def test_the_attempts_of_the_last_life_stay_stale(self, driver: Driver) -> None:
        job = await self.failed(driver)
        await driver.call("retry", job.id)
        (again,) = await driver.take()

        assert again.attempt == 2
        assert again.input == job.input
        assert await driver.emit(job, 3, "late") == ["STALE", "IN_PROGRESS"]
        await driver.finish(job, value="late")
        assert await driver.state(job.id) == "IN_PROGRESS"
        assert await driver.finish(again, value="new") == "OK"
        assert await driver.field(job.id, "output") == "new"

    async def test_gives_all_attempts_again(self, driver: Driver) -> None:
        job = await driver.begin()
        job = await lose(driver, await lose(driver, job))
        await driver.call("lose", job.id, job.attempt, "gone")
        assert await driver.state(job.id) == "FAILED"

        await driver.call("retry", job.id)
        (job,) = await driver.take()
        job = await lose(driver, await lose(driver, job))
        await driver.call("lose", job.id, job.attempt, "gone")

        assert await driver.field(job.id, "error") == "gone (attempt 3 of 3)"

    async def test_polls_see_only_the_new_chunks(self, driver: Driver) -> None:
        job = await self.failed(driver)
        await driver.call("retry", job.id)
        (again,) = await driver.take()

        await driver.emit(again, 1, "A")

        assert (await driver.call("poll", job.id, ""))[2] == ["A"]

    async def test_after_a_timeout(self, driver: Driver) -> None:
        job = await driver.begin(timeout=5000)
        await driver.pass_time(5001)
        await driver.upkeep()

        assert await driver.call("retry", job.id) == "OK"
        assert [taken.attempt for taken in await driver.take()] == [2]

    @pytest.mark.parametrize("state", ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "CANCELLED"])
    async def test_of_any_other_state_is_refused(self, driver: Driver, state: str) -> None:
        id = await driver.submit()
        if state == "CANCELLED":
            await driver.call("cancel", id)
        elif state != "IN_QUEUE":
            (job,) = await driver.take()
            if state == "COMPLETED":
                await driver.finish(job)
        before = await driver.key("HGETALL", f"job:{id}")

        assert await driver.call("retry", id) == ["STATE", state]

        assert await driver.key("HGETALL", f"job:{id}") == before

    async def test_of_no_job(self, driver: Driver) -> None:
        assert await driver.call("retry", "nobody") == "GONE"
        assert await driver.queued() == []

    async def test_counts(self, driver: Driver) -> None:
        job = await self.failed(driver)

        await driver.call("retry", job.id)

        assert (await driver.call("health"))[:5] == [0, 1, 0, 1, 1]


class TestStatus:
    async def test_of_no_job(self, driver: Driver) -> None:
        assert await driver.call("status", "nobody", "process") == []
        assert await driver.key("EXISTS", "job:nobody") == 0

    async def test_of_a_queued_job_tells_its_position(self, driver: Driver) -> None:
        await driver.submit(queue="low")
        ids = [await driver.submit() for _ in range(3)]
        low = await driver.submit(queue="low")

        assert [(await driver.call("status", id, ""))[10] for id in [*ids, low]] == [0, 1, 2, 4]
        await driver.take(capacity=2)
        assert [(await driver.call("status", id, ""))[10] for id in [ids[2], low]] == [0, 2]

    async def test_a_job_that_went_back_is_first(self, driver: Driver) -> None:
        job = await driver.begin()
        waiting = await driver.submit()
        await driver.call("lose", job.id, 1, "gone")

        assert [(await driver.call("status", id, ""))[10] for id in (job.id, waiting)] == [0, 1]

    async def test_cancelled_jobs_do_not_push_the_position_beyond_the_queue(self, driver: Driver) -> None:
        ids = [await driver.submit() for _ in range(5)]
        for id in ids[:4]:
            await driver.call("cancel", id)

        assert (await driver.call("status", ids[4], ""))[10] == 0

    async def test_a_job_that_waits_for_its_retry_has_no_position(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        assert (await driver.call("status", job.id, ""))[10] == -1

    async def test_of_a_final_job_takes_no_watcher(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.finish(job)

        await driver.call("status", job.id, "process")

        assert await driver.field(job.id, "watchers") is None

    async def test_watchers_are_listed_once_until_they_leave(self, driver: Driver) -> None:
        id = await driver.submit(watcher="p1")
        for process in ("p2", "p1", "p2", "p12"):
            await driver.call("status", id, process)
        assert await driver.field(id, "watchers") == "p1 p2 p12"

        for process in ("p1", "p3", "p12"):
            await driver.call("unwatch", id, process)
        assert await driver.field(id, "watchers") == "p2"

        await driver.call("unwatch", id, "p2")
        assert await driver.field(id, "watchers") is None
        assert await driver.call("unwatch", "nobody", "p1") == 0


class TestRead:
    async def test_from_a_position(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "a", "b", "c")

        described, restarted, first, chunks = await driver.call("read", job.id, 1, 10, 1_000_000, "")

        assert (described[0], restarted, first, chunks) == ("IN_PROGRESS", 0, 2, ["b", "c"])

    async def test_in_steps(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, *"abcde")

        position, read = 0, ""
        while chunks := (reply := await driver.call("read", job.id, position, 2, 1_000_000, ""))[3]:
            assert reply[2] == position + 1
            position, read = reply[2] + len(chunks) - 1, read + "".join(chunks)

        assert read == "abcde"

    @pytest.mark.parametrize(("most", "expected"), [(0, "a"), (1, "a"), (2, "ab"), (100, "abc" * 20)])
    async def test_no_more_bytes_than_asked_for(self, driver: Driver, most: int, expected: str) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, *"abc" * 20)

        _, _, first, chunks = await driver.call("read", job.id, 0, 1000, most, "")

        assert (first, "".join(chunks)) == (1, expected)

    async def test_does_not_move_the_mark_of_polls(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "a")

        await driver.call("read", job.id, 0, 10, 1_000_000, "")

        assert (await driver.call("poll", job.id, ""))[2] == ["a"]

    async def test_tells_of_a_restart_before_the_first_new_chunk(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.emit(first, 1, "a", "b")
        second = await lose(driver, first)

        assert (await driver.call("read", first.id, 1, 10, 1_000_000, ""))[1:] == [2, 3, []]
        await driver.emit(second, 1, "A")
        assert (await driver.call("read", first.id, 1, 10, 1_000_000, ""))[1:] == [2, 3, ["A"]]

    async def test_tells_where_the_kept_chunks_begin(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "stream_bytes", MEGABYTE)
        job = await driver.begin()
        for number in (1, 2, 3):
            await driver.emit(job, number, str(number) * (MEGABYTE // 2))

        _, _, first, chunks = await driver.call("read", job.id, 0, 10, 4 * MEGABYTE, "")

        assert (first, [chunk[0] for chunk in chunks]) == (2, ["2", "3"])

    async def test_of_no_job(self, driver: Driver) -> None:
        assert await driver.call("read", "nobody", 0, 10, 1_000_000, "process") == []


class TestPoll:
    async def test_hands_each_chunk_out_once(self, driver: Driver) -> None:
        job = await driver.begin()
        await driver.emit(job, 1, "a", "b")
        assert (await driver.call("poll", job.id, ""))[2] == ["a", "b"]
        assert (await driver.call("poll", job.id, ""))[2] == []

        await driver.emit(job, 3, "c")

        assert (await driver.call("poll", job.id, ""))[2] == ["c"]

    async def test_a_final_state_comes_with_all_that_is_left(self, driver: Driver) -> None:
        job = await driver.begin()
        many = [str(number) for number in range(3000)]
        await driver.emit(job, 1, *many)
        first = await driver.call("poll", job.id, "")
        await driver.finish(job)

        rest = await driver.call("poll", job.id, "")

        assert (first[0][0], rest[0][0]) == ("IN_PROGRESS", "COMPLETED")
        assert first[2] + rest[2] == many
        assert (await driver.call("poll", job.id, ""))[2] == []

    async def test_tells_once_that_a_new_attempt_began(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.emit(first, 1, "a", "b")
        await driver.call("poll", first.id, "")
        second = await lose(driver, first)
        await driver.emit(second, 1, "A")

        assert (await driver.call("poll", first.id, ""))[1:] == [1, ["A"]]
        await driver.emit(second, 2, "B")
        assert (await driver.call("poll", first.id, ""))[1:] == [0, ["B"]]

    async def test_chunks_that_nobody_saw_are_no_restart(self, driver: Driver) -> None:
        first = await driver.begin()
        await driver.emit(first, 1, "a", "b")
        second = await lose(driver, first)
        await driver.emit(second, 1, "A")

        assert (await driver.call("poll", first.id, ""))[1:] == [0, ["A"]]

    async def test_of_no_job(self, driver: Driver) -> None:
        assert await driver.call("poll", "nobody", "process") == []


class TestWakeUps:
    async def listen(self, driver: Driver) -> Any:
        pubsub: Any = driver.store.node_of(driver.base).pubsub()
        await pubsub.ssubscribe(f"{driver.base}:gateway:p")
        assert (await pubsub.get_message(timeout=5))["type"] == "ssubscribe"
        return pubsub

    async def next(self, pubsub: Any) -> tuple[dict[str, Any], bytes]:
        head, _, payload = (await pubsub.get_message(timeout=5))["data"].partition(b"\n")
        return json.loads(head), payload

    async def test_carry_chunks_and_the_end(self, driver: Driver) -> None:
        pubsub = await self.listen(driver)
        job = await driver.begin(watcher="p")
        await driver.emit(job, 1, "ab", "c")
        await driver.finish(job, value="[1]")

        header, payload = await self.next(pubsub)
        assert header == {"kind": "chunks", "job": job.id, "first": 1, "sizes": [2, 1], "whole": True}
        assert payload == b"abc"
        header, payload = await self.next(pubsub)
        await pubsub.aclose()
        assert (header["kind"], header["state"], header["field"], header["position"]) == (
            "final", "COMPLETED", "output", 2,
        )  # fmt: skip
        assert header["created"] <= header["started"] <= header["finished"]
        assert payload == b"[1]"

    async def test_say_only_that_there_is_something_when_it_is_large(self, driver: Driver) -> None:
        pubsub = await self.listen(driver)
        job = await driver.begin(watcher="p")
        await driver.emit(job, 1, "x" * 65_537)
        await driver.finish(job, value="y" * 65_537)

        for kind in ("chunks", "final"):
            header, payload = await self.next(pubsub)
            assert (header["kind"], header["whole"], payload) == (kind, False, b"")
        await pubsub.aclose()

    async def test_tell_of_a_restart(self, driver: Driver) -> None:
        pubsub = await self.listen(driver)
        job = await driver.begin(watcher="p")
        await driver.emit(job, 1, "a")
        await self.next(pubsub)

        await lose(driver, job)

        header, _ = await self.next(pubsub)
        await pubsub.aclose()
        assert header == {"kind": "restart", "job": job.id, "position": 1}

    async def test_of_a_job_without_watchers_are_not_sent(self, driver: Driver) -> None:
        pubsub = await self.listen(driver)
        unwatched, watched = await driver.begin(), await driver.begin(watcher="p")

        await driver.finish(unwatched)
        await driver.finish(watched)

        header, _ = await self.next(pubsub)
        await pubsub.aclose()
        assert header["job"] == watched.id
