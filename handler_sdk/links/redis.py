"""The link to a store that the worker reaches directly: Redis or Valkey, alone or a cluster.

Whatever goes wrong between here and the store is repeated after a pause, since every call may be repeated. When the
store says that it does not know this worker (its user is gone, the store was replaced, another one took over), the
worker registers again under the same id and goes on with what it is then told.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ..outcomes import Limits
from . import Attempt, Backoff, Begin, LinkError, RefusedError, TakenJob
from .line import Commands, Line
from .registration import Registered, Registration, UnreachableError

logger = logging.getLogger("runlane.link")

# An offer to take jobs is made anew after so long, should the store have forgotten it.
OFFER_SECONDS = 1.0

# Bytes of a call that is large.
LARGE = 65536
LARGE_CONNECTIONS = 8
LEAVE_SECONDS = 5.0

# A store that cannot be reached for longer may have been replaced: then the gateway is asked where it is.
LOST_SECONDS = 3.0
REJOIN_SECONDS = 1.0

Remedy = Literal["repeat", "register"]

_REGISTER_WORDS = (
    "NOGROUP",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "ACL failure",
    "Function not found",
    "READONLY",
    "no longer",
)
_REPEAT_WORDS = ("OOM", "MISCONF", "LOADING", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")


def remedy_for(error: BaseException) -> Remedy | None:
    """What helps against the error of a call; None when nothing does."""
    text = str(error)
    if isinstance(
        error,
        exceptions.AuthenticationError
        | exceptions.AuthorizationError
        | exceptions.NoPermissionError
        | exceptions.ReadOnlyError
        | exceptions.AskError,
    ):
        return "register"
    if isinstance(error, exceptions.ResponseError):
        if any(word in text for word in _REGISTER_WORDS):
            return "register"
        retried = exceptions.OutOfMemoryError | exceptions.ClusterDownError | exceptions.TryAgainError
        if isinstance(error, retried) or any(word in text for word in _REPEAT_WORDS):
            return "repeat"
        return None
    return "repeat"


class _Store:
    """Connections to the store, as one registration described it."""

    def __init__(self, registered: Registered, url: str) -> None:
        self.registered = registered
        self.described = False
        lease = registered.lease_ms / 1000
        self.seconds = seconds = min(10.0, max(1.0, lease / 3))
        options: dict[str, Any] = {
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "health_check_interval": 0,
        }
        self._pool = ConnectionPool.from_url(url, socket_timeout=seconds, **options)
        self._commands = Commands(self._pool, seconds)
        self._large: Any = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url, max_connections=LARGE_CONNECTIONS, timeout=None, socket_timeout=None, **options
            )
        )

    @classmethod
    async def open(cls, registered: Registered) -> "_Store":
        url = await _node_url(registered) if registered.cluster else registered.url
        return cls(registered, url)

    async def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function. What is large gets a connection of its own, so that no sign of life waits behind it."""
        command = ("FCALL", f"{self.registered.library}_{name}", 1, self.registered.base, *arguments)
        size = sum(len(argument) for argument in arguments if isinstance(argument, str | bytes))
        if size > LARGE or name == "fetch":
            async with asyncio.timeout(self.seconds):
                return await self._large.execute_command(*command)
        return await self._commands.execute(*command)

    async def listen(self, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> Line:
        line = await Line.open(self._pool, on_message, on_lost)
        line.send("SSUBSCRIBE", f"{self.registered.base}:worker:{self.registered.worker}")
        return line

    async def close(self) -> None:
        self._commands.close()
        try:
            await self._large.aclose()
        except (exceptions.RedisError, OSError):
            logger.debug("could not close a connection", exc_info=True)


async def _node_url(registered: Registered) -> str:
    """The address of the cluster's node that serves the endpoint: all its keys are in one slot."""
    from redis.asyncio.cluster import RedisCluster

    cluster = RedisCluster.from_url(registered.url, protocol=2, retry=Retry(NoBackoff(), 0))
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(registered.base)
    finally:
        await cluster.aclose()
    if node is None:
        raise exceptions.ClusterDownError("no node serves the endpoint")
    parts = urlsplit(registered.url)
    credentials, at, _ = parts.netloc.rpartition("@")
    host = f"[{node.host}]" if ":" in node.host else node.host
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}:{node.port}"))


class _LostReplyError(Exception):
    """A call that must not be repeated got no reply; the store may have executed it."""


class _Inbox:
    """Jobs that the store sent, and what the two know of each other.

    received: jobs given since the epoch began. offered: how many more the store may send. astray: some may be lost.
    """

    def __init__(self) -> None:
        self.jobs: deque[TakenJob] = deque()
        self.received = 0
        self.offered = 0
        self.astray = True
        self._epoch = ""
        self._offered_at = -OFFER_SECONDS
        self._begin: Begin | None = None
        self._capacity: Callable[[], int] = lambda: 0
        self._enough = 0
        self._changed = asyncio.Event()

    def put(self, words: list[str], rest: bytes) -> None:
        """A job came. While someone waits, one that is complete begins at once, before any other turn of the loop."""
        epoch, job, attempt, _, size = words
        if epoch != self._epoch:
            return  # given back since
        self.received += 1
        self.offered -= 1
        split = int(size)
        attempt_of = Attempt(job, int(attempt))
        if split < 0:
            self.jobs.append(TakenJob(attempt_of, None, b""))
        elif self._begin is None:
            self.jobs.append(TakenJob(attempt_of, rest[split:], rest[:split]))
        else:
            self._begin(TakenJob(attempt_of, rest[split:], rest[:split]))
        if self.jobs or self.offered < self._enough or self._capacity() <= 0:
            self._changed.set()

    def put_all(self, jobs: list[TakenJob], offered: int) -> None:
        """The reply to an offer: jobs, and how many more the store may send."""
        self.received += len(jobs)
        self.offered = offered
        self._offered_at = time.monotonic()
        self.jobs.extend(jobs)

    def has_offer_for(self, room: int) -> bool:
        """Whether the store may send about as much as there is room for, so that it need not be told anew."""
        is_fresh = time.monotonic() - self._offered_at < OFFER_SECONDS
        return is_fresh and _enough_for(room) <= self.offered <= room

    def take_all(self) -> list[TakenJob]:
        jobs = list(self.jobs)
        self.jobs.clear()
        return jobs

    def begin_epoch(self, epoch: int) -> None:
        self.jobs.clear()
        self._epoch, self.received, self.offered, self.astray = str(epoch), 0, 0, False

    def mark_astray(self) -> None:
        self.astray = True
        self._changed.set()

    def look_again(self) -> None:
        self._changed.set()

    async def wait(self, room: int, capacity: Callable[[], int], begin: Begin) -> None:
        """Waits until there is more to do than to begin jobs: an offer that is used up or to be withdrawn, a job to be
        fetched."""
        self._changed.clear()
        if self.jobs or self.astray:
            return
        self._begin, self._capacity, self._enough = begin, capacity, _enough_for(room)
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._begin = None


def _enough_for(room: int) -> int:
    return max(1, (room + 1) // 2)


class RedisLink:
    """See `Link`."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._current: _Store | None = None
        self._joining = asyncio.Lock()
        self._joined_at = 0.0
        self._lost_at: float | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._on_connected: Callable[[], None] = lambda: None
        self._inbox = _Inbox()

    @property
    def worker(self) -> str:
        return self._store.registered.worker

    @property
    def limits(self) -> Limits:
        return self._store.registered.limits

    @property
    def renewal_seconds(self) -> float:
        return min(5.0, self._store.registered.lease_ms / 6000)

    @property
    def _store(self) -> _Store:
        if self._current is None:
            raise RuntimeError("the worker has not joined yet")
        return self._current

    async def join(self) -> None:
        backoff, told = Backoff(0.2, 5.0), False
        while True:
            try:
                registered = await self._registration.join(None)
                self._current = await _Store.open(registered)
            except (UnreachableError, exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                if not told:
                    logger.warning("waiting for the gateway at %s: %s", self._registration.url, error)
                told = True
                await asyncio.sleep(backoff.next())
            else:
                logger.info("registered at %s as worker %s", self._registration.url, registered.worker)
                return

    async def take(self, capacity: Callable[[], int], held: Callable[[], list[str]], begin: Begin) -> None:
        inbox = self._inbox
        if inbox.astray:
            await self.decline(held)
        if not inbox.jobs:
            room = max(0, capacity())
            if not room and not inbox.offered:
                return
            if not inbox.has_offer_for(room):
                await self._offer(room)
            if room and not inbox.jobs:
                await inbox.wait(room, capacity, begin)
        await self._begin_all(inbox.take_all(), begin)

    async def _begin_all(self, jobs: list[TakenJob], begin: Begin) -> None:
        """Each begins as soon as it is here as a whole."""
        large = []
        for job in jobs:
            if job.input is None:
                large.append(self._fetch(job.attempt, begin))
            else:
                begin(job)
        failures = [failure for failure in await asyncio.gather(*large, return_exceptions=True) if failure is not None]
        if failures:
            self._inbox.mark_astray()  # what was not fetched has not begun
            raise failures[0]

    async def _fetch(self, attempt: Attempt, begin: Begin) -> None:
        reply = await self._call("fetch", attempt.job, attempt.number)
        if self._counts(attempt, reply):
            begin(TakenJob(attempt, reply[0], reply[1]))

    def look_again(self) -> None:
        self._inbox.look_again()

    async def decline(self, held: Callable[[], list[str]]) -> None:
        self._inbox.begin_epoch(await self._call("join", self.worker, *held()))

    async def _offer(self, room: int) -> None:
        """Asks for jobs; what is left of the room is an offer to the store, which sends what comes."""
        before = self._inbox.received
        try:
            rows: list[Any] = await self._call("take", self.worker, room, before, repeat=False)
        except _LostReplyError:
            self._inbox.mark_astray()  # the store may have given jobs that never came
            return
        jobs = [TakenJob(Attempt(job.decode(), int(number)), given, request) for job, number, _, given, request in rows]
        overtook = self._inbox.received - before  # messages that came before this reply used the offer up
        self._inbox.put_all(jobs, room - len(jobs) - overtook)

    async def emit(self, attempt: Attempt, first: int, chunks: list[bytes]) -> bool:
        return self._counts(attempt, await self._call("emit", attempt.job, attempt.number, first, *chunks))

    async def progress(self, attempt: Attempt, value: bytes) -> bool:
        return self._counts(attempt, await self._call("progress", attempt.job, attempt.number, value))

    async def finish(self, attempt: Attempt, state: str, field: str, value: bytes) -> bool:
        return self._counts(attempt, await self._call("finish", attempt.job, attempt.number, state, field, value))

    async def lose(self, attempt: Attempt, reason: str) -> bool:
        return self._counts(attempt, await self._call("lose", attempt.job, attempt.number, reason))

    async def renew(self, concurrency: int, state: str, attempts: list[Attempt]) -> list[tuple[Attempt, str]]:
        store = self._store
        description = "" if store.described else json.dumps(self._registration.description)
        gone_ms = round(max(3.0, 3 * self.renewal_seconds) * 1000)
        pairs = [value for attempt in attempts for value in attempt]
        reply = await self._call("renew", self.worker, gone_ms, concurrency, state, description, *pairs)
        store.described = True
        rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [(Attempt(job.decode(), int(number)), found.decode()) for job, number, found in rows]

    async def listen(self, on_stop: Callable[[Attempt, str], None], on_connected: Callable[[], None]) -> None:
        self._on_connected = on_connected
        backoff = Backoff()
        while True:
            store = self._store
            try:
                await self._receive(store, backoff, on_stop)
            except (exceptions.RedisError, OSError) as error:
                await self._recover(store, error, backoff)

    async def leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._call("leave", self.worker)
        except (TimeoutError, LinkError, RefusedError):
            logger.warning("could not say goodbye to the store; what this worker held goes back when its lease ends")
        await self._store.close()  # before the gateway takes its user away
        try:
            await self._registration.leave(self.worker)
        except UnreachableError as error:
            logger.warning("could not say goodbye to the gateway: %s", error)

    async def _receive(self, store: _Store, backoff: Backoff, on_stop: Callable[[Attempt, str], None]) -> None:
        """Listens until the connection is lost or another registration takes this one's place."""
        ended = asyncio.Event()
        failure: list[BaseException] = []
        heard = time.monotonic()

        def on_message(message: Any) -> None:
            nonlocal heard
            heard = time.monotonic()
            if isinstance(message, BaseException):
                failure.append(message)
                ended.set()
            elif message[0] == b"ssubscribe":
                backoff.reset()
                self._inbox.mark_astray()  # what was sent before may be lost
                self._on_connected()
            elif message[0] == b"sunsubscribe":
                ended.set()  # the store moved the channel elsewhere
            elif message[0] == b"smessage":
                self._on_message(message[2], on_stop)

        line = await store.listen(on_message, ended.set)
        try:
            while store is self._current:
                with suppress(TimeoutError):  # a short wait, so that a new registration is noticed
                    await asyncio.wait_for(ended.wait(), min(1.0, store.seconds / 3))
                    raise failure[0] if failure else exceptions.ConnectionError("the store ended the subscription")
                silence = time.monotonic() - heard
                if silence > store.seconds:
                    raise exceptions.ConnectionError("the subscription gives no answer")
                if silence > store.seconds / 3:
                    line.send("PING")
        finally:
            line.cut()

    def _on_message(self, message: bytes, on_stop: Callable[[Attempt, str], None]) -> None:
        head, _, rest = message.partition(b"\n")
        kind, *words = head.decode().split(" ")
        if kind == "job":
            self._inbox.put(words, rest)
        else:
            job, number, state = words
            on_stop(Attempt(job, int(number)), state)

    async def _call(self, name: str, *arguments: Any, repeat: bool = True) -> Any:
        backoff = Backoff()
        while True:
            store = self._store
            try:
                reply = await store.call(name, *arguments)
            except (exceptions.RedisError, OSError) as error:
                await self._recover(store, error, backoff)
                if not repeat:
                    raise _LostReplyError from None
            else:
                self._answered()
                return reply

    def _counts(self, attempt: Attempt, reply: Any) -> bool:
        if isinstance(reply, list) and reply[0] == b"STALE":
            logger.info("job %s is %s: what this attempt says counts no more", attempt, reply[1].decode())
            return False
        return True

    def _answered(self) -> None:
        if self._lost_at is not None:
            logger.info("the store is back after %.1f s", time.monotonic() - self._lost_at)
            self._lost_at = None
            self._on_connected()

    async def _recover(self, store: _Store, error: Exception, backoff: Backoff) -> None:
        """Does what helps against the error and pauses. Raises LinkError when nothing helps, RefusedError."""
        remedy = remedy_for(error)
        if remedy is None:
            raise LinkError(str(error)) from error
        now = time.monotonic()
        if self._lost_at is None:
            logger.warning("the store does not serve this worker: %s", str(error) or type(error).__name__)
            self._lost_at = now
        if remedy == "register" or now - self._lost_at > LOST_SECONDS:
            await self._rejoin(store)
        await asyncio.sleep(backoff.next())

    async def _rejoin(self, store: _Store) -> None:
        async with self._joining:
            if self._current is not store or time.monotonic() - self._joined_at < REJOIN_SECONDS:
                return
            self._joined_at = time.monotonic()
            try:
                registered = await self._registration.join(self.worker)
                self._current = await _Store.open(registered)
            except (UnreachableError, exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                logger.debug("could not register again: %s", error)
                return
        self._inbox.mark_astray()  # the new store may know of nothing
        logger.info("registered again as worker %s", self.worker)
        self._on_connected()
        closing = asyncio.create_task(store.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
