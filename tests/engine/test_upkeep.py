import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.engine import batching, keys, upkeep
from gateway.engine.batching import Batcher
from gateway.engine.upkeep import Upkeep
from gateway.store import Store

from ..stores import Server
from .driver import CLOCKED, LEASE_MS, Driver, ends

SECONDS = 10.0

A_PAUSE_MS = 3000
"""Upkeep that was away for so long has missed something."""


class Clock:
    """Stands for the module `time` in the module under test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def nothing() -> None:
    """No key has expired."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(upkeep, "time", clock)
    monkeypatch.setattr(upkeep, "SECONDS_BETWEEN_ROUNDS", 0.01)
    monkeypatch.setattr(upkeep, "TURN_MS", 300)
    # The functions with a clock that the test can advance.
    monkeypatch.setattr(batching, "LIBRARY", CLOCKED)
    return clock


async def add_endpoint(store: Store, endpoint: str) -> Driver:
    driver = Driver(store, endpoint)
    await driver.load()
    await cast(Any, store.commands.sadd(keys.ENDPOINTS, endpoint))
    await driver.configure()
    return driver


@pytest.fixture
async def own_driver(own_store: Store, endpoint: str) -> Driver:
    return await add_endpoint(own_store, endpoint)


Make = Callable[[str], Upkeep]


@pytest.fixture
async def gone() -> list[tuple[str, str]]:
    """What upkeep has said of workers that are gone."""
    return []


@pytest.fixture
async def due() -> list[str]:
    """The endpoints of which upkeep has said that they have webhooks to deliver."""
    return []


@pytest.fixture
async def make(own_store: Store, gone: list[tuple[str, str]], due: list[str]) -> AsyncIterator[Make]:
    """Makes the upkeep of one gateway process; all are stopped in the end."""
    made = []

    async def note(endpoint: str, worker: str) -> None:
        gone.append((endpoint, worker))

    await Driver(own_store, "").load()
    batcher = Batcher(own_store)

    def make(process: str) -> Upkeep:
        made.append(Upkeep(own_store, batcher, process, note, due.append, nothing))
        return made[-1]

    yield make
    stopped = [await ends(each.stop()) for each in made]
    assert await ends(batcher.close())
    assert all(stopped)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)


def counted(instance: Upkeep, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts the rounds that came to their end."""
    rounds, original = SimpleNamespace(done=0), instance.round

    async def round() -> None:
        await original()
        rounds.done += 1

    monkeypatch.setattr(instance, "round", round)
    return rounds


async def more_rounds(rounds: SimpleNamespace, count: int = 3) -> None:
    target = rounds.done + count

    async def done() -> bool:
        return cast(bool, rounds.done >= target)

    await eventually(done)


async def let_settle(instance: Upkeep, clock: Clock, *drivers: Driver) -> None:
    """Rounds, one a second, for as long as workers are given to renew their leases."""
    for _ in range(int(upkeep.SECONDS_TO_SETTLE) + 2):
        clock.now += 1
        for driver in drivers:
            await driver.pass_time(1000)
        await instance.round()


async def test_says_which_endpoints_have_webhooks_to_deliver(make: Make, own_driver: Driver, due: list[str]) -> None:
    instance = make("p")
    await own_driver.finish(await own_driver.begin())
    await instance.round()
    assert due == []
    await own_driver.finish(await own_driver.begin(webhooks="https://example.com/"))
    await instance.round()
    assert due == [own_driver.endpoint]


async def test_a_round_does_all_that_is_due(
    make: Make, own_driver: Driver, clock: Clock, gone: list[tuple[str, str]]
) -> None:
    timed_out, forgotten = await own_driver.begin(timeout=5000), await own_driver.submit(ttl=6000)
    waiting = await own_driver.submit()
    await own_driver.call("renew", "silent", 1000, 1, "ready", "")
    await own_driver.pass_time(LEASE_MS + 3000)
    instance = make("p")

    await instance.round()

    assert await own_driver.state(timed_out.id) == "TIMED_OUT"
    assert await own_driver.state(forgotten) is None
    assert await own_driver.state(waiting) == "IN_QUEUE"
    assert gone == []
    await let_settle(instance, clock, own_driver)
    assert gone == [(own_driver.endpoint, "silent")]


async def test_rounds_recover_leases_in_every_endpoint(
    make: Make, own_store: Store, own_driver: Driver, clock: Clock
) -> None:
    drivers = [own_driver, *[await add_endpoint(own_store, f"{own_driver.endpoint}-{i}") for i in range(3)]]
    jobs = [await driver.begin() for driver in drivers]
    for driver in drivers:
        await driver.silence()

    await let_settle(make("p"), clock, *drivers)

    states = [await driver.state(job.id) for driver, job in zip(drivers, jobs, strict=True)]
    assert states == ["IN_QUEUE"] * 4


async def test_a_round_goes_on_until_nothing_is_due(
    make: Make, own_driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MOST_PER_CALL", 10)
    for _ in range(35):
        await own_driver.submit(timeout=5000)
    await own_driver.take(capacity=35)
    await own_driver.pass_time(5001)

    await make("p").round()

    assert (await own_driver.call("health"))[1:3] == [35, 0]


async def test_an_endpoint_that_is_gone_does_no_harm(
    make: Make, own_store: Store, own_driver: Driver, clock: Clock
) -> None:
    await cast(Any, own_store.commands.sadd(keys.ENDPOINTS, "gone"))
    job = await own_driver.begin()
    await own_driver.silence()

    await let_settle(make("p"), clock, own_driver)

    assert await own_driver.state(job.id) == "IN_QUEUE"


async def test_one_at_a_time_has_the_turn_and_another_follows_when_it_is_gone(make: Make, own_store: Store) -> None:
    first, second = make("first"), make("second")

    async def turn_of(process: str) -> bool:
        return cast(bool, await cast(Any, own_store.commands.get(keys.UPKEEP)) == process.encode())

    first.start()
    await eventually(lambda: turn_of("first"))
    second.start()
    await asyncio.sleep(0.5)  # longer than a turn lasts that nobody renews
    assert await turn_of("first")
    assert await ends(first.stop())

    await eventually(lambda: turn_of("second"))


async def test_only_the_one_whose_turn_it_is_works(
    make: Make, own_driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make("first"), make("second")
    rounds = [counted(each, monkeypatch) for each in (first, second)]
    first.start()
    await more_rounds(rounds[0])
    second.start()
    await more_rounds(rounds[0])

    assert rounds[1].done == 0
    assert await ends(first.stop())
    await more_rounds(rounds[1])


async def go_through_an_outage(
    instance: Upkeep, rounds: SimpleNamespace, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Starts the rounds and has them notice that the store is down; then it is back."""
    instance.start()
    await more_rounds(rounds)
    server.stop()

    async def noticed() -> bool:
        return "cannot reach the store" in caplog.text

    await eventually(noticed)
    server.start()


async def test_after_an_outage_workers_get_time_to_renew(
    make: Make, own_server: Server, own_driver: Driver, clock: Clock, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = await own_driver.begin()
    instance = make("p")
    rounds = counted(instance, monkeypatch)
    await go_through_an_outage(instance, rounds, own_server, caplog)
    await own_driver.pass_time(A_PAUSE_MS)
    await own_driver.silence()
    await more_rounds(rounds)
    assert await own_driver.state(job.id) == "IN_PROGRESS"

    await let_settle(instance, clock, own_driver)

    assert await own_driver.state(job.id) == "IN_QUEUE"


async def test_the_rest_goes_on_while_leases_settle(
    make: Make, own_server: Server, own_driver: Driver, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = await own_driver.begin(timeout=5000)
    instance = make("p")
    rounds = counted(instance, monkeypatch)
    await go_through_an_outage(instance, rounds, own_server, caplog)
    await own_driver.pass_time(5001)

    await more_rounds(rounds)
    assert await own_driver.state(job.id) == "TIMED_OUT"


async def test_a_store_that_froze_costs_nobody_a_lease(
    make: Make, own_server: Server, own_driver: Driver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once: a store that is frozen for less than the client's timeout raises nothing, so nothing settles, and what
    # could not be renewed meanwhile is taken at once. Nor does it help to watch how long the calls take: the one under
    # way is executed after the freeze. The function itself can see that its last round was too long ago.
    job = await own_driver.begin()
    instance = make("p")
    rounds = counted(instance, monkeypatch)
    instance.start()
    await more_rounds(rounds)
    await let_settle(instance, clock, own_driver)
    await own_driver.silence(LEASE_MS - 3000)
    own_server.freeze()
    await asyncio.sleep(3.5)
    clock.now += 9
    own_server.thaw()

    await more_rounds(rounds)

    assert await own_driver.state(job.id) == "IN_PROGRESS"


async def test_workers_get_time_to_renew_when_upkeep_begins(
    make: Make, own_driver: Driver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once: when store and gateway were down together, nobody could renew; the first round takes all leases at once.
    job = await own_driver.begin()
    await own_driver.pass_time(A_PAUSE_MS)
    await own_driver.silence()
    instance = make("p")
    rounds = counted(instance, monkeypatch)
    instance.start()

    await more_rounds(rounds)
    assert await own_driver.state(job.id) == "IN_PROGRESS"

    await let_settle(instance, clock, own_driver)

    assert await own_driver.state(job.id) == "IN_QUEUE"


async def test_one_broken_endpoint_does_not_stop_the_others(
    make: Make, own_store: Store, own_driver: Driver, clock: Clock
) -> None:
    # Once: an error of one endpoint counts as an outage of the store: leases are not recovered anywhere as long as
    # the endpoint stays broken. In a cluster, one node that is down does the same to the endpoints of the others.
    broken = await add_endpoint(own_store, "a-broken-one")
    await broken.key("DEL", "queue:low")
    job = await own_driver.begin()
    make("p").start()
    await asyncio.sleep(0.1)  # some rounds
    await own_driver.silence()

    async def recovered() -> bool:
        clock.now += 0.1
        await own_driver.pass_time(100)
        return await own_driver.state(job.id) == "IN_QUEUE"

    async with asyncio.timeout(3):
        await eventually(recovered)


async def test_stop_ends_the_rounds(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = make("p")
    rounds = counted(instance, monkeypatch)
    instance.start()
    await more_rounds(rounds)

    assert await ends(instance.stop())

    before = rounds.done
    await asyncio.sleep(0.05)
    assert rounds.done == before


async def test_stop_ends_the_rounds_even_when_the_client_swallows_the_cancellation() -> None:
    # Once: asyncio.wait_for of Python 3.11, which redis-py uses for writing, drops a cancellation that comes just as
    # the write is done. `stop` then waits for ever for a task that goes on. (A flag beside the cancellation would end
    # it; the listener of the wake-ups and the connection of the batcher stop in the same way.)
    asked = asyncio.Event()

    class Swallowing:
        async def call(self, *_: object) -> bool:
            asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(SECONDS)
            return False

    instance = Upkeep(cast(Any, None), cast(Any, Swallowing()), "p", cast(Any, None), cast(Any, None), nothing)
    instance.start()
    await asked.wait()

    assert await ends(instance.stop())


async def test_an_upkeep_that_never_began_can_be_stopped(make: Make) -> None:
    assert await ends(make("p").stop())
