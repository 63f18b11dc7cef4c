"""Fair endpoints: in which order the jobs of several shares begin, and what is kept of them meanwhile."""

from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .driver import DAY_MS, GROUP, Driver, Taken
from .fair_order import FairOrder
from .test_functions_endpoint import STREAMS

pytestmark = pytest.mark.every_store

STEP = 500


@pytest.fixture
async def driver(driver: Driver) -> Driver:
    """A fair endpoint."""
    assert await driver.call("configure", 1, "fair", 1) == "OK"
    return driver


async def queue(driver: Driver, share: str, count: int, weight: int = 1, **options: Any) -> list[str]:
    """Submits jobs of a share, many in one call. Returns their ids: "<share>-<number>"."""
    ids = [f"{share}-{number}" for number in range(count)]
    for first in range(0, count, STEP):
        jobs = [driver.submission(id, share=share, weight=weight, **options) for id in ids[first : first + STEP]]
        assert await driver.call("submit", *(part for job in jobs for part in job)) == ["NEW"] * len(jobs)
    return ids


async def begin(driver: Driver, count: int, worker: str = "w") -> list[Taken]:
    """Begins jobs one by one and finishes each."""
    begun = []
    for _ in range(count):
        found = await driver.take(worker)
        for job in found:
            assert await driver.finish(job) == "OK"
        begun += found
    return begun


async def shares_of(driver: Driver, count: int) -> list[str]:
    """The shares of the next jobs to be begun."""
    return [job.id.rpartition("-")[0] for job in await begin(driver, count)]


async def position(driver: Driver, id: str) -> int:
    return cast(int, (await driver.call("status", id, ""))[10])


async def kept(driver: Driver) -> set[str]:
    """The names of keys that hold jobs in lines, or what is remembered of shares."""
    return {key for key in await driver.keys() if key.startswith(("line:", "turns:", "numbers:", "shares:"))}


class TestOrder:
    async def test_a_flood_does_not_keep_others_waiting(self, driver: Driver) -> None:
        await queue(driver, "flood", 10_000)
        await begin(driver, 3)
        ten = await queue(driver, "ten", 10)

        begun = [job.id for job in await begin(driver, 21)]

        assert [id for id in begun if id in ten] == ten

    async def test_a_worker_that_takes_many_gets_them_in_the_same_order(self, driver: Driver) -> None:
        await queue(driver, "flood", 1000)
        ten = await queue(driver, "ten", 10)

        begun = [job.id for job in await driver.take("w", 21)]

        assert [id for id in begun if id in ten] == ten

    @pytest.mark.parametrize(("heavy", "light"), [(3, 1), (1000, 1), (5, 3), (1, 1)])
    async def test_shares_begin_by_their_weights(self, driver: Driver, heavy: int, light: int) -> None:
        await queue(driver, "heavy", 1500, heavy)
        await queue(driver, "light", 100, light)
        begun: Counter[str] = Counter()

        for share in await shares_of(driver, 120):
            begun[share] += 1
            assert abs(begun["heavy"] / heavy - begun["light"] / light) <= 1 / min(heavy, light) + 1e-9

    async def test_a_share_is_served_in_its_own_order(self, driver: Driver) -> None:
        ids = [f"{share}{number}" for number in range(9, 0, -1) for share in "bac"]
        for id in ids:
            await driver.submit(id, share=id[0])

        begun = [job.id for job in await begin(driver, len(ids))]

        for share in "abc":
            assert [id for id in begun if id[0] == share] == [id for id in ids if id[0] == share]

    async def test_an_idle_share_gets_no_credit(self, driver: Driver) -> None:
        await queue(driver, "other", 1)
        await queue(driver, "busy", 300)
        await begin(driver, 101)  # while `other` had nothing to do
        await queue(driver, "idle", 100)

        begun = Counter(await shares_of(driver, 40))

        assert abs(begun["idle"] - begun["busy"]) <= 1

    async def test_a_share_that_always_has_one_job_waiting_does_not_pass_the_others(self, driver: Driver) -> None:
        # Once: what a share has had is forgotten when it has no job left, so that each of its jobs comes as the first.
        await queue(driver, "flood", 100)
        begun: Counter[str] = Counter()
        for number in range(20):
            await driver.submit(f"one-{number}", share="one")
            while (share := (await shares_of(driver, 1))[0]) == "flood":
                begun["flood"] += 1
            begun[share] += 1

        assert abs(begun["one"] - begun["flood"]) <= 1

    async def test_low_priority_comes_strictly_after_normal_over_all_shares(self, driver: Driver) -> None:
        await queue(driver, "low", 5, 1000, queue="low")
        await begin(driver, 1)
        await queue(driver, "normal", 20)

        assert await shares_of(driver, 24) == ["normal"] * 20 + ["low"] * 4

    async def test_so_it_does_when_several_are_taken_at_once(self, driver: Driver) -> None:
        lost = await driver.begin(share="low", queue="low")
        assert await driver.call("lose", lost.id, lost.attempt, "gone") == "OK"
        normal = await queue(driver, "normal", 3)
        assert {job.id for job in await driver.take("w", 3)} == set(normal)
        assert [job.id for job in await driver.take("w", 4, 3)] == [lost.id]

    async def test_jobs_without_a_share_are_of_one(self, driver: Driver) -> None:
        nobody = [await driver.submit() for _ in range(50)]
        await queue(driver, "a", 3)

        begun = [job.id for job in await begin(driver, 7)]

        assert len([id for id in begun if id in nobody]) in (3, 4)

    async def test_a_change_of_weight_holds_for_the_jobs_that_come(self, driver: Driver) -> None:
        await queue(driver, "before", 4, 1)
        for number in range(40):
            await driver.submit(f"before-more-{number}", share="before", weight=10)
        await queue(driver, "other", 40)

        order = [job.id for job in await begin(driver, 30)]

        last = order.index("before-3")
        assert sum(id.startswith("other") for id in order[:last]) in (3, 4)
        assert sum(id.startswith("other") for id in order[last + 1 : last + 21]) in (1, 2, 3)

    @pytest.mark.parametrize("weight", [0, 0.5, 1001, "nan", "x", ""])
    async def test_refuses_what_is_no_weight(self, driver: Driver, weight: Any) -> None:
        with pytest.raises(Exception, match="the weight of job a is not one"):
            await driver.call("submit", *driver.submission("a", weight=weight))

        assert await driver.state("a") is None

    async def test_waiting_workers_get_jobs_at_once(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            assert await driver.take("w", 2, 0) == []
            await queue(driver, "a", 3)

            assert await listening.jobs(2) == ["a-0", "a-1"]
        assert await driver.field("a-0", "state") == "IN_PROGRESS"

    async def test_of_a_batch_for_waiting_workers_each_share_gets_its_part(self, driver: Driver) -> None:
        async with await driver.join("w") as listening:
            await driver.take("w", 4, 0)
            jobs = [driver.submission(f"{share}{i}", share=share) for share in "ab" for i in range(4)]
            await driver.call("submit", *(part for job in jobs for part in job))

            assert sorted(await listening.jobs(4)) == ["a0", "a1", "b0", "b1"]

    async def test_polls_get_jobs_in_turn(self, driver: Driver) -> None:
        await queue(driver, "flood", 100)
        await queue(driver, "two", 2)

        jobs = await driver.call("park", "w", 6, "gw", "p1", 30_000, 0, "", "", "")

        assert Counter(job[0].rpartition("-")[0] for job in jobs) == {"flood": 4, "two": 2}


class TestWhatIsNotServed:
    """A job that ends before it has begun costs its share nothing."""

    async def cancel_all(self, driver: Driver, ids: list[str]) -> None:
        for id in ids:
            assert (await driver.call("cancel", id))[0] == "CANCELLED"

    async def let_time_end(self, driver: Driver, ids: list[str]) -> None:
        await driver.pass_time(10_001)
        assert (await driver.upkeep(1000))["forgotten"] == len(ids)

    @pytest.mark.parametrize("how", ["cancel_all", "let_time_end"])
    @pytest.mark.parametrize("backwards", [False, True])
    async def test_is_not_held_against_the_share(self, driver: Driver, how: str, backwards: bool) -> None:
        # Once: tags belong to jobs, so that the share waits until the others have had as many.
        ids = await queue(driver, "a", 200, ttl=10_000)
        await queue(driver, "b", 300)
        await getattr(self, how)(driver, ids[::-1] if backwards else ids)
        for number in range(50):
            await driver.submit(f"a-again-{number}", share="a")

        begun = Counter(id[0] for id in await shares_of(driver, 40))

        assert abs(begun["a"] - begun["b"]) <= 1

    async def test_moves_the_others_of_the_share_up(self, driver: Driver) -> None:
        ids = await queue(driver, "a", 100)
        await queue(driver, "b", 100)
        await self.cancel_all(driver, ids[:-1])

        assert ids[-1] in [job.id for job in await begin(driver, 2)]

    async def test_gives_no_credit_either(self, driver: Driver) -> None:
        await queue(driver, "b", 100)
        begun = 0
        for number in range(20):
            await self.cancel_all(driver, await queue(driver, f"a{number}", 5))
            await driver.submit(f"a-{number}", share="a")
            await self.cancel_all(driver, [await driver.submit(share="a") for _ in range(5)])
            begun += (await shares_of(driver, 2)).count("a")

        assert abs(begun - 20) <= 1

    async def test_is_not_counted(self, driver: Driver) -> None:
        ids = await queue(driver, "a", 10) + await queue(driver, "b", 10, queue="low")

        await self.cancel_all(driver, ids[3:17])

        assert (await driver.call("health"))[2:4] == [0, 6]
        assert [job.id for job in await begin(driver, 10)] == ids[:3] + ids[17:]

    async def test_cancelled_twice_takes_no_turn_of_another(self, driver: Driver) -> None:
        ids = await queue(driver, "a", 2)
        await self.cancel_all(driver, [ids[0], ids[0]])

        assert [job.id for job in await begin(driver, 2)] == [ids[1]]

    async def test_purge_ends_all_in_steps(self, driver: Driver) -> None:
        running = await driver.begin(share="a")
        ids = await queue(driver, "a", 4) + await queue(driver, "b", 3, queue="low")

        assert [await driver.call("purge", 3) for _ in range(4)] == [3, 3, 1, 0]

        assert {await driver.state(id) for id in ids} == {"CANCELLED"}
        assert await driver.state(running.id) == "IN_PROGRESS"
        assert await kept(driver) == set()

    @pytest.mark.parametrize("then", ["take", "purge", "remove"])
    async def test_a_job_whose_hash_is_gone_stops_nobody(self, driver: Driver, then: str) -> None:
        # Once: a job that nobody was there to forget is begun, which makes a hash without an end for it.
        ids = await queue(driver, "a", 3)
        await driver.key("UNLINK", f"job:{ids[0]}")

        if then == "take":
            assert [job.id for job in await begin(driver, 3)] == ids[1:]
        else:
            await driver.call(then, 100)

        assert await driver.key("EXISTS", f"job:{ids[0]}") == 0
        assert await kept(driver) == set()


class TestAgain:
    """Jobs that go back to the front have had their turn; a retry by a client is one that waits anew."""

    @pytest.mark.parametrize("how", ["lose", "leave", "lease", "join", "delayed"])
    async def test_what_was_lost_is_first(self, driver: Driver, how: str) -> None:
        if how == "delayed":
            await driver.key("HSET", "settings", "retry_delay_ms", 1000)
        await queue(driver, "a", 1)
        await queue(driver, "b", 5)
        (job,) = await driver.take("v")
        match how:
            case "lose" | "delayed":
                await driver.call("lose", job.id, 1, "gone")
                await driver.pass_time(1001)
            case "lease":
                await driver.silence()
            case _:
                await driver.call(how, "v")
        await driver.upkeep()

        (again, *_) = await driver.take("w")

        assert (again.id, again.attempt) == (job.id, 2)

    async def test_a_retry_waits_for_its_turn(self, driver: Driver) -> None:
        job = await driver.begin(share="a")
        await driver.finish(job, "FAILED", "error", "x")
        await queue(driver, "b", 10)
        await begin(driver, 3)

        assert await driver.call("retry", job.id) == "OK"

        assert await position(driver, job.id) <= 1
        again = [found for found in await begin(driver, 2) if found.id == job.id]
        assert [found.attempt for found in again] == [2]

    async def test_a_retry_stands_behind_the_others_of_its_share(self, driver: Driver) -> None:
        job = await driver.begin(share="a")
        await driver.finish(job, "FAILED", "error", "x")
        ids = await queue(driver, "a", 3)
        await driver.call("retry", job.id)

        assert [found.id for found in await begin(driver, 4)] == [*ids, job.id]

    async def test_a_retry_of_low_priority_stays_low(self, driver: Driver) -> None:
        job = await driver.begin(share="a", queue="low")
        await driver.call("lose", job.id, 1, "gone")
        (job,) = await driver.take()
        await driver.finish(job, "FAILED", "error", "x")
        normal = await queue(driver, "b", 3)
        await driver.call("retry", job.id)

        assert [found.id for found in await begin(driver, 4)] == [*normal, job.id]

    async def test_a_timeout_ends_only_the_job_that_runs(self, driver: Driver) -> None:
        ids = await queue(driver, "a", 3, timeout=5000)
        await driver.take()
        await driver.pass_time(5001)
        await driver.upkeep()

        assert [await driver.state(id) for id in ids] == ["TIMED_OUT", "IN_QUEUE", "IN_QUEUE"]
        assert [job.id for job in await begin(driver, 2)] == ids[1:]


class TestSwitch:
    async def test_on_serves_what_waited_before_first(self, driver: Driver) -> None:
        await driver.change(fair=0)
        before = await queue(driver, "flood", 5)
        await driver.change(fair=1)
        after = await queue(driver, "other", 3)

        assert [await position(driver, id) for id in before + after] == list(range(8))
        assert [job.id for job in await begin(driver, 8)] == before + after

    async def test_off_serves_what_waited_before_first(self, driver: Driver) -> None:
        before = await queue(driver, "a", 3) + await queue(driver, "b", 3)
        low = await queue(driver, "c", 2, queue="low")
        await driver.change(fair=0)
        after = await queue(driver, "d", 2)

        assert sorted([await position(driver, id) for id in before]) == list(range(6))
        assert [await position(driver, id) for id in after + low] == [6, 7, 8, 9]
        assert (await driver.call("health"))[3] == 10
        begun = [job.id for job in await begin(driver, 10)]
        assert sorted(begun[:6]) == sorted(before)
        assert begun[6:] == after + low

    async def test_off_is_over_when_the_lines_are_empty(self, driver: Driver) -> None:
        await queue(driver, "a", 2)
        await driver.change(fair=0)
        assert await driver.key("HGET", "settings", "lines") == "first"

        assert len(await begin(driver, 3)) == 2

        assert await driver.key("HGET", "settings", "lines") is None

    async def test_back_and_forth_loses_none_and_doubles_none(self, driver: Driver) -> None:
        ids: list[str] = []
        for round in range(6):
            await driver.change(fair=int(round % 2 == 0))
            ids += await queue(driver, f"a{round}", 3) + await queue(driver, f"b{round}", 2, queue="low")
            assert (await driver.call("health"))[3] == len(ids) - round
            await begin(driver, 1)

        rest = await begin(driver, 40)

        assert len(rest) == len(ids) - 6
        assert {await driver.state(id) for id in ids} == {"COMPLETED"}
        assert await kept(driver) == set()

    async def test_keeps_nothing_of_shares_when_it_is_off(self, driver: Driver) -> None:
        await driver.change(fair=0)
        (id,) = await queue(driver, "a", 1, 7)

        assert [await driver.field(id, name) for name in ("share", "weight", "place")] == [None] * 3
        assert await kept(driver) == set()


class TestPosition:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    async def test_says_when_each_job_is_served(self, driver: Driver, data: st.DataObject) -> None:
        """Jobs come, begin and are cancelled; at the end those that wait begin as their positions said, and as the
        model allows."""
        await driver.call("purge", 1000)  # what is left of an example that failed
        order, waiting = FairOrder(), []
        for _ in range(data.draw(st.integers(1, 60), label="steps")):
            match data.draw(st.sampled_from(["submit", "submit", "begin", "cancel"])):
                case "begin" if waiting:
                    (job,) = await begin(driver, 1)
                    assert job.id in order.next()
                    order.serve(job.id)
                    waiting.remove(job.id)
                case "cancel" if waiting:
                    id = data.draw(st.sampled_from(waiting), label="cancelled")
                    await driver.call("cancel", id)
                    order.leave(id)
                    waiting.remove(id)
                case _:
                    share, weight = data.draw(st.sampled_from([("a", 1), ("b", 3), ("c", 7), ("d", 1000)]))
                    waiting.append(await driver.submit(share=share, weight=weight))
                    order.join(waiting[-1], share, weight)
        foretold = {await position(driver, id): id for id in waiting}
        begun = [job.id for job in await begin(driver, len(waiting))]
        assert begun == [foretold[place] for place in range(len(waiting))]
        for id in begun:
            assert id in order.next()
            order.serve(id)
        assert await kept(driver) == set()

    async def test_counts_what_is_served_before(self, driver: Driver) -> None:
        lost = await driver.begin(share="x")
        await queue(driver, "a", 3)
        await queue(driver, "b", 1, queue="low")
        await driver.call("lose", lost.id, 1, "gone")

        assert [await position(driver, id) for id in (lost.id, "a-0", "a-2", "b-0")] == [0, 1, 3, 4]


class TestNothingIsLeftBehind:
    async def test_when_no_job_waits(self, driver: Driver) -> None:
        for number in range(20):
            await queue(driver, f"s{number}", 3, number + 1)
        ids = [job.id for job in await begin(driver, 31)]
        for number in range(20):
            await driver.call("cancel", f"s{number}-2")
        assert await kept(driver) != set()
        await begin(driver, 60 - len(ids))

        assert await kept(driver) == set()

    async def test_when_their_time_is_over_only_the_endpoint_is_left(self, driver: Driver) -> None:
        await queue(driver, "a", 5)
        await queue(driver, "b", 5, queue="low")
        await begin(driver, 2)

        await driver.pass_time(DAY_MS)
        await driver.upkeep()
        await driver.call("leave", "w")

        assert await driver.keys() == {"settings", "counts"} | STREAMS

    async def test_of_shares_that_come_and_go_while_one_stays(self, driver: Driver) -> None:
        await queue(driver, "stays", 1000)
        for number in range(200):
            await queue(driver, f"s{number}", 1)
            await begin(driver, 2)

        assert await driver.key("ZCARD", "shares:normal") <= 4
        assert await driver.key("HLEN", "numbers:normal") == 1

    @pytest.mark.parametrize("most", [1, 3, 100])
    async def test_of_a_removed_endpoint(self, driver: Driver, most: int) -> None:
        await queue(driver, "a", 4)
        await queue(driver, "b", 4, queue="low")
        await driver.take("w", 2)
        await driver.change(fair=0)
        await queue(driver, "c", 2)

        for _ in range(50):
            if await driver.call("remove", most):
                break

        assert await driver.keys() == set()


async def test_what_was_taken_in_turn_is_leased_as_ever(driver: Driver) -> None:
    await queue(driver, "a", 2)

    (job,) = await driver.take("w1")

    assert [worker for _, _, worker in await driver.leases()] == ["w1"]
    assert await driver.field(job.id, "place") is None
    assert await driver.key("XPENDING", "queue:normal:again", GROUP) != [0, None, None, None]
    await driver.finish(job)
    assert await driver.leases() == []
