"""Finds the queue that one of Runqy's names means."""

import re
from typing import NamedTuple

from .engine.endpoints import ID, Endpoint, Endpoints
from .engine.keys import name_of
from .engine.queue_config import DEFAULT, queue_of
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


class Queues:
    """The queues, with the settings of those that were found before. A submission carries the version of the settings
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
        parent, dot, sub_queue = name.partition(".")
        candidates = [(parent, sub_queue if dot else DEFAULT)]
        if not dot and "_" in name:
            first, _, last = name.rpartition("_")
            candidates.append((first, last))
        for id, candidate in candidates:
            found = await self._find(name_of(tenant, id), candidate) if ID.fullmatch(id) else None
            if found is not None:
                return found
        raise NotFound(f"queue not found: {name[:200] if dot else f'{name[:200]}.{DEFAULT}'}")

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


def _takes(endpoint: Endpoint, sub_queue: str) -> bool:
    found = endpoint.config.queue.find(sub_queue)
    return found is not None and found.enabled
