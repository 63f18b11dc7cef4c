"""What happens to the engine when the nodes of a cluster come, go, and pass slots on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from gateway.engine import keys
from gateway.engine.engine import Engine
from gateway.engine.wakeups import Chunks, Missed
from gateway.errors import NotFound, Unavailable
from gateway.store import Store, open_store

from ..stores import Cluster, Server, valkey, wait_until
from .driver import Driver, ends


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that belongs to the test alone."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), valkey())
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def engine(cluster: Cluster) -> AsyncIterator[Engine]:
    store = await open_store(cluster.url)
    engine = Engine(store)
    yield engine
    closed = await ends(engine.close())
    await store.close()
    assert closed


async def driver_on(store: Store, node: Server, number: int = 0) -> Driver:
    """An endpoint whose keys are on the node."""

    def port(name: str) -> int:
        return cast(int, store.node_of(keys.base(name)).connection_pool.connection_kwargs["port"])

    found = [name for name in (f"e{i}" for i in range(100)) if port(name) == node.port]
    driver = Driver(store, found[number])
    await driver.load()
    await driver.configure()
    return driver


def identity(node: Server) -> str:
    with node.client as client:
        return cast(bytes, client.execute_command("CLUSTER", "MYID")).decode()


def move_slot(cluster: Cluster, slot: int, source: Server, target: Server) -> None:
    """Passes a slot with its keys from one node to another, as an operator does."""
    with source.client as here, target.client as there:
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", identity(source))
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", identity(target))
        names = cast(list[bytes], here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000))
        here.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
    for node in (target, source, *cluster.nodes):
        with node.client as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", identity(target))


async def answers(engine: Engine, endpoint: str) -> None:
    """Returns when the store answers for this endpoint, be it that there is none."""
    async with asyncio.timeout(5):
        while True:
            try:
                await engine.health(endpoint)
            except Unavailable:
                await asyncio.sleep(0.05)
            except NotFound:
                return
            else:
                return


async def test_a_node_that_is_down_costs_only_its_own_endpoints(cluster: Cluster, engine: Engine) -> None:
    drivers = [await driver_on(engine.store, node) for node in cluster.nodes]
    assert all([(await engine.health(driver.endpoint)).in_queue == 0 for driver in drivers])
    with cluster.nodes[1].client as client:
        client.execute_command("WAITAOF", 1, 0, 0)  # it may put off writing while the disk is busy
    cluster.nodes[1].kill()

    calls = [engine.health(driver.endpoint) for driver in drivers for _ in range(3)]
    replies = await asyncio.gather(*calls, return_exceptions=True)

    down = [isinstance(reply, Unavailable) for reply in replies]
    assert down == [False] * 3 + [True] * 3 + [False] * 3
    cluster.nodes[1].start()
    await answers(engine, drivers[1].endpoint)


async def test_a_slot_that_was_moved_is_followed(cluster: Cluster, engine: Engine) -> None:
    driver = await driver_on(engine.store, cluster.nodes[0])
    job = await driver.begin()
    slot = cast(Any, engine.store.commands).keyslot(driver.base)
    assert (await engine.status(driver.endpoint, job.id)).attempt == 1

    move_slot(cluster, slot, cluster.nodes[0], cluster.nodes[2])

    calls = [engine.status(driver.endpoint, job.id) for _ in range(5)]
    assert {found.id for found in await asyncio.gather(*calls)} == {job.id}


async def test_a_slot_that_was_moved_takes_no_wakeups_from_other_endpoints(cluster: Cluster, engine: Engine) -> None:
    # Once: the listener goes on to subscribe at the old node, which answers MOVED; that ends the connection each time,
    # with all channels of all other endpoints at this node.
    moved, staying = [await driver_on(engine.store, cluster.nodes[0], number) for number in (0, 1)]
    job = await staying.begin(watcher=engine.wakeups.process)
    for driver in (moved, staying):
        await engine.wakeups.subscribe(driver.endpoint)
    slot = cast(Any, engine.store.commands).keyslot(moved.base)

    with engine.wakeups.watch(staying.endpoint, job.id) as watch:
        move_slot(cluster, slot, cluster.nodes[0], cluster.nodes[2])
        await engine.health(moved.endpoint)
        assert await watch.next(5) == Missed()
        await asyncio.sleep(0.5)
        await staying.emit(job, 1, "a")

        events = [await watch.next(5)]
        while events[-1] == Missed():
            events.append(await watch.next(5))

    assert events[-1] == Chunks(1, [b"a"])


async def test_slots_of_a_lost_node_are_served_by_the_one_that_took_them_over(cluster: Cluster, engine: Engine) -> None:
    # Once: the map of the slots is read again only when the cluster client itself meets an error. The batcher's own
    # connections do not tell it, so that after a fail-over the endpoints of the lost node stay unavailable.
    lost, heir, other = cluster.nodes
    driver = await driver_on(engine.store, lost)
    await engine.health(driver.endpoint)
    name, slots = identity(lost), range(16384 // 3)
    lost.kill()
    with pytest.raises(Unavailable):
        await engine.health(driver.endpoint)

    for node in (heir, other):
        with node.client as client:
            client.execute_command("CLUSTER", "FORGET", name)
    with heir.client as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
    with other.client as client:
        wait_until(lambda: len(cast(list[Any], client.execute_command("CLUSTER SLOTS"))) >= 2)
        wait_until(lambda: cast(dict[str, str], client.cluster("INFO"))["cluster_slots_assigned"] == "16384")

    await answers(engine, driver.endpoint)
