"""Jobs that are nothing but their entry, until something happens to them. The state machine shows that all that can
happen to a job can happen to these; here is what is only theirs."""

import itertools
from typing import Any

import pytest

from .driver import DAY_MS, RETENTION_MS, Driver

pytestmark = pytest.mark.every_store

_beginnings = (f"{number:08x}-0000-4000-a000-" for number in itertools.count(1))


async def submit(driver: Driver, **options: Any) -> str:
    """Submits a job that the store gives its number."""
    beginning = next(_beginnings)
    (number,) = await driver.call("submit", *driver.submission(beginning, **options))
    return f"{beginning}{number:012x}"


async def is_sealed(driver: Driver, id: str) -> bool:
    return f"job:{id}" not in await driver.keys()


async def test_a_job_that_waits_is_its_entry(driver: Driver) -> None:
    ids = [await submit(driver, input=f'"{i}"') for i in range(3)]
    assert [int(id[-12:], 16) for id in ids] == [1, 2, 3]
    assert await driver.queued() == ids
    for position, id in enumerate(ids):
        assert await is_sealed(driver, id)
        state, created, *rest = await driver.call("status", id, "")
        assert (state, rest[8]) == ("IN_QUEUE", position)
        assert int(created) > 1_700_000_000_000


@pytest.mark.parametrize("look", ["status", "task", "tasks", "list", "health", "queues", "poll", "progress", "retry"])
async def test_a_look_leaves_it_as_it_is(driver: Driver, look: str) -> None:
    id = await submit(driver, input='"hello"')
    arguments: dict[str, tuple[str | int, ...]] = {
        "tasks": ("pending", 0, 10, "normal"), "list": ("0", 0, 10), "health": (), "queues": (),
        "progress": (id, 1, "1"), "retry": (id,),
    }  # fmt: skip
    found = await driver.call(look, *arguments.get(look, (id, "")))
    assert await is_sealed(driver, id)
    if look in ("task", "tasks"):
        (row,) = found if look == "tasks" else [found]
        assert (row[0], row[1], row[3], row[16]) == (id, "pending", "IN_QUEUE", '"hello"')
    if look == "list":
        assert [row[0] for row in found[0]] == [id]


@pytest.mark.parametrize("change", ["status", "task", "poll", "touch", "run"])
async def test_a_change_opens_it(driver: Driver, change: str) -> None:
    id = await submit(driver, input="7", queue="low", request='{"r":1}')
    await driver.call(change, id, {"touch": DAY_MS}.get(change, "gateway"))
    assert not await is_sealed(driver, id)
    assert await driver.key("PTTL", f"job:{id}") > DAY_MS - 60_000
    (job,) = await driver.take()
    assert (job.id, job.input, job.request, job.attempt) == (id, "7", '{"r":1}', 1)


async def test_it_begins_with_all_that_it_came_with(driver: Driver) -> None:
    await driver.change(webhook="https://example.com/")
    terms = "- 0 key 4 10000 0 259200000 1"
    id = await submit(driver, input='{"n":1}', timeout=5000, ttl=DAY_MS, request='{"policy":{}}', terms=terms)
    (job,) = await driver.take("w")
    assert job == (id, 1, 5000, '{"n":1}', '{"policy":{}}')
    kept = {
        "state": "IN_PROGRESS", "worker": "w", "tries": "1", "queue": "normal", "entry": "1-0", "ttl": f"{DAY_MS}",
        "retention": f"{RETENTION_MS}", "webhooks": "https://example.com/", "policy": "4 10000 0 259200000 1",
        "unique": "key",
    }  # fmt: skip
    assert {name: await driver.field(id, name) for name in kept} == kept
    assert DAY_MS < await driver.key("PTTL", f"job:{id}") <= 2 * DAY_MS  # with time to tell the webhook
    assert await driver.finish(job) == "OK"
    assert await driver.queued() == []


async def test_a_large_one_is_not_sealed(driver: Driver) -> None:
    small, large = await submit(driver, input="1" * 2048), await submit(driver, input="1" * 2049)
    half = await submit(driver, input="1" * 1500, request="1" * 1500)
    assert [await is_sealed(driver, id) for id in (small, large, half)] == [True, False, False]
    assert [job.id for job in await driver.take("w", 3)] == [small, large, half]


async def test_with_another_id_there_is_no_job(driver: Driver) -> None:
    id = await submit(driver)
    others = f"ffffffff{id[8:]}", f"{id[:-1]}2", id[:-1], f"{id}0", f"{id[:-12]}-00000000001", f"{id[:-2]} 1", "1"
    for other in others:
        assert await driver.call("status", other, "") == []
        assert await driver.call("cancel", other) == []


async def test_it_is_forgotten_at_its_time(driver: Driver) -> None:
    id = await submit(driver, ttl=10_000, webhooks="https://example.com/")
    await driver.pass_time(9_000)
    assert (await driver.upkeep())["forgotten"] == 0
    await driver.pass_time(1_001)
    done = await driver.upkeep()
    assert (done["forgotten"], done["webhooks"]) == (1, 1)
    assert await driver.queued() == []
    assert await driver.call("status", id, "") == []
    (delivery, _, _) = await driver.call("webhooks", "+inf", 0, 10)
    told = await driver.call("webhook_event", delivery)
    assert (told[0], told[8]) == ("TIMED_OUT", "the job had not ended when its time to live was over")


async def test_one_that_is_late_does_not_begin(driver: Driver) -> None:
    """Upkeep was away, and the hash of the job would have expired."""
    id = await submit(driver, ttl=10_000)
    await driver.pass_time(10_000 + 60_001)
    assert await driver.take() == []
    assert await driver.queued() == []
    assert await driver.call("status", id, "") == []


async def test_one_that_is_late_can_be_cancelled(driver: Driver) -> None:
    id = await submit(driver, ttl=10_000)
    await driver.pass_time(10_000 + 60_001)
    assert (await driver.call("cancel", id))[0] == "CANCELLED"
    assert await driver.queued() == []


async def test_a_second_entry_is_a_leftover(driver: Driver) -> None:
    id = await submit(driver)
    await driver.key("XADD", "queue:normal", "99-0", "job", id)
    (job,) = await driver.take()
    assert await driver.take("other") == []
    assert await driver.queued() == [id]
    assert await driver.finish(job) == "OK"


async def test_an_endpoint_that_is_made_fair_serves_them_first(driver: Driver) -> None:
    first = await submit(driver)
    await driver.change(fair=1)
    second = await submit(driver, share="a")
    assert [await is_sealed(driver, id) for id in (first, second)] == [True, False]
    assert second.endswith("-000000000001")  # of its own line
    assert [job.id for job in await driver.take("w", 2)] == [first, second]


@pytest.mark.parametrize("most", [1, 2, 3, 10])
async def test_they_are_forgotten_in_front_of_others(driver: Driver, most: int) -> None:
    """Between them are some that others look after: with a hash from the start, and opened."""
    ids = []
    for number in range(6):
        ids.append(await submit(driver, ttl=10_000 + number))
        await driver.submit(f"with-a-hash-{number}", ttl=DAY_MS)
    await driver.call("touch", ids[0], DAY_MS)
    await driver.call("touch", ids[3], DAY_MS)
    late = await submit(driver, ttl=20_000)
    await driver.pass_time(11_000)
    rounds = [(await driver.upkeep(most))["forgotten"] for _ in range(14)]
    assert sum(rounds) == 4
    left = [ids[0], *(f"with-a-hash-{number}" for number in range(3)), ids[3]]
    assert await driver.queued() == [*left, *(f"with-a-hash-{number}" for number in range(3, 6)), late]
    await driver.pass_time(10_000)
    assert sum([(await driver.upkeep(most))["forgotten"] for _ in range(14)]) == 1
    assert late not in await driver.queued()


async def test_one_that_ends_before_an_earlier_one_is_not_sealed(driver: Driver) -> None:
    """Behind that one upkeep would not find it."""
    long, short, equal = [await submit(driver, ttl=ttl) for ttl in (DAY_MS, 10_000, DAY_MS + 10)]
    elsewhere = await submit(driver, ttl=10_000, queue="low")
    assert [await is_sealed(driver, id) for id in (long, short, equal, elsewhere)] == [True, False, True, True]
    await driver.pass_time(10_001)
    assert (await driver.upkeep())["forgotten"] == 2
    assert await driver.queued() == [long, equal]


async def test_a_queue_that_was_empty_seals_anew(driver: Driver) -> None:
    await submit(driver, ttl=DAY_MS)
    await driver.take()
    assert await is_sealed(driver, await submit(driver, ttl=10_000))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_show_them_before_the_others(driver: Driver, size: int) -> None:
    running = [await driver.begin() for _ in range(3)]
    low = [await submit(driver, queue="low") for _ in range(2)]
    normal = [await submit(driver) for _ in range(5)]
    await driver.call("touch", normal[2], DAY_MS * 2)
    found, place = [], ("0", 0)
    while place[0] != "":
        rows, *place = await driver.call("list", *place, size)
        assert len(rows) <= size
        found += [row[0] for row in rows]
    assert found[:6] == [normal[4], normal[3], normal[1], normal[0], *reversed(low)]
    assert sorted(found[6:]) == sorted([normal[2], *(job.id for job in running)])


@pytest.mark.parametrize("remove", [("clear", "normal", 100), ("remove", 100)])
async def test_nothing_is_left_of_them(driver: Driver, remove: tuple[str | int, ...]) -> None:
    for _ in range(5):
        await submit(driver)
    before = await driver.call("health")
    await driver.call(*map(str, remove[:1]), *remove[1:])
    assert before[3] == 5
    assert not {key for key in await driver.keys() if key.startswith(("job:", "lifetimes", "completed", "archived"))}
    if remove[0] == "clear":
        assert await driver.queued() == []
        assert (await driver.call("health"))[3] == 0
        assert await driver.key("HGET", "counts", "CANCELLED") == "5"


async def upkeep_is_away(driver: Driver, id: str, ms: int) -> None:
    """So long that the hash of a job expires; its expiry is by the store's own clock, which the test cannot advance."""
    await driver.pass_time(ms)
    if await driver.key("PEXPIRETIME", f"job:{id}") <= await now(driver):
        await driver.key("UNLINK", f"job:{id}")


async def now(driver: Driver) -> int:
    seconds, microseconds = await driver.raw("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000 + int(await driver.key("GET", "clock") or 0)


async def test_a_job_that_began_is_not_sealed_again_when_its_hash_has_expired(driver: Driver) -> None:
    id = await submit(driver, ttl=10_000)
    (job,) = await driver.take("w")
    await upkeep_is_away(driver, id, 80_000)
    assert await is_sealed(driver, id)  # as far as that can be seen
    assert await driver.call("status", id, "") == []
    assert await driver.finish(job) == ["STALE", "GONE"]
    await driver.call("leave", "w")
    assert await driver.take("other") == []
    assert await driver.queued() == []


async def test_a_job_that_waits_is_over_at_the_time_that_it_was_given(driver: Driver) -> None:
    """Its entry says another one."""
    id = await submit(driver)
    await driver.call("touch", id, 10_000)
    await upkeep_is_away(driver, id, 80_000)
    assert not await is_sealed(driver, id)
    await driver.upkeep()
    assert await driver.take() == []
    assert await driver.call("status", id, "") == []


class TestPlacesInTheList:
    async def test_of_a_queue_that_has_gone(self, driver: Driver) -> None:
        running = await driver.begin()
        rows, *_ = await driver.call("list", "7", 105, 10)
        assert [row[0] for row in rows] == [running.id]

    @pytest.mark.parametrize("seen", [10**14, 10**15 - 1, 10**16 - 1])
    async def test_far_away(self, driver: Driver, seen: int) -> None:
        id = await submit(driver)
        rows, *_ = await driver.call("list", "1", seen, 10)
        assert [row[0] for row in rows] == [id]

    async def test_behind_many_that_are_listed_elsewhere(self, driver: Driver) -> None:
        id = await submit(driver)
        for _ in range(30):
            await driver.submit()
        rows, *_ = await driver.call("list", "0", 0, 10)
        assert len(rows) == 10
        assert rows[0][0] == id
