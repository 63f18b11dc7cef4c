"""Drives the functions of one endpoint as workers and gateways do, with a clock that the test can advance."""

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any, NamedTuple, cast

from redis.exceptions import ResponseError

from gateway.engine import keys
from gateway.store import LIBRARY, LIBRARY_SOURCE, Store

CLOCKED = f"{LIBRARY}_clocked"
"""The library with one difference: its time is the store's plus what the endpoint's key `:clock` says."""

QUEUES = ("normal:again", "normal", "low:again", "low")
GROUP = "workers"

LEASE_MS = 30_000
DAY_MS = 86_400_000
RETENTION_MS = 1_800_000

_NOW = """local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
_CLOCKED_NOW = """local function now(base)
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + (redis.call('GET', base .. ':clock') or 0)
end
"""


def clocked_source() -> str:
    """The source of the library `CLOCKED`."""
    before, definition, after = LIBRARY_SOURCE.replace(LIBRARY, CLOCKED).partition(_NOW)
    assert definition, "common.lua defines now() in another way; adapt the tests"
    return before + _CLOCKED_NOW + after.replace("now()", "now(keys[1])")


class Taken(NamedTuple):
    """A job that a worker has begun."""

    id: str
    attempt: int
    timeout: int
    input: str | None
    request: str


class Listening:
    """A worker's subscriptions, to its jobs and its stops."""

    def __init__(self, pubsub: Any) -> None:
        self.pubsub = pubsub
        self.epoch = 0

    async def next(self, seconds: float = 5) -> tuple[list[str], bytes] | None:
        """The words of the next message's first line, and what follows it; None when none came in time."""
        message = await self.pubsub.get_message(timeout=seconds)
        if message is None:
            return None
        head, _, payload = message["data"].partition(b"\n")
        return head.decode().split(), payload

    async def jobs(self, count: int) -> list[str]:
        """The ids of the next jobs."""
        messages = [await self.next() for _ in range(count)]
        return [message[0][1] for message in messages if message]

    async def __aenter__(self) -> "Listening":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pubsub.aclose()


class Driver:
    def __init__(self, store: Store, endpoint: str) -> None:
        self.store = store
        self.endpoint = endpoint
        self.base = keys.base(endpoint)
        self._ids = itertools.count(1)

    async def load(self) -> None:
        """Loads the library; it may be there already."""
        where = {"target_nodes": "primaries"} if self.store.clustered else {}
        try:
            await self.store.commands.execute_command("FUNCTION LOAD", clocked_source(), **where)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise

    async def call(self, function: str, *arguments: str | bytes | int) -> Any:
        """Calls a function; bytes in the reply become text."""
        command = ("FCALL", f"{CLOCKED}_{function}", 1, self.base, *arguments)
        return text(await self.store.commands.execute_command(*command))

    async def key(self, command: str, key: str, *arguments: str | bytes | int) -> Any:
        """Runs a command on one of the endpoint's keys."""
        return await self.raw(command, f"{self.base}:{key}", *arguments)

    async def raw(self, *command: str | bytes | int) -> Any:
        """Runs a command; its reply comes as it is, since the client's own rewriting of replies differs by protocol."""
        script = "return redis.call(unpack(ARGV))"
        return text(await cast(Any, self.store.commands.eval(script, 1, self.base, *command)))

    async def configure(self, **settings: int) -> None:
        defaults = {"timeout_ms": 600_000, "attempts": 3, "lease_ms": LEASE_MS, "retry_delay_ms": 0}
        pairs = [part for pair in (defaults | settings).items() for part in pair]
        assert await self.call("configure", "", *pairs) == "OK"

    async def change(self, **settings: int | str) -> None:
        """Changes settings of the endpoint that `configure` made."""
        version = await self.key("HGET", "settings", "version")
        assert await self.call("configure", version, *(part for pair in settings.items() for part in pair)) == "OK"

    def submission(
        self, id: str, *, input: str = "{}", queue: str = "normal", timeout: int = 0, ttl: int = DAY_MS,
        retention: int = RETENTION_MS, request: str = "", watcher: str = "", key: str = "", fingerprint: str = "",
        share: str = "", weight: int = 1, limit: str = "", webhooks: str = "", terms: str = "",
    ) -> tuple[str | int, ...]:  # fmt: skip
        """The arguments of `submit` for one job."""
        return (
            id, input, queue, timeout, ttl, retention, request, watcher, key, fingerprint, share, weight, webhooks,
            terms, limit,
        )  # fmt: skip

    async def submit(self, id: str | None = None, **options: Any) -> str:
        """Submits one new job and returns its id."""
        id = id or f"job-{next(self._ids)}"
        assert await self.call("submit", *self.submission(id, **options)) == ["NEW"]
        return id

    async def deliver(self, worker: str = "w", queue: str = "normal", count: int = 1) -> list[str]:
        """Claims entries without beginning their jobs, as nobody should. Returns (queue, entry, job id) of each, in one
        list."""
        stream = f"{self.base}:queue:{queue}"
        reply = await self.raw("XREADGROUP", "GROUP", GROUP, worker, "COUNT", count, "STREAMS", stream, ">")
        entries = reply[0][1] if reply else []
        return [part for entry, fields in entries for part in (queue, entry, id_at(entry, fields))]

    async def take(self, worker: str = "w", capacity: int = 1, *got: int) -> list[Taken]:
        """What a worker with room asks for; `got`: how many jobs have reached it since it joined."""
        return [Taken(*job) for job in await self.call("take", worker, capacity, *got)]

    async def begin(self, worker: str = "w", **options: Any) -> Taken:
        """Submits a job and has a worker begin it."""
        id = await self.submit(**options)
        (taken,) = await self.take(worker)
        assert taken.id == id
        return taken

    async def join(self, worker: str = "w", *has: Taken) -> "Listening":
        """A worker that listens for jobs; `has`: those that it runs."""
        node: Any = self.store.node_of(self.base)
        listening = Listening(node.pubsub())
        await listening.pubsub.ssubscribe(f"{self.base}:worker:{worker}", f"{self.base}:stops:{worker}")
        for _ in range(2):
            assert (await listening.pubsub.get_message(timeout=5))["type"] == "ssubscribe"
        listening.epoch = await self.call("join", worker, *(part for job in has for part in (job.id, job.attempt)))
        return listening

    async def emit(self, job: Taken, first: int, *chunks: str) -> Any:
        return await self.call("emit", job.id, job.attempt, first, *chunks)

    async def finish(self, job: Taken, state: str = "COMPLETED", field: str = "output", value: str = "1") -> Any:
        return await self.call("finish", job.id, job.attempt, state, field, value)

    async def state(self, id: str) -> str | None:
        return cast(str | None, await self.key("HGET", f"job:{id}", "state"))

    async def field(self, id: str, name: str) -> str | None:
        return cast(str | None, await self.key("HGET", f"job:{id}", name))

    async def queued(self, queue: str = "normal") -> list[str]:
        """The jobs of all entries in a queue, whether taken or not."""
        return [id_at(entry, fields) for entry, fields in await self.key("XRANGE", f"queue:{queue}", "-", "+")]

    async def leases(self) -> list[tuple[str, str, str]]:
        """(queue, entry, worker) of all pending entries."""
        found = []
        for queue in QUEUES:
            for item in await self.key("XPENDING", f"queue:{queue}", GROUP, "-", "+", 10_000):
                found.append((queue, *item[:2]))
        return found

    async def silence(self, ms: int = LEASE_MS + 1) -> None:
        """Makes all leases as old as if nobody had renewed them for so long."""
        for queue, entry, worker in await self.leases():
            await self.key("XCLAIM", f"queue:{queue}", GROUP, worker, 0, entry, "IDLE", ms, "JUSTID")

    async def pass_time(self, ms: int) -> None:
        """Advances the functions' clock."""
        await self.key("INCRBY", "clock", ms)

    async def upkeep(self, most: int = 100, settle: int = 0) -> dict[str, Any]:
        """One round: numbers of what was done, and the workers forgotten."""
        names = ("leases", "timeouts", "delayed", "forgotten", "workers", "webhooks")
        return dict(zip(names, await self.call("upkeep", most, settle), strict=True))

    async def keys(self) -> set[str]:
        """The names of all of the endpoint's keys, without the base and the clock."""
        node = self.store.node_of(self.base)
        found = {key.decode() async for key in node.scan_iter(match=f"{self.base}:*", count=10_000)}
        return {key.removeprefix(f"{self.base}:") for key in found} - {"clock"}


def id_at(entry: str, fields: list[str]) -> str:
    """The id of the job that an entry is of, as functions/sealed.lua has it."""
    if fields[0] == "job":
        return fields[1]
    return f"{fields[1].split()[0]}{int(entry.split('-')[0]):012x}"


async def ends(awaitable: Awaitable[None]) -> bool:
    """Whether it comes to its end within a time that is long enough."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait([task], timeout=2)
    if not task.done():
        task.cancel()
        return False
    task.result()
    return True


def text(reply: Any) -> Any:
    """A reply with text in place of bytes."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list | tuple):
        return [text(item) for item in reply]
    return reply
