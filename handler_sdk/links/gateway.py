"""The gateway as a worker reaches it over HTTP: calls that are repeated until they are answered.

Whatever goes wrong between here and the gateway is repeated after a pause, since every call may be repeated. When the
gateway says that it does not know this worker or its endpoint, the worker is registered again, which says why.
"""

import json
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from . import Attempt, Backoff, LinkError, LostReplyError, Register, Registered, UnreachableError, log_stale
from .http_connection import Answer, Exchange, Request
from .http_pool import Pool
from .recovery import Recovery

# How long the gateway holds an answer back: proxies cut a connection that is silent for a minute.
POLL_SECONDS = 25

T = TypeVar("T")

_REGISTER_STATUSES = (401, 403, 404)
_REPEAT_STATUSES = (408, 429)
_TOO_LARGE = 413


class _UnknownError(OSError):
    """The gateway does not know this worker, or not any more."""


class Gateway:
    """See the module. Open it before anything else."""

    _newest_return = 0
    """The number of the last `give_back` of this process."""

    def __init__(
        self, register: Register, on_restored: Callable[[], None] = lambda: None, outage_level: int = logging.WARNING
    ) -> None:
        """
        Args:
            register: see `Register`.
            on_restored: called when the gateway serves again after an outage, and after another registration.
            outage_level: of the log lines that say that the gateway does not serve, and that it does again.
        """
        self._on_restored = on_restored
        self._recovery = Recovery(
            "the gateway", lambda: self.registered, register, self.open, on_restored, outage_level
        )
        self._registered: Registered | None = None
        self._pool: Pool | None = None

    @property
    def registered(self) -> Registered:
        if self._registered is None:
            raise RuntimeError("the worker is not registered yet")
        return self._registered

    @property
    def stands(self) -> bool:
        """Whether a small request would be sent at once."""
        return self._connections.stands

    async def open(self, registered: Registered) -> None:
        """Uses this registration from now on. Raises UnreachableError."""
        if self._pool is None:
            pool = Pool(registered.url, registered.key, registered.answer_seconds)
            try:
                await pool.open()
            except OSError as error:
                raise UnreachableError(str(error) or type(error).__name__) from None
            self._pool, self._registered = pool, registered
        else:  # where the gateway is does not change
            self._registered = registered
            self._on_restored()

    def begin(self, request: Request, behind: Exchange | None = None) -> Exchange:
        """Sends a request; see `Pool.send`."""
        return self._connections.send(request, behind)

    async def complete(self, exchange: Exchange, read: Callable[[bytes], T]) -> T:
        """The answer to what `begin` has sent, as `read` understands it; a ValueError, KeyError or TypeError of it
        means that the gateway did not give it.

        Raises:
            LinkError: the gateway refuses the request for good.
            RefusedError: it does not want this worker any more.
            LostReplyError: there is no answer, and the request is not one to be repeated.
            WithdrawnError: the exchange was withdrawn.
        """
        backoff = Backoff()
        while True:
            registered = self.registered
            try:
                answer = _read(body_of(await exchange.answer), read)
            except OSError as error:
                if registered is self.registered:  # else there is another one since
                    problem = str(error) or type(error).__name__
                    await self._recovery.recover(problem, isinstance(error, _UnknownError), backoff)
                if not exchange.request.repeats:
                    raise LostReplyError from None
                exchange = self.begin(exchange.request)
            else:
                self._recovery.note_answer()
                return answer

    def call(
        self, method: str, path: str, body: Any, read: Callable[[bytes], T] = json.loads
    ) -> Coroutine[Any, Any, T]:
        """Sends a request with `body` as JSON, at once where a connection stands; await it for what `complete` returns
        or raises."""
        return self.complete(self.begin(Request(method, path, json.dumps(body).encode())), read)

    async def give_back(self, has: Sequence[Attempt]) -> None:
        """Whatever else the worker was given goes back to the queue. Calls have rising numbers, also those of the
        worker's other process: one that was held up on its way does nothing any more."""
        Gateway._newest_return = max(Gateway._newest_return + 1, time.time_ns() // 1000)
        body = {"number": Gateway._newest_return, "attempts": pairs_of(has)}
        await self.call("POST", path_of("job-return", self.registered.worker), body)

    def report(self, attempt: Attempt, exchange: Exchange) -> Coroutine[Any, Any, bool]:
        """What came of a request about an attempt. False when the attempt counts no more."""
        return self.complete(exchange, lambda body: _is_current(attempt, body))

    async def close(self) -> None:
        """Ends all connections."""
        if self._pool is not None:
            await self._pool.close()

    @property
    def _connections(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("the worker is not registered yet")
        return self._pool


def path_of(*parts: str | int, **query: str | int) -> str:
    """The path of a request."""
    path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
    return path + ("?" + urlencode(query, quote_via=quote) if query else "")


def pairs_of(attempts: Sequence[Attempt]) -> list[list[Any]]:
    """Attempts as the gateway knows them."""
    return [[attempt.job, attempt.number] for attempt in attempts]


def body_of(answer: Answer) -> bytes:
    """What a good answer says. Raises LinkError, and OSError when the request is to be repeated."""
    if answer.status in (200, 204):
        return answer.body
    error = error_in(answer.body)
    text = f"status {answer.status}, {error or ' '.join(answer.body[:200].decode(errors='replace').split())}"
    # What a proxy says passes, but that something is too large for it.
    is_final = 400 <= answer.status < 500 and answer.status not in _REPEAT_STATUSES
    if not is_final or (error is None and answer.status != _TOO_LARGE):
        raise OSError(text)
    if answer.status in _REGISTER_STATUSES:
        raise _UnknownError(text)
    raise LinkError(text)


def error_in(body: bytes) -> str | None:
    """What the gateway gave as an error; None when it is not the gateway that says this."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(body: bytes, read: Callable[[bytes], T]) -> T:
    try:
        return read(body)
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"its answer makes no sense ({error!r})") from None


def _is_current(attempt: Attempt, body: bytes) -> bool:
    reply = json.loads(body)
    if reply["status"] == "STALE":
        log_stale(attempt, reply["state"])
        return False
    if reply["status"] != "OK":
        raise ValueError(reply)
    return True
