"""Who waits for what: one subscriber connection per store node, whatever the number of waiting requests and workers.

A process has one channel in each endpoint that it cares for. A job names the processes that watch it, so a job that
nobody waits for announces nothing. Subscribe first, then look: `watch` returns when the channel is subscribed, and the
functions that look at a job add this process to its watchers in the same step.

A message can get lost (a reconnect, a reader that is too slow for its queue). The watch then yields `Missed`, and its
owner looks again; chunks are numbered, so nothing is shown twice or left out.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, cast

import msgspec
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from handler_sdk.links.line import Line

from ..errors import Unavailable
from ..store import Store
from . import keys
from .tasks import end

logger = logging.getLogger(__name__)

MOST_WAITING_BYTES = 1024 * 1024
"""What a reader may leave unread in this process before it is told to read from the store again."""

BYTES_OF_EVENT = 200
"""About what an event takes besides its payload."""

LONGEST_SILENCE = 15.0
"""Seconds after which a waiting request looks at its job again, should a message have been lost without a trace."""

SECONDS_TO_SUBSCRIBE = 5.0
SECONDS_TO_PING = 10.0


class Chunks(msgspec.Struct):
    """Chunks that were written, the first of them at position `first`."""

    first: int
    chunks: list[bytes]


class Final(msgspec.Struct):
    """The job ended. `value` is the output or error that `field` names."""

    state: str
    created: int
    finished: int
    position: int
    started: int | None = None
    worker: str | None = None
    field: str | None = None
    value: bytes = b""


class Missed(msgspec.Struct):
    """Something happened that the message did not carry: look at the job."""


Event = Chunks | Final | Missed


class Header(msgspec.Struct):
    """What a message begins with; which fields there are depends on its kind. Those for workers: `job` (it is sent in
    answer to a poll), `stop` (there is something for the worker to stop), `quit` (it is about to end) and `look` (the
    store has forgotten the worker, and its polls)."""

    kind: str
    job: str = ""
    first: int = 0
    sizes: list[int] = []
    whole: bool = True
    state: str = ""
    created: int = 0
    finished: int = 0
    started: int | None = None
    worker: str | None = None
    position: int = 0
    field: str | None = None
    attempt: int = 0
    poll: str = ""
    size: int = 0


FOR_WORKERS = frozenset({"job", "stop", "quit", "look"})

_decode_header = msgspec.json.Decoder(Header).decode


def _event(header: Header, payload: bytes) -> Event:
    if not header.whole:
        return Missed()
    if header.kind == "chunks":
        chunks, start = [], 0
        for size in header.sizes:
            chunks.append(payload[start : start + size])
            start += size
        return Chunks(header.first, chunks)
    if header.kind == "final":
        return Final(header.state, header.created, header.finished, header.position, header.started, header.worker,
                     header.field, payload)  # fmt: skip
    return Missed()


class Watch:
    """What happens to one job, for one waiting request."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nothing more comes, for whatever reason."""
        return self._ended

    def end(self) -> None:
        """Nothing more is waited for, since this process is going or whoever asked is gone: `next` returns None."""
        self._ended = True
        self._wake()

    def put(self, event: Event, size: int) -> None:
        """Adds an event; a reader that is too far behind gets `Missed` for all that it has not seen."""
        size += BYTES_OF_EVENT
        if self._bytes + size > MOST_WAITING_BYTES:
            self._events.clear()
            self._bytes = 0
            event, size = Missed(), BYTES_OF_EVENT
        if isinstance(event, Missed) and self._events and isinstance(self._events[-1], Missed):
            return
        self._events.append(event)
        self._bytes += size
        self._wake()

    async def next(self, seconds: float) -> Event | None:
        """The next event, or None when none came within the time. A long silence counts as `Missed`."""
        if not self._events and not self._ended:
            await self._wait(min(seconds, LONGEST_SILENCE))
        if self._ended:
            return None
        if not self._events:
            return Missed() if seconds > LONGEST_SILENCE else None
        event = self._events.popleft()
        if not self._events:
            self._bytes = 0
        return event

    async def _wait(self, seconds: float) -> None:
        """A future and a timer: `asyncio.timeout` around an `asyncio.Event` takes three times as long."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Wakeups:
    """All watches of this process."""

    def __init__(self, store: Store) -> None:
        self.process = f"{os.getpid():x}-{os.urandom(6).hex()}"
        self._store = store
        self._watches: dict[tuple[str, str], set[Watch]] = {}
        self._listeners: dict[Redis, _Listener] = {}
        self._channels: dict[str, asyncio.Event] = {}
        self._draining = False
        self._for_workers: ForWorkers | None = None

    def attach(self, for_workers: "ForWorkers") -> None:
        """Gives what is sent to workers to this."""
        self._for_workers = for_workers

    def hears(self, endpoint: str) -> bool:
        """Whether this process has subscribed to the endpoint before, or is about to."""
        return keys.gateway_channel(endpoint, self.process) in self._channels

    async def subscribe(self, endpoint: str) -> None:
        """Returns when this process hears of the endpoint's jobs.

        Raises:
            Unavailable: when the store cannot be reached.
        """
        channel = keys.gateway_channel(endpoint, self.process)
        subscribed = self._channels.get(channel)
        if subscribed is None:
            subscribed = self._channels[channel] = asyncio.Event()
        if subscribed.is_set():
            return
        try:
            self._listener_of(channel).add(channel, subscribed)
            async with asyncio.timeout(SECONDS_TO_SUBSCRIBE):
                await subscribed.wait()
        except (RedisError, OSError, TimeoutError):
            raise Unavailable from None

    def _listener_of(self, channel: str) -> "_Listener":
        node = self._store.node_of(channel)
        if node not in self._listeners:
            self._listeners[node] = _Listener(node, self._receive, self._move)
        return self._listeners[node]

    async def _move(self, channels: list[str]) -> None:
        """These channels were lost with their connection, or their slot has moved: finds who serves them now. Whoever
        waits looks again, and once more when the channels are back."""
        self._wake_everyone()
        await self._store.learn_nodes()
        for channel in channels:
            with contextlib.suppress(RedisError, OSError):  # the next `subscribe` tries again
                self._listener_of(channel).add(channel, self._channels[channel])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_TO_SUBSCRIBE):
                for channel in channels:
                    await self._channels[channel].wait()
                self._wake_everyone()

    def watch(self, endpoint: str, job: str) -> "_Watching":
        """A watch as a context manager; `subscribe` comes first."""
        watching = _Watching(self._watches, (endpoint, job))
        if self._draining:
            watching.watch.end()
        return watching

    def drain(self) -> None:
        """Ends all waiting, now and from now on, so that requests under way answer with what they have."""
        self._draining = True
        for watches in self._watches.values():
            for watch in watches:
                watch.end()
        if self._for_workers is not None:
            self._for_workers.end()

    def watched(self, endpoint: str, job: str) -> bool:
        """Whether some request of this process still waits for the job."""
        return (endpoint, job) in self._watches

    async def close(self) -> None:
        """Ends the subscriptions."""
        await asyncio.gather(*(listener.close() for listener in self._listeners.values()))

    def _receive(self, channel: str, message: bytes) -> None:
        head, _, payload = message.partition(b"\n")
        try:
            header = _decode_header(head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.warning("a message on %s makes no sense", channel)  # workers of the endpoint can write there too
            return
        endpoint = channel[channel.index("{") + 1 : channel.index("}")]
        if header.kind in FOR_WORKERS:
            if self._for_workers is not None:
                self._for_workers.receive(endpoint, header, payload)
        elif watches := self._watches.get((endpoint, header.job)):
            event = _event(header, payload)
            for watch in watches:
                watch.put(event, len(payload))

    def _wake_everyone(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.put(Missed(), 0)
        if self._for_workers is not None:
            self._for_workers.look_again()


class ForWorkers(Protocol):
    """What happens to messages for workers whose polls this process holds."""

    def receive(self, endpoint: str, header: Header, payload: bytes) -> None: ...

    def look_again(self) -> None:
        """Messages may have been missed."""

    def end(self) -> None:
        """This process is going."""


class _Watching:
    def __init__(self, watches: dict[tuple[str, str], set[Watch]], key: tuple[str, str]) -> None:
        self._watches = watches
        self._key = key
        self.watch = Watch()

    def __enter__(self) -> Watch:
        self._watches.setdefault(self._key, set()).add(self.watch)
        return self.watch

    def __exit__(self, *_: object) -> None:
        rest = self._watches[self._key]
        rest.discard(self.watch)
        if not rest:
            del self._watches[self._key]


class _Listener:
    """The subscriptions at one node. Whatever is lost goes to `move`, which finds the node that serves it now."""

    def __init__(
        self,
        node: Redis,
        receive: Callable[[str, bytes], None],
        move: Callable[[list[str]], Coroutine[Any, Any, None]],
    ) -> None:
        self._node = node
        self._receive = receive
        self._move = move
        self._channels: dict[str, asyncio.Event] = {}
        self._wanted: deque[str] = deque()
        self._wanting = asyncio.Event()
        self._failures = 0
        self._line: Line | None = None
        self._heard = self._pinged = False
        self._moving: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, channel: str, subscribed: asyncio.Event) -> None:
        """Subscribes; the event is set when that is done."""
        if channel not in self._channels:
            self._channels[channel] = subscribed
            self._wanted.append(channel)
            self._wanting.set()
            self._subscribe()

    async def close(self) -> None:
        for task in (self._task, *self._moving):
            await end(task)

    async def _run(self) -> None:
        while True:
            await self._wanting.wait()
            lost = asyncio.Event()
            try:
                self._line = await Line.open(self._node.connection_pool, self._on_reply, lost.set)
                self._subscribe()
                await self._until(lost)
            except (RedisError, OSError) as error:
                logger.warning("lost the connection for wake-ups (%s); connecting again", error or type(error).__name__)
            except Exception:
                logger.exception("the connection for wake-ups has a fault; connecting again")
            finally:
                if self._line is not None:
                    self._line.cut()
                    self._line = None
            given_up = self._forget(list(self._channels))
            self._failures = min(self._failures + 1, 6)
            await asyncio.sleep(random.uniform(0.5, 1) * min(2.0, 0.05 * 2**self._failures))  # noqa: S311
            self._let_go(given_up)

    def _forget(self, channels: Iterable[str]) -> list[str]:
        forgotten = [channel for channel in channels if channel in self._channels]
        for channel in forgotten:
            self._channels.pop(channel).clear()
        self._wanted = deque(channel for channel in self._wanted if channel in self._channels)
        if not self._channels:
            self._wanting.clear()
        return forgotten

    async def _until(self, lost: asyncio.Event) -> None:
        """Listens until the connection is lost; one that answers no ping is."""
        while True:
            self._heard = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), SECONDS_TO_PING)
                raise RedisConnectionError("the store closed it")
            if not self._heard:
                if self._pinged:
                    raise RedisConnectionError("no answer to a ping")
                self._pinged = True
                cast(Line, self._line).send("PING")

    def _subscribe(self) -> None:
        while self._line is not None and self._wanted:
            self._line.send("SSUBSCRIBE", self._wanted.popleft())

    def _on_reply(self, reply: Any) -> None:
        self._heard, self._pinged = True, False
        if isinstance(reply, MovedError):
            self._let_go(self._forget([name for name in self._channels if key_slot(name.encode()) == reply.slot_id]))
        elif isinstance(reply, BaseException):
            raise reply
        elif reply[0] == b"smessage":
            self._receive(reply[1].decode(), reply[2])
        elif reply[0] == b"ssubscribe" and (channel := reply[1].decode()) in self._channels:
            self._failures = 0
            self._channels[channel].set()
        elif reply[0] == b"sunsubscribe":
            self._let_go(self._forget([reply[1].decode()]))

    def _let_go(self, channels: list[str]) -> None:
        """Another node serves these channels now."""
        moving = asyncio.get_running_loop().create_task(self._move(channels))
        self._moving.add(moving)
        moving.add_done_callback(self._moving.discard)
