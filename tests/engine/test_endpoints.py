import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.engine import keys
from gateway.engine.batching import Batcher
from gateway.engine.endpoints import Config, Endpoints, parse_config
from gateway.engine.queue_config import QueueConfig, SubQueue
from gateway.errors import BadRequest, Conflict, NotFound
from gateway.store import Store

from .driver import Driver, ends

pytestmark = pytest.mark.every_store


@pytest.fixture
async def endpoints(store: Store) -> AsyncIterator[Endpoints]:
    batcher = Batcher(store)
    yield Endpoints(store, batcher)
    assert await ends(batcher.close())


@pytest.fixture
async def driver(store: Store, endpoint: str) -> Driver:
    """Drives the endpoint once the test has made it."""
    driver = Driver(store, endpoint)
    await driver.load()
    return driver


async def named(store: Store) -> set[str]:
    names: Any = await store.commands.smembers(keys.ENDPOINTS)
    return {name.decode() for name in names}


class TestCreate:
    async def test_gives_the_endpoint(self, endpoints: Endpoints, endpoint: str) -> None:
        made = await endpoints.create(endpoint, Config(name="My model", workers_max=5))

        assert made == await endpoints.get(endpoint)
        assert (made.id, made.version, made.config.name, made.config.workers_max) == (endpoint, 1, "My model", 5)

    async def test_twice_is_a_conflict_that_changes_nothing(self, endpoints: Endpoints, endpoint: str) -> None:
        made = await endpoints.create(endpoint, Config(name="first"))

        with pytest.raises(Conflict, match=endpoint):
            await endpoints.create(endpoint, Config(name="second"))

        assert await endpoints.get(endpoint) == made

    async def test_applies_the_settings_to_jobs(self, endpoints: Endpoints, driver: Driver) -> None:
        config = Config(execution_timeout_ms=7000, attempts=1, lease_seconds=1.5, retry_delay_seconds=2.5)
        made = await endpoints.create(driver.endpoint, config)

        job = await driver.begin()
        await driver.call("lose", job.id, 1, "gone")

        assert (job.timeout, made.lease_ms) == (7000, 1500)
        assert await driver.state(job.id) == "FAILED"
        assert await driver.key("HMGET", "settings", "lease_ms", "retry_delay_ms") == ["1500", "2500"]

    @pytest.mark.parametrize("id", ["", "-a", "a-", "_a", "a b", "a{b", "a}b", "a:b", "\u00e9", "a" * 64, "a\n"])
    async def test_refuses_ids_that_could_be_no_key(self, endpoints: Endpoints, store: Store, id: str) -> None:
        with pytest.raises(BadRequest):
            await endpoints.create(id, Config())
        with pytest.raises(NotFound):
            await endpoints.get(id)

        assert id not in await named(store)


class TestList:
    async def test_shows_all_by_id(self, endpoints: Endpoints, store: Store, endpoint: str) -> None:
        ids = [f"{endpoint}-{i}" for i in (2, 1, 3)]
        for id in ids:
            await endpoints.create(id, Config())
        await store.commands.sadd(keys.ENDPOINTS, f"{endpoint}-halfway")

        listed = [each.id for each in await endpoints.list("default")]

        assert [id for id in listed if id.startswith(endpoint)] == sorted(ids)


class TestUpdate:
    async def test_changes_only_what_is_named(self, endpoints: Endpoints, endpoint: str) -> None:
        before = await endpoints.create(endpoint, Config(name="model", workers_max=5))

        after = await endpoints.update(endpoint, {"workersMax": 7, "env": {"A": "1"}})

        assert after.config == msgspec.structs.replace(before.config, workers_max=7, env={"A": "1"})
        assert (after.version, after.created) == (2, before.created)

    async def test_at_the_same_time_as_another_is_a_conflict(
        self, endpoints: Endpoints, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = await endpoints.create(endpoint, Config())
        await endpoints.update(endpoint, {"attempts": 5})

        async def stale(id: str) -> Any:
            return seen

        monkeypatch.setattr(endpoints, "get", stale)
        with pytest.raises(Conflict, match="at the same time"):
            await endpoints.update(endpoint, {"attempts": 7})

        monkeypatch.undo()
        assert (await endpoints.get(endpoint)).config.attempts == 5

    async def test_of_what_is_not_there(self, endpoints: Endpoints, endpoint: str) -> None:
        with pytest.raises(NotFound):
            await endpoints.update(endpoint, {})

    async def test_with_a_wrong_value_changes_nothing(self, endpoints: Endpoints, endpoint: str) -> None:
        made = await endpoints.create(endpoint, Config())

        with pytest.raises(BadRequest, match="workersMax"):
            await endpoints.update(endpoint, {"workersMax": -1})

        assert await endpoints.get(endpoint) == made


class TestPut:
    async def test_makes_and_changes(self, endpoints: Endpoints, endpoint: str) -> None:
        seen: list[Config | None] = []

        def make(before: Config | None) -> Config:
            seen.append(before)
            return msgspec.structs.replace(before or Config(attempts=1), name=f"{len(seen)}")

        made = await endpoints.put(endpoint, make)
        changed = await endpoints.put(endpoint, make)

        assert seen == [None, made.config]
        assert (made.config.name, made.version, made.created) == ("1", 1, made.updated)
        assert (changed.config, changed.version) == (Config(attempts=1, name="2"), 2)
        assert made.updated <= changed.updated

    async def test_writes_nothing_when_nothing_differs(self, endpoints: Endpoints, endpoint: str) -> None:
        made = await endpoints.create(endpoint, Config(attempts=2))

        assert await endpoints.put(endpoint, lambda before: Config(attempts=2)) == made

    async def test_looks_again_when_another_was_faster(self, endpoints: Endpoints, endpoint: str) -> None:
        def add(before: Config | None) -> Config:
            env = before.env if before else {}
            return Config(env=env | {str(len(env)): "x"})

        await asyncio.gather(*(endpoints.put(endpoint, add) for _ in range(8)))

        found = await endpoints.get(endpoint)
        assert (len(found.config.env), found.version) == (8, 8)

    async def test_what_the_function_raises_is_raised_once(self, endpoints: Endpoints, endpoint: str) -> None:
        calls: list[Config | None] = []

        def make(before: Config | None) -> Config:
            calls.append(before)
            raise Conflict("not this one")

        for _ in range(2):
            with pytest.raises(Conflict, match="not this one"):
                await endpoints.put(endpoint, make)
            await endpoints.put(endpoint, lambda before: Config())

        assert calls == [None, Config()]

    async def test_what_could_not_be_read_again_is_not_written(self, endpoints: Endpoints, endpoint: str) -> None:
        sub_queues = [SubQueue("a.b", 1)]

        with pytest.raises(BadRequest, match="name"):
            await endpoints.put(endpoint, lambda before: Config(queue=QueueConfig(sub_queues=sub_queues)))

        with pytest.raises(NotFound):
            await endpoints.get(endpoint)


class TestDelete:
    async def test_leaves_no_key(self, endpoints: Endpoints, store: Store, driver: Driver) -> None:
        await endpoints.create(driver.endpoint, Config())
        running = await driver.begin("w")
        await driver.emit(running, 1, "1")
        await driver.submit()
        await driver.call("renew", "w", 30_000, 1, "ready", "{}", running.id, 1)

        await endpoints.delete(driver.endpoint)

        assert await driver.keys() == set()
        assert driver.endpoint not in await named(store)
        with pytest.raises(NotFound):
            await endpoints.get(driver.endpoint)

    async def test_of_more_jobs_than_one_step_takes(self, endpoints: Endpoints, driver: Driver) -> None:
        await endpoints.create(driver.endpoint, Config())
        jobs = [part for i in range(1100) for part in driver.submission(f"j{i}")]
        await driver.call("submit", *jobs)
        await driver.call("renew", "w", 30_000, 20, "ready", "")
        await driver.take("w", 20)

        await endpoints.delete(driver.endpoint)

        assert await driver.keys() == set()

    async def test_that_was_cut_short_can_be_done_again(self, endpoints: Endpoints, driver: Driver) -> None:
        # Once: a gateway that is killed in the middle leaves the endpoint without its settings. `delete` then says
        # that there is none, `create` fails since the queues are there, upkeep passes it by: the id is lost and its
        # keys stay for ever.
        await endpoints.create(driver.endpoint, Config())
        for _ in range(5):
            await driver.submit()
        assert await driver.call("remove", 2) == 0

        for _ in range(10):
            await driver.upkeep()
        try:
            await endpoints.delete(driver.endpoint)
        except NotFound:
            assert await driver.keys() == set()

        await endpoints.create(driver.endpoint, Config())
        assert (await driver.call("health"))[:5] == [0, 0, 0, 0, 0]

    async def test_of_what_is_not_there(self, endpoints: Endpoints, endpoint: str) -> None:
        with pytest.raises(NotFound):
            await endpoints.delete(endpoint)


class TestConfig:
    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"attempts": 0}, "attempts"),
            ({"attempts": "3"}, "attempts"),
            ({"executionTimeoutMs": 4999}, "executionTimeoutMs"),
            ({"leaseSeconds": 0.5}, "leaseSeconds"),
            ({"env": {"A": 1}}, "env"),
            ({"scalerType": "MAGIC"}, "scalerType"),
            ({"unknown": 1}, "unknown"),
        ],
    )
    async def test_names_what_is_wrong(self, fields: dict[str, Any], complaint: str) -> None:
        with pytest.raises(BadRequest, match=complaint):
            parse_config(fields)

    async def test_has_the_defaults_of_the_contract(self) -> None:
        config = parse_config({})

        assert (config.execution_timeout_ms, config.attempts, config.lease_seconds) == (600_000, 3, 30.0)

    async def test_comes_back_from_its_own_json(self) -> None:
        config = Config(name="\u00e9", env={"A": "b"}, gpu_type_ids=["x"])

        assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config
