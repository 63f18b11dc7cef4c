"""Keeps the endpoints as the queue files say: at the start, when it is told to, and whenever the files change.

Each gateway process does it by itself, and writes only what differs; so it does no harm that several do the same.
"""

import asyncio
import functools
import logging
from pathlib import Path
from typing import NamedTuple

import msgspec
import watchfiles
from redis.exceptions import RedisError

from .engine.endpoints import Config, Endpoints
from .engine.keys import name_of
from .engine.queue_config import QueueConfig
from .engine.tasks import end
from .errors import BadRequest, Conflict, Unavailable
from .queue_definition import QueueDefinition
from .queue_files import Files, Parsed, parse, read
from .settings import Settings
from .store import OUTAGES

logger = logging.getLogger(__name__)

MS_BETWEEN_LOOKS = 2000
"""The files are looked at as often as this without word of a change: it does not come from every file system, nor when
a link above the directory is changed, as git-sync does it."""

SECONDS_BEFORE_NEXT_TRY = 1.0


class Loaded(NamedTuple):
    """What came of it: the sub-queues that are as the files say, what went wrong, and the sub-queues that were disabled
    since they are in the files no more."""

    reloaded: list[str]
    errors: list[str]
    removed: list[str]


class QueueLoader:
    """Loads the queue files of a gateway process."""

    def __init__(self, endpoints: Endpoints, settings: Settings) -> None:
        self._endpoints = endpoints
        self._folder = Path(settings.queue_files) if settings.queue_files else None
        self._watches = settings.queue_files_watch
        self.tenant = settings.queue_files_tenant
        self._seen: Files | None = None
        self._lock = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the files, and watches them from then on. Nothing is disabled yet: what is no more in the files of a
        gateway that starts may be in those of the others."""
        if self._folder is None:
            return
        await self._load(self._folder, prune=False)
        if self._watches:
            self._task = asyncio.get_running_loop().create_task(self._watch(self._folder))

    async def stop(self) -> None:
        """Ends the watching."""
        self._stopping.set()
        if self._task is not None:
            await end(self._task)

    async def reload(self) -> Loaded:
        """Loads the files now, whether they have changed or not."""
        if self._folder is None:
            return Loaded([], ["there are no queue files: queue_files (QUEUE_WORKERS_DIR) is not set"], [])
        return await self._load(self._folder, prune=True)

    async def _watch(self, folder: Path) -> None:
        while not self._stopping.is_set():
            try:
                await self._load(folder, prune=True, only_changed=True)
                async for _ in watchfiles.awatch(
                    folder,
                    watch_filter=None,
                    recursive=False,
                    stop_event=self._stopping,
                    rust_timeout=MS_BETWEEN_LOOKS,
                    yield_on_timeout=True,
                ):
                    await self._load(folder, prune=True, only_changed=True)
            except (*OUTAGES, RedisError, Unavailable, RuntimeError) as error:
                # Or the directory is not there, or the system watches no more of them: we look again by ourselves.
                logger.debug("queue files: %s", error)
                await asyncio.sleep(SECONDS_BEFORE_NEXT_TRY)

    async def _load(self, folder: Path, prune: bool, only_changed: bool = False) -> Loaded:
        async with self._lock:
            files = await asyncio.to_thread(read, folder)
            if only_changed and files == self._seen:
                return Loaded([], [], [])
            loaded = await self._apply(parse(files), prune)
            self._seen = files
        for error in loaded.errors:
            logger.error("queue files: %s", error)
        for name in loaded.removed:
            logger.warning("queue %s is in the queue files no more and is disabled", name)
        return loaded

    async def _apply(self, parsed: Parsed, prune: bool) -> Loaded:
        loaded = Loaded([], list(parsed.errors), [])
        for id, definition in parsed.queues.items():
            try:
                await self._endpoints.put(name_of(self.tenant, id), functools.partial(_as_said, id, definition))
            except (BadRequest, Conflict) as error:
                loaded.errors.append(f"queue {id!r}: {error.message}")
            else:
                loaded.reloaded.extend(f"{id}.{sub_queue}" for sub_queue in definition.names())
        if prune:
            await self._prune(parsed, loaded)
        return loaded

    async def _prune(self, parsed: Parsed, loaded: Loaded) -> None:
        for endpoint in await self._endpoints.list(self.tenant):
            id = endpoint.id
            names = parsed.queues[id].names() if id in parsed.queues else []
            if id in parsed.wrong or not _gone(endpoint.config.queue, names):
                continue
            if not parsed.complete:
                loaded.errors.append(f"queue {id!r} stays: not all files can be read, and it may be in another")
                continue
            try:
                await self._endpoints.put(endpoint.name, functools.partial(_without_gone, names))
            except Conflict as error:
                loaded.errors.append(f"queue {id!r}: {error.message}")
            else:
                loaded.removed.extend(f"{id}.{sub_queue}" for sub_queue in _gone(endpoint.config.queue, names))


def _as_said(id: str, definition: QueueDefinition, before: Config | None) -> Config:
    """What else is set for an endpoint stays."""
    config = before or Config(name=id)
    return msgspec.structs.replace(config, queue=definition.over(before.queue if before else None, from_files=True))


def _gone(queue: QueueConfig, names: list[str]) -> list[str]:
    """The sub-queues that came from files, and are in none any more."""
    return [each.name for each in queue.sub_queues if each.enabled and each.from_files and each.name not in names]


def _without_gone(names: list[str], before: Config | None) -> Config:
    if before is None:
        raise Conflict("it was deleted at the same time")
    return msgspec.structs.replace(before, queue=before.queue.switched(_gone(before.queue, names), False))
