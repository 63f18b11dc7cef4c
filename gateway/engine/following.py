"""One job as somebody follows it: first what is stored, then what the wake-ups bring."""

import math
import time
from typing import NamedTuple

from ..errors import Unavailable
from .engine import Engine, Job, Reading, State
from .wakeups import Chunks, Event, Final, Watch

SECONDS_TO_TRY_AGAIN = 1.0
"""Between two tries to read from a store that is away, unless its return is heard of before."""


class Arrived(NamedTuple):
    """Chunks from position `first` on.

    restarted: where a new attempt began, if it replaced one of which chunks were given before. missing: chunks before
    these are no longer kept.
    """

    first: int
    chunks: list[bytes]
    restarted: int | None = None
    missing: bool = False


class Follower:
    """Gives each chunk of a job once and in order, and then the job."""

    def __init__(
        self, engine: Engine, endpoint: str, job: str, watch: Watch, position: int = 0, *, is_new: bool = False
    ):
        """
        Args:
            watch: of this job, open from before the first look at it.
            position: of the last chunk that is known already.
            is_new: the job is submitted under this watch, so that there is nothing to read yet.
        """
        self._engine = engine
        self._endpoint = endpoint
        self._job = job
        self._watch = watch
        self._position = position
        self._restarted = 0  # where the newest attempt begins that we know of
        self._behind = not is_new

    async def next(self, seconds: float = math.inf) -> Arrived | Job | None:
        """The chunks that came next; the job, when it is final and all its chunks were given; None when nothing came
        within the time, or the watch has ended. A store that is away is waited for.

        Raises:
            NotFound: the job is gone.
        """
        deadline = time.monotonic() + seconds
        while True:
            patience = math.inf
            if self._behind:
                try:
                    found = await self._look()
                except Unavailable:
                    found, patience = None, SECONDS_TO_TRY_AGAIN
                if found is not None:
                    return found
            left = deadline - time.monotonic()
            event = await self._watch.next(min(left, patience))
            if event is None:
                if self._watch.ended or left <= patience:
                    self._behind = True  # after a silence, should a message have been lost
                    return None
            elif not self._behind and (found := self._take(event)) is not None:
                return found

    async def _look(self) -> Arrived | Job | None:
        while True:
            reading = await self._engine.read(self._endpoint, self._job, self._position)
            arrived = self._arrived(reading)
            has_more = bool(reading.chunks) and self._position < reading.job.chunks
            self._behind = has_more or reading.job.final
            if arrived is not None:
                return arrived
            if not has_more:
                break
        if not reading.job.final:
            return None
        job = await self._engine.status(self._endpoint, self._job, watch=True)  # with its output
        self._behind = False
        return job if job.final else None

    def _arrived(self, reading: Reading) -> Arrived | None:
        restarted = None
        if self._position <= reading.restarted != self._restarted:
            restarted = reading.restarted if self._position else None
            self._position = self._restarted = reading.restarted
        if not reading.chunks:
            return None if restarted is None else Arrived(reading.first, [], restarted)
        missing = reading.first > self._position + 1
        self._position = reading.first + len(reading.chunks) - 1
        return Arrived(reading.first, reading.chunks, restarted, missing)

    def _take(self, event: Event) -> Arrived | Job | None:
        if isinstance(event, Chunks) and event.first <= self._position + 1:
            known = self._position + 1 - event.first
            chunks = event.chunks[known:]
            self._position += len(chunks)
            return Arrived(event.first + known, chunks) if chunks else None
        if isinstance(event, Final) and event.position == self._position:
            return job_of(self._job, event)
        self._behind = True
        return None


def job_of(id: str, final: Final) -> Job:
    """The job as a wake-up describes its end."""
    return Job(
        id,
        State(final.state),
        final.created,
        final.started,
        final.finished,
        final.worker,
        chunks=final.position,
        output=final.value if final.field == "output" else None,
        error=final.value.decode(errors="replace") if final.field == "error" else None,
    )
