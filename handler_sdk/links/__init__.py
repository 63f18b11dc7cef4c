"""How a worker is tied to its endpoint, whatever carries it.

Two ends, one for each process of a worker. The process that runs the handler has a `Link`: jobs come over it and
results go. The worker's own process has a `Membership`: signs of life go over it, and it is told what to stop.

Calls are repeated until they are answered, through outages of any length; cancel them to give up.

What carries it is the store itself, or HTTP to the gateway where the store cannot be reached (`choice`).
"""

import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ..outcomes import Limits

logger = logging.getLogger("runlane.link")


class Attempt(NamedTuple):
    job: str
    number: int

    def __str__(self) -> str:
        return f"{self.job} (attempt {self.number})"


class TakenJob(NamedTuple):
    """input and request (the other fields of the client's request) are JSON; request is b"" when there are none. The
    input is None while it is still to be fetched."""

    attempt: Attempt
    input: bytes | None
    request: bytes


Begin = Callable[[TakenJob], None]
"""Has a job run; it returns at once."""

HeldAttempts = Callable[[], list[Attempt]]
"""The attempts that the worker has."""


PROMPT_BYTES = 65536

# Bytes of a call besides what the handler gave, at most.
ROOM_FOR_IDS = 1024

Report = Coroutine[Any, Any, bool]
"""What is said of an attempt. With up to `PROMPT_BYTES`, it is sent before it is awaited, where the connection stands:
a handler may block the loop from then on. False when the attempt is not the job's newest any more: nothing more that
it says counts."""


LinkName = Literal["redis", "http"]


@dataclass(frozen=True)
class Registered:
    """What a worker knows from its registration. `serial` counts the registrations of one worker.

    link: what carries the worker's calls. url: of the store, with the worker's own credentials in it, or of the
    endpoint at the gateway. key: the worker's, for the gateway; "" when it needs none. cluster, library, base: of the
    store. queues: whose jobs it takes, as the gateway names them; "" for all.
    """

    serial: int
    worker: str
    link: LinkName
    url: str = field(repr=False)
    key: str = field(repr=False)
    cluster: bool
    library: str
    base: str
    lease_ms: int
    limits: Limits
    queues: str

    @property
    def other_end(self) -> str:
        """Who answers the worker's calls, for people."""
        return "the gateway" if self.link == "http" else "the store"

    @property
    def renewal_seconds(self) -> float:
        """The time between two signs of life."""
        return min(5.0, self.lease_ms / 6000)

    @property
    def gone_ms(self) -> int:
        """Without a sign of life for so long, the worker counts as gone."""
        return round(max(3.0, 3 * self.renewal_seconds) * 1000)

    @property
    def answer_seconds(self) -> float:
        """How long the answer to a call may take."""
        return min(10.0, max(1.0, self.lease_ms / 3000))


Register = Callable[[Registered], Awaitable[Registered]]
"""Gets a registration in place of one with which the worker is served no more, at once when there is a newer one
already.

Raises UnreachableError, RefusedError.
"""


class Told(NamedTuple):
    """What a worker tells besides its signs of life.

    figures: of its machine, as JSON; "" when there are no new ones. run: a word for this process of the worker. first:
    the number of the first line among all that the process has printed. lines: of each its age in ms, "stdout" or
    "stderr", and its text.
    """

    figures: str
    run: str
    first: int
    lines: Sequence[tuple[int, str, str]]


class LinkError(Exception):
    """A call was refused in a way that repeating it will not change."""


class LostReplyError(Exception):
    """A call that is not repeated got no reply; it may have been executed."""


class RefusedError(Exception):
    """The gateway does not want this worker; the text says why, for people."""


class UnreachableError(Exception):
    """There is no gateway, or it cannot register anybody now; the text says what was seen."""


class Link(Protocol):
    """Whatever is awaited raises LinkError and RefusedError."""

    @property
    def worker(self) -> str:
        """The worker's id, once the link is open."""

    @property
    def limits(self) -> Limits: ...

    async def open(self, registered: Registered) -> None:
        """Uses this registration from now on. Raises UnreachableError."""

    async def receive(self) -> None:
        """Lets jobs come, for as long as it runs."""

    async def take(self, capacity: Callable[[], int], held: HeldAttempts, begin: Begin) -> None:
        """Begins at most `capacity()` jobs, each as it comes; returns when there may be room for others to ask for, and
        after a while. With no capacity, an offer to take more is withdrawn."""

    def look_again(self) -> None:
        """The capacity has changed: `take` returns soon, at the latest when there is none."""

    async def give_back(self, held: HeldAttempts) -> None:
        """The worker takes no more: what is on its way to it goes back."""

    def sends_at_once(self, size: int) -> bool:
        """Whether a report with so many bytes would have been sent when the call that makes it returns."""

    def emit(self, attempt: Attempt, first: int, chunks: list[bytes]) -> Report:
        """Adds chunks to the attempt's stream; `first` is the number of the first of them, counted from 1."""

    def progress(self, attempt: Attempt, value: bytes) -> Report:
        """Not repeated, since there may be newer progress by then: raises LostReplyError."""

    def finish(self, attempt: Attempt, state: str, field: str, value: bytes) -> Report: ...

    async def close(self) -> None: ...


class Membership(Protocol):
    @property
    def registered(self) -> Registered:
        """The newest registration."""

    async def renew(self, concurrency: int, state: str, attempts: list[Attempt]) -> list[tuple[Attempt, str]]:
        """The worker's sign of life, and that of all that it was given. Returns those of the attempts that it holds no
        longer, and the state of their jobs."""

    async def listen(self, on_stop: Callable[[Attempt, str], None], on_missed: Callable[[], None]) -> None:
        """Tells, for as long as it runs, which attempts are to be stopped, and why. `on_missed` is called when messages
        may have been missed."""

    async def lose(self, attempt: Attempt, reason: str) -> None:
        """Gives the attempt up, so that the job is tried again or fails for good."""

    async def give_back(self, begun: list[Attempt]) -> None:
        """The handler's process is gone: what was sent to it and had not begun goes back. That was no try."""

    async def tell(self, told: Told) -> bool:
        """Says it once. Whether it was heard; lines that are told again are kept once."""

    async def leave(self) -> None:
        """Gives back what the worker holds and ends its registration, as far as that is possible in a few seconds."""


def log_stale(attempt: Attempt, state: str) -> None:
    """An attempt was told that it is not the job's newest any more."""
    logger.info("job %s is %s: what this attempt says counts no more", attempt, state)


class Backoff:
    """Pauses that grow, with jitter, so that many workers do not come back at the same moment."""

    def __init__(self, first: float = 0.05, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._steps = 0

    def next(self) -> float:
        """The next pause, in seconds."""
        pause = min(self._longest, self._first * 2.0 ** min(self._steps, 30))
        self._steps += 1
        return pause * random.uniform(0.5, 1.0)  # noqa: S311

    def reset(self) -> None:
        self._steps = 0
