"""The store as a worker reaches it: calls that are repeated until they are answered, a subscription that comes back.

Whatever goes wrong between here and the store is repeated after a pause, since every call may be repeated. When the
store says that it does not know this worker (its user is gone, the store was replaced, another one took over), the
worker is registered again under the same id and goes on with what it is then told.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import (
    PROMPT_BYTES,
    ROOM_FOR_IDS,
    Attempt,
    Backoff,
    LinkError,
    LostReplyError,
    Register,
    Registered,
    UnreachableError,
    log_stale,
)
from .line import Commands, Line
from .recovery import Recovery

logger = logging.getLogger("runlane.link")

LARGE_CONNECTIONS = 8

# A store that cannot be reached for longer may have been replaced: then the gateway is asked where it is.
LOST_SECONDS = 3.0

# So many questions into a silent subscription, one after the other, say that it is dead.
MOST_UNANSWERED = 2

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


def is_current(attempt: Attempt, reply: Any) -> bool:
    """Whether a function took what it was told of this attempt."""
    if isinstance(reply, list) and reply[0] == b"STALE":
        log_stale(attempt, reply[1].decode())
        return False
    return True


class _Connections:
    """To the store, as one registration described it. They are made when they are needed."""

    def __init__(self, registered: Registered, url: str) -> None:
        self.registered = registered
        self.seconds = seconds = registered.answer_seconds
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
        self._listening: Line | None = None
        self._is_closed = False

    @classmethod
    async def to(cls, registered: Registered) -> "_Connections":
        url = await _node_url(registered) if registered.cluster else registered.url
        return cls(registered, url)

    def send(self, name: str, *arguments: Any) -> Awaitable[Any]:
        """Calls a function, at once where the connection stands. Await it for the reply. What is large gets a
        connection of its own, so that nothing waits behind it."""
        command = ("FCALL", f"{self.registered.library}_{name}", 1, self.registered.base, *arguments)
        size = sum([len(argument) for argument in arguments if type(argument) is not int])
        if size > PROMPT_BYTES + ROOM_FOR_IDS or name == "fetch":
            return self._send_large(command)
        return self._commands.send(*command) or self._commands.execute(*command)

    async def _send_large(self, command: tuple[Any, ...]) -> Any:
        async with asyncio.timeout(self.seconds):
            return await self._large.execute_command(*command)

    async def ping(self) -> None:
        """Raises RedisError, OSError."""
        await self._commands.execute("PING")

    async def listen(self, channel: str, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> Line:
        self._listening = line = await Line.open(self._pool, on_message, on_lost)
        if self._is_closed:  # meanwhile
            line.cut()
            raise exceptions.ConnectionError("another registration took this one's place")
        line.send("SSUBSCRIBE", channel)
        return line

    async def close(self) -> None:
        self._is_closed = True
        self._commands.close()
        if self._listening is not None:
            self._listening.cut()
        try:
            await self._large.aclose()
        except (exceptions.RedisError, OSError):
            logger.debug("could not close a connection", exc_info=True)


async def probe(registered: Registered) -> None:
    """Returns when the store has answered this worker, whose calls would go there.

    Raises:
        RedisError, RedisClusterException, OSError: it cannot be reached, or does not serve the worker.
        ValueError: its address is none.
    """
    connections = await _Connections.to(registered)
    try:
        await connections.ping()
    finally:
        await connections.close()


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


class Store:
    """See the module. Open it before anything else."""

    def __init__(
        self, register: Register, on_restored: Callable[[], None] = lambda: None, outage_level: int = logging.WARNING
    ) -> None:
        """
        Args:
            register: see `Register`.
            on_restored: called when the store serves again after an outage, and after another registration.
            outage_level: of the log lines that say that the store does not serve, and that it does again.
        """
        self._on_restored = on_restored
        self._recovery = Recovery("the store", lambda: self.registered, register, self.open, on_restored, outage_level)
        self._current: _Connections | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def registered(self) -> Registered:
        return self._connections.registered

    @property
    def _connections(self) -> _Connections:
        if self._current is None:
            raise RuntimeError("the worker is not registered yet")
        return self._current

    async def open(self, registered: Registered) -> None:
        """Uses this registration from now on. Raises UnreachableError."""
        try:
            connections = await _Connections.to(registered)
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise UnreachableError(f"the cluster cannot be asked: {error}") from None
        before, self._current = self._current, connections
        if before is not None:
            closing = asyncio.create_task(before.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._on_restored()

    def call(self, name: str, *arguments: Any, repeat: bool = True) -> Coroutine[Any, Any, Any]:
        """Calls a function of the library on the endpoint: at once where the connection stands, before the call is
        awaited for its reply.

        Raises, when it is awaited:
            LinkError: the store refuses the call for good.
            RefusedError: the gateway does not want this worker any more.
            LostReplyError: there is no reply, and `repeat` is false.
        """
        connections = self._connections
        return self._reply_to(connections.send(name, *arguments), connections, name, arguments, repeat)

    async def try_once(self, name: str, *arguments: Any) -> bool:
        """Calls a function that may well fail. Whether the store did what it was told."""
        try:
            await self._connections.send(name, *arguments)
        except (exceptions.RedisError, OSError) as error:
            logger.debug("%s failed: %s", name, error)
            return False
        return True

    def report(self, name: str, attempt: Attempt, *arguments: Any, repeat: bool = True) -> Coroutine[Any, Any, bool]:
        """Calls a function for an attempt, as `call` does. False when the attempt counts no more."""
        return self._report(attempt, self.call(name, attempt.job, attempt.number, *arguments, repeat=repeat))

    async def receive(self, kind: str, on_message: Callable[[bytes], None], on_subscribed: Callable[[], None]) -> None:
        """Gives what comes in the worker's channel of this kind, for as long as it runs. `on_subscribed` is called
        each time that messages may have been missed before. Raises LinkError, RefusedError."""
        backoff = Backoff()

        def subscribed() -> None:
            backoff.reset()
            on_subscribed()

        while True:
            connections = self._connections
            try:
                await self._receive(connections, kind, on_message, subscribed)
            except (exceptions.RedisError, OSError) as error:
                await self._recover(connections, error, backoff)

    async def close(self) -> None:
        """Ends all connections."""
        if self._current is not None:
            await self._current.close()
        await asyncio.gather(*self._closing)

    async def _reply_to(
        self, reply: Awaitable[Any], connections: _Connections, name: str, arguments: tuple[Any, ...], repeat: bool
    ) -> Any:
        backoff = Backoff()
        while True:
            try:
                value = await reply
            except (exceptions.RedisError, OSError) as error:
                await self._recover(connections, error, backoff)
                if not repeat:
                    raise LostReplyError from None
                connections = self._connections
                reply = connections.send(name, *arguments)
            else:
                self._recovery.note_answer()
                return value

    async def _report(self, attempt: Attempt, calling: Coroutine[Any, Any, Any]) -> bool:
        return is_current(attempt, await calling)

    async def _receive(
        self,
        connections: _Connections,
        kind: str,
        on_message: Callable[[bytes], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        """Returns never: it ends with the connection."""
        ended = asyncio.Event()
        failure: list[BaseException] = []
        unanswered = 0

        def on_reply(reply: Any) -> None:
            nonlocal unanswered
            unanswered = 0
            if isinstance(reply, BaseException):
                failure.append(reply)
                ended.set()
            elif reply[0] == b"smessage":
                on_message(reply[2])
            elif reply[0] == b"ssubscribe":
                on_subscribed()
            elif reply[0] == b"sunsubscribe":
                ended.set()  # the store moved the channel elsewhere

        registered = connections.registered
        line = await connections.listen(f"{registered.base}:{kind}:{registered.worker}", on_reply, ended.set)
        try:
            while unanswered <= MOST_UNANSWERED:
                try:
                    await asyncio.wait_for(ended.wait(), connections.seconds / 3)
                except TimeoutError:
                    unanswered += 1
                    line.send("PING")
                else:
                    raise failure[0] if failure else exceptions.ConnectionError("the store ended the subscription")
            raise exceptions.ConnectionError("the subscription gives no answer")
        finally:
            line.cut()

    async def _recover(self, connections: _Connections, error: Exception, backoff: Backoff) -> None:
        """Does what helps against the error and pauses. Raises LinkError when nothing helps, RefusedError."""
        if connections is not self._current:
            return  # it was replaced
        remedy = remedy_for(error)
        if remedy is None:
            raise LinkError(str(error)) from error
        problem = str(error) or type(error).__name__
        must_register = remedy == "register" or self._recovery.seconds > LOST_SECONDS
        await self._recovery.recover(problem, must_register, backoff)
