"""Finds the queue that one of Runqy's names means."""

import contextlib
import re
from typing import NamedTuple

from .engine.endpoints import ID, Endpoint, Endpoints
from .engine.keys import name_of
from .engine.queue_config import DEFAULT, QueueConfig, SubQueue, queue_of, sub_queue_of
from .errors import NotFound

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
"""What can be the name of a queue."""

MOST_REMEMBERED = 10_000


class Queue(NamedTuple):
    """A sub-queue of an endpoint."""

    endpoint: Endpoint
    sub_queue: str

    @property
    def name(self) -> str:
        """PARENT.SUB_QUEUE"""
        return f"{self.endpoint.id}.{self.sub_queue}"

    @property
    def queue(self) -> str:
        """What the engine calls it."""
        return queue_of(self.sub_queue)


class Group(NamedTuple):
    """What a name means to whoever manages queues: a queue by the engine's name, or all of an endpoint (None)."""

    endpoint: Endpoint
    queue: str | None

    @property
    def name(self) -> str:
        """PARENT.SUB_QUEUE, or PARENT."""
        return self.endpoint.id if self.queue is None else f"{self.endpoint.id}.{sub_queue_of(self.queue)}"


class Queues:
    """The queues, with the settings of those that were found before. A submission carries the stamp of the settings
    that it was checked by, and is refused when they have changed meanwhile: then `forget` them, and look again."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._known: dict[str, Endpoint] = {}

    async def find(self, tenant: str, name: str) -> Queue:
        """The queue that takes jobs under a name: `PARENT.SUB_QUEUE`, `PARENT` for its sub-queue `default`, or
        `PARENT_SUB_QUEUE`, as early versions of Runqy wrote it, where there is no endpoint `PARENT_SUB_QUEUE`.

        Raises:
            NotFound: there is none, or it is not enabled.
        """
        for id, sub_queue in _meanings(name):
            found = await self._find(name_of(tenant, id), sub_queue or DEFAULT)
            if found is not None:
                return found
        raise NotFound(f"queue not found: {name[:200] if '.' in name else f'{name[:200]}.{DEFAULT}'}")

    async def group(self, tenant: str, name: str) -> Group:
        """The queues that are managed under a name: `PARENT` means all of them, and the others are as those of `find`,
        enabled or not.

        Raises:
            NotFound: there is no such endpoint.
        """
        for id, sub_queue in _meanings(name):
            with contextlib.suppress(NotFound):
                endpoint = await self._endpoints.get(name_of(tenant, id))
                return Group(endpoint, queue_of(sub_queue) if sub_queue else None)
        raise NotFound(f"queue not found: {name[:200]}")

    def forget(self, endpoint: str) -> None:
        """The settings of an endpoint have changed."""
        self._known.pop(endpoint, None)

    async def _find(self, endpoint: str, sub_queue: str) -> Queue | None:
        found = self._known.get(endpoint)
        if found is None or not _takes(found, sub_queue):
            try:
                found = await self._endpoints.get(endpoint)
            except NotFound:
                self.forget(endpoint)
                return None
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[endpoint] = found
        return Queue(found, sub_queue) if _takes(found, sub_queue) else None


class Named(NamedTuple):
    """What a name stands for in the management: a sub-queue, or, when `sub_queue` is empty, all of an endpoint."""

    endpoint: Endpoint
    sub_queue: str

    @property
    def sub_queues(self) -> list[SubQueue]:
        """Those that it means, in the order in which they are served."""
        return sub_queues_of(self.endpoint.config.queue, self.sub_queue)

    @property
    def enabled(self) -> list[SubQueue]:
        """Those of them that take jobs."""
        return [each for each in self.sub_queues if each.enabled]


async def named(endpoints: Endpoints, tenant: str, name: str) -> Named | None:
    """What a name stands for, as it is at this moment; None when there is no such queue, and never was."""
    for id, sub_queue in _meanings(name):
        try:
            found = Named(await endpoints.get(name_of(tenant, id)), sub_queue)
        except NotFound:
            continue
        if found.sub_queues:
            return found
    return None


def sub_queues_of(config: QueueConfig, name: str = "") -> list[SubQueue]:
    """The sub-queue of this name, or all of them, in the order in which they are served."""
    return sorted((each for each in config.sub_queues if name in ("", each.name)), key=lambda each: -each.priority)


def split(name: str) -> tuple[str, str]:
    """An endpoint's id and the name of its sub-queue, empty when there is none. The first dot is between them."""
    id, _, sub_queue = name.partition(".")
    return id, sub_queue


def _meanings(name: str) -> list[tuple[str, str]]:
    """The ids and sub-queues that a name can mean; the first that there are count."""
    if not NAME.fullmatch(name) or name.endswith("."):
        return []
    found = [split(name)]
    first, _, last = name.rpartition("_")
    if "." not in name and last:
        found.append((first, last))
    return [(id, sub_queue) for id, sub_queue in found if ID.fullmatch(id)]


def _takes(endpoint: Endpoint, sub_queue: str) -> bool:
    found = endpoint.config.queue.find(sub_queue)
    return found is not None and found.enabled
