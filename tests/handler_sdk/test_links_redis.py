"""The link to the store, without a handler's process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from handler_sdk.links import Attempt, LinkError, RefusedError, TakenJob
from handler_sdk.links.redis import OFFER_SECONDS, RedisLink, remedy_for
from handler_sdk.links.registration import Registration
from handler_sdk.settings import Settings, SettingsError

from .conftest import BASE, Gateway, Jobs, Store, eventually


@asynccontextmanager
async def joined(
    gateway: Gateway,
    on_stop: Callable[[Attempt, str], None] = lambda *_: None,
    connected: asyncio.Event | None = None,
) -> AsyncIterator[RedisLink]:
    link = RedisLink(Registration(Settings(gateway.url, "sdk")))
    connected = connected or asyncio.Event()
    async with asyncio.timeout(20):
        await link.join()
        listening = asyncio.create_task(link.listen(on_stop, connected.set))
        await connected.wait()
        yield link
        listening.cancel()
        await link.leave()


def one() -> int:
    return 1


def nothing() -> list[str]:
    return []


async def take(link: RedisLink, capacity: Callable[[], int]) -> list[TakenJob]:
    """The jobs that began during one call."""
    begun: list[TakenJob] = []
    await link.take(lambda: capacity() - len(begun), nothing, begun.append)
    return begun


class TestTake:
    async def test_returns_jobs_that_wait_in_the_order_of_the_queues(
        self, gateway: Gateway, jobs: Jobs, store: Store
    ) -> None:
        first, second = jobs.submit({"n": 1}), jobs.submit([2], request='{"webhook": "w"}')
        async with joined(gateway) as link:
            taken = await take(link, lambda: 2)
            assert [job.attempt for job in taken] == [Attempt(first, 1), Attempt(second, 1)]
            assert [(job.input, job.request) for job in taken] == [(b'{"n": 1}', b""), (b"[2]", b'{"webhook": "w"}')]

    async def test_waits_for_a_job(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as link:
            taking = asyncio.create_task(take(link, lambda: 5))
            await blocked(gateway.store)
            job = await asyncio.to_thread(jobs.submit)
            assert [taken.attempt.job for taken in await taking] == [job]

    async def test_gives_up_waiting_after_about_a_second(self, gateway: Gateway) -> None:
        async with joined(gateway) as link, asyncio.timeout(2.5):
            assert await take(link, one) == []

    async def test_withdraws_its_offer_when_told_to_look_again(self, gateway: Gateway, jobs: Jobs) -> None:
        room = 1
        async with joined(gateway) as link:
            taking = asyncio.create_task(take(link, lambda: room))
            await blocked(gateway.store)
            room = 0
            link.look_again()
            async with asyncio.timeout(OFFER_SECONDS / 2):
                assert await taking == []
            assert await take(link, lambda: room) == []
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"

    async def test_takes_no_more_than_was_offered(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as link:
            taking = asyncio.create_task(take(link, one))
            await blocked(gateway.store)
            first, second = await asyncio.to_thread(lambda: (jobs.submit(), jobs.submit()))
            assert [taken.attempt.job for taken in await taking] == [first]
            assert jobs.state(second) == "IN_QUEUE"

    async def test_withdraws_its_offer_when_there_is_no_room_any_more(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as link:
            assert await take(link, one) == []
            assert await take(link, lambda: 0) == []
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"

    async def test_gets_a_job_that_is_too_large_for_a_message(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as link:
            taking = asyncio.create_task(take(link, one))
            await blocked(gateway.store)
            await asyncio.to_thread(jobs.submit, "x" * 100_000)
            assert [taken.input for taken in await taking] == [b'"' + b"x" * 100_000 + b'"']

    async def test_gives_back_what_never_arrived(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        """The store has sent a job, and the line broke before it was here."""
        async with joined(gateway) as link:
            taking = asyncio.create_task(take(link, one))
            await blocked(store)
            link._inbox._epoch = "another"  # whatever comes now is not heard
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_PROGRESS"
            store.client.client_kill_filter(_type="pubsub")
            found = [taken.attempt for taken in await taking]
            while not found:
                found = [taken.attempt for taken in await take(link, one)]
            assert found == [Attempt(job, 2)]
            assert jobs.fields(job)["tries"] == "1"

    async def test_declines_what_comes_from_then_on(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as link:
            assert await take(link, one) == []
            await link.decline(nothing)
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"


class TestReports:
    async def test_are_refused_from_an_attempt_that_is_over(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as link:
            (taken,) = await take(link, one)
            assert await link.emit(taken.attempt, 1, [b"1"])
            assert await link.progress(taken.attempt, b"{}")
            jobs.cancel(job)
            assert not await link.emit(taken.attempt, 2, [b"2"])
            assert not await link.progress(taken.attempt, b"{}")
            assert not await link.finish(taken.attempt, "COMPLETED", "output", b"1")
            assert not await link.lose(taken.attempt, "because")

    async def test_may_be_repeated(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as link:
            (taken,) = await take(link, one)
            assert await link.emit(taken.attempt, 1, [b"1", b"2"])
            assert await link.emit(taken.attempt, 2, [b"2", b"3"])
            assert jobs.chunks(job) == [1, 2, 3]
            assert await link.finish(taken.attempt, "COMPLETED", "output", b"7")
            assert await link.finish(taken.attempt, "COMPLETED", "output", b"7")

    async def test_with_a_gap_raise(self, gateway: Gateway, jobs: Jobs) -> None:
        jobs.submit()
        async with joined(gateway) as link:
            (taken,) = await take(link, one)
            with pytest.raises(LinkError, match="GAP"):
                await link.emit(taken.attempt, 2, [b"2"])

    async def test_wait_until_a_full_store_has_room(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        job = jobs.submit()
        async with joined(gateway) as link:
            (taken,) = await take(link, one)
            store.client.config_set("maxmemory", 1)
            try:
                emitting = asyncio.create_task(link.emit(taken.attempt, 1, [b"1"]))
                await asyncio.wait({emitting}, timeout=0.3)
                assert not emitting.done()
            finally:
                store.client.config_set("maxmemory", 0)
            assert await asyncio.wait_for(emitting, 5)
            assert jobs.chunks(job) == [1]


class TestRenewal:
    async def test_keeps_leases_and_names_those_that_lapsed(self, gateway: Gateway, jobs: Jobs) -> None:
        job, lost = jobs.submit(), jobs.submit()
        async with joined(gateway) as link:
            await take(link, lambda: 2)
            jobs.cancel(lost)
            for _ in range(8):
                lapsed = await link.renew(2, "ready", [Attempt(job, 1), Attempt(lost, 1)])
                assert lapsed == [(Attempt(lost, 1), "CANCELLED")]
                await asyncio.sleep(link.renewal_seconds)
            assert jobs.fields(job)["attempt"] == "1"
            assert jobs.state(job) == "IN_PROGRESS"

    async def test_interval_follows_the_lease(self, gateway: Gateway) -> None:
        gateway.lease_ms = 6000
        async with joined(gateway) as link:
            assert link.renewal_seconds == 1
        gateway.lease_ms = 600_000
        async with joined(gateway) as link:
            assert link.renewal_seconds == 5


class TestListen:
    async def test_tells_of_stops_and_of_connections(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        stops: asyncio.Queue[tuple[Attempt, str]] = asyncio.Queue()
        connected = asyncio.Event()
        job = jobs.submit()
        async with joined(gateway, lambda *stop: stops.put_nowait(stop), connected) as link:
            await take(link, one)
            connected.clear()
            store.client.client_kill_filter(_type="pubsub")
            await asyncio.wait_for(connected.wait(), 5)
            await asyncio.to_thread(jobs.cancel, job)
            assert await asyncio.wait_for(stops.get(), 5) == (Attempt(job, 1), "CANCELLED")


class TestRegistration:
    async def test_is_repeated_when_the_user_is_gone(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        make_user(store, "alice", "first")
        gateway.url_of_store = f"redis://alice:first@127.0.0.1:{store.port}/0"
        job = jobs.submit()
        async with joined(gateway) as link:
            (taken,) = await take(link, one)
            store.client.acl_deluser("alice")
            make_user(store, "alice", "second")
            gateway.url_of_store = f"redis://alice:second@127.0.0.1:{store.port}/0"
            assert await asyncio.wait_for(link.finish(taken.attempt, "COMPLETED", "output", b"1"), 5)
            assert jobs.state(job) == "COMPLETED"
            assert [body.get("id") for body in gateway.registrations] == [None, link.worker]
        store.client.acl_deluser("alice")

    async def test_is_repeated_when_a_permission_is_gone(self, gateway: Gateway, store: Store) -> None:
        make_user(store, "bob", "secret")
        gateway.url_of_store = f"redis://bob:secret@127.0.0.1:{store.port}/0"
        async with joined(gateway) as link:
            await link.renew(1, "ready", [])
            store.client.acl_setuser("bob", reset_keys=True)
            renewing = asyncio.create_task(link.renew(1, "ready", []))
            await asyncio.to_thread(eventually, lambda: len(gateway.registrations) == 2)
            make_user(store, "bob", "secret")
            assert await asyncio.wait_for(renewing, 5) == []
        store.client.acl_deluser("bob")

    async def test_that_is_refused_later_ends_every_call(self, gateway: Gateway, store: Store) -> None:
        async with joined(gateway) as link:
            gateway.status = 404
            store.client.delete(*(f"{BASE}:queue:{queue}" for queue in ("normal", "low", "normal:again", "low:again")))
            with pytest.raises(RefusedError, match="does not exist"):
                await asyncio.wait_for(take(link, one), 5)

    async def test_leads_to_the_store_that_took_over(
        self, gateway: Gateway, jobs: Jobs, store: Store, tmp_path: Path
    ) -> None:
        """The worker's address is that of a store that is no more."""
        other = Store(tmp_path)
        other.prepare()
        gateway.url_of_store = f"redis://127.0.0.1:{other.port}/0"
        job = jobs.submit()
        async with joined(gateway) as link:
            await link.renew(1, "ready", [])
            other.kill()
            gateway.url_of_store = f"redis://127.0.0.1:{store.port}/0"
            assert [taken.attempt.job for taken in await asyncio.wait_for(take(link, one), 12)] == [job]
        other.client.close()


class TestCluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Store]:
        store = Store(tmp_path, "--cluster-enabled", "yes")
        store.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: store.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        store.prepare()
        yield store
        store.client.close()
        store.kill()

    async def test_serves_like_a_single_store(self, cluster: Store) -> None:
        gateway = await asyncio.to_thread(Gateway, cluster)
        gateway.cluster = True
        jobs = Jobs(cluster)
        stops: asyncio.Queue[Any] = asyncio.Queue()
        try:
            async with joined(gateway, lambda *stop: stops.put_nowait(stop)) as link:
                first, second = jobs.submit(), jobs.submit()
                await take(link, lambda: 2)
                assert await link.emit(Attempt(first, 1), 1, [b"1"])
                assert await link.finish(Attempt(first, 1), "COMPLETED", "", b"")
                jobs.cancel(second)
                assert await asyncio.wait_for(stops.get(), 5) == (Attempt(second, 1), "CANCELLED")
        finally:
            await asyncio.to_thread(gateway.close)


class TestLeave:
    async def test_gives_back_what_is_held_and_says_goodbye(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        job = jobs.submit()
        async with joined(gateway) as link:
            await take(link, one)
        assert jobs.state(job) == "IN_QUEUE"
        assert gateway.left == [link.worker]
        consumers = store.client.xinfo_consumers(f"{BASE}:queue:normal", "workers")
        assert link.worker not in {consumer["name"] for consumer in consumers}


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (exceptions.ConnectionError("refused"), "repeat"),
        (exceptions.TimeoutError("slow"), "repeat"),
        (exceptions.BusyLoadingError("loading"), "repeat"),
        (exceptions.OutOfMemoryError("command not allowed"), "repeat"),
        (exceptions.ClusterDownError("down"), "repeat"),
        (exceptions.ResponseError("MISCONF disk"), "repeat"),
        (exceptions.AuthenticationError("WRONGPASS"), "register"),
        (exceptions.NoPermissionError("no"), "register"),
        (exceptions.ReadOnlyError("replica"), "register"),
        (exceptions.MovedError("1 host:1"), "register"),
        (exceptions.ResponseError("NOGROUP no such key"), "register"),
        (exceptions.ResponseError("ERR Function not found"), "register"),
        (exceptions.ResponseError("GAP"), None),
    ],
)
def test_every_error_has_its_remedy(error: Exception, remedy: str | None) -> None:
    assert remedy_for(error) == remedy


class TestSettings:
    @pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v2", "http://h:1/v2/"])
    def test_take_the_gateways_address_with_and_without_its_path(self, url: str) -> None:
        assert Settings.of({"RUNLANE_URL": url, "RUNLANE_ENDPOINT": "e"}).url == "http://h:1"

    @pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
    def test_refuse_impossible_times(self, seconds: str) -> None:
        with pytest.raises(SettingsError, match="RUNLANE_STOP_GRACE_SECONDS must be a number of seconds"):
            Settings.of({"RUNLANE_URL": "u", "RUNLANE_ENDPOINT": "e", "RUNLANE_STOP_GRACE_SECONDS": seconds})


def make_user(store: Store, name: str, password: str) -> None:
    store.client.acl_setuser(
        name, enabled=True, passwords=[f"+{password}"], keys=[BASE, f"{BASE}:*"], channels=["*"], categories=["+@all"]
    )


async def blocked(store: Store) -> None:
    """Waits until a worker waits for a job."""

    def is_blocked() -> bool:
        return store.client.zcard(f"{BASE}:waiting") > 0

    await asyncio.to_thread(eventually, is_blocked)
