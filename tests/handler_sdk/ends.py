"""The two ends of a worker, without its processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from handler_sdk.links import Attempt, Link, Membership, Registered, TakenJob, UnreachableError
from handler_sdk.links.choice import join, make_link
from handler_sdk.settings import Settings

from .conftest import BASE, Gateway, Store, eventually


class Worker(NamedTuple):
    """The two ends of a worker, in this process."""

    link: Link
    membership: Membership


@asynccontextmanager
async def joined(
    gateway: Gateway,
    on_stop: Callable[[Attempt, str], None] = lambda *_: None,
    missed: asyncio.Event | None = None,
    store: Store | None = None,
) -> AsyncIterator[Worker]:
    async def register(before: Registered) -> Registered:
        await membership.renew(1, "ready", [])
        if membership.registered is before:
            raise UnreachableError("there is no other registration yet")
        return membership.registered

    missed = missed or asyncio.Event()
    async with asyncio.timeout(20):
        membership = await join(Settings(gateway.url, "sdk", link=gateway.link), lambda: None)
        link = make_link(membership.registered, register)
        await link.open(membership.registered)
        tasks = [
            asyncio.create_task(link.receive()),
            asyncio.create_task(membership.listen(on_stop, missed.set)),
        ]
        try:
            await missed.wait()
            if gateway.link == "redis":
                await subscribed(store or gateway.store, membership.registered.worker)
            yield Worker(link, membership)
        finally:
            for task in tasks:
                task.cancel()
            await link.close()
            await membership.leave()


async def subscribed(store: Store, worker: str) -> None:
    """Waits until the store would send the worker its jobs."""
    channel = f"{BASE}:worker:{worker}"
    await asyncio.to_thread(eventually, lambda: store.client.pubsub_shardnumsub(channel)[0][1] > 0)


def one() -> int:
    return 1


def nothing() -> list[Attempt]:
    return []


async def take(link: Link, capacity: Callable[[], int]) -> list[TakenJob]:
    """The jobs that began during one call."""
    begun: list[TakenJob] = []
    await link.take(lambda: capacity() - len(begun), nothing, begun.append)
    return begun


async def blocked(store: Store) -> None:
    """Waits until a worker waits for a job."""

    def is_blocked() -> bool:
        return store.client.zcard(f"{BASE}:waiting") > 0

    await asyncio.to_thread(eventually, is_blocked)
