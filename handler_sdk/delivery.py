"""The way of one attempt's chunks, progress and outcome to the store, while its handler runs on."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from .ending import begin_task
from .links import PROMPT_BYTES, Attempt, Backoff, Link, LinkError, LostReplyError, Report
from .outcomes import Outcome

# The first chunk goes at once. Later ones wait this long for others, unless there are enough of them already.
BATCH_SECONDS = 0.002
BATCH_CHUNKS = 32
BATCH_BYTES = 262144

# Calls with progress of one job, at most: in a frozen store or a blocked loop, nothing is answered.
MOST_UNDER_WAY = 64


class Delivery:
    """Chunks and the outcome go in order, one call after the other; progress goes beside them, the latest wins.

    A chunk is sent before the call that adds it returns, unless another call is under way or the chunk before was sent
    less than `BATCH_SECONDS` ago.
    """

    def __init__(
        self, link: Link, attempt: Attempt, on_delivered: Callable[[int], None], on_over: Callable[[str], None]
    ) -> None:
        """
        Args:
            on_delivered: gets the number of bytes of chunks that reached the store, each time some did.
            on_over: called when nothing that this attempt says counts any more, with the store's objection to what it
                said, if that is why, else "".
        """
        self._link = link
        self._attempt = attempt
        self._on_delivered = on_delivered
        self._on_over = on_over
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0
        self._sent_at = 0.0
        self._progress: _Progress | None = None
        self._counts = True
        self._is_last = False
        self._sending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def holds_chunks(self) -> bool:
        """Whether there are chunks that have not been sent."""
        return bool(self._chunks)

    def add_chunk(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._sending is None and self._counts:
            pause = self._pause()
            self._sending = self._begin(self._keep_sending(pause, None if pause else self._send_next()))

    def set_progress(self, value: bytes) -> None:
        if self._counts and not self._is_last:
            if self._progress is None:
                self._progress = _Progress(self._say_progress, self._begin)
            self._progress.set(value)

    def sends_at_once(self, outcome: Outcome) -> bool:
        """Whether `finish` will have sent the outcome when it returns."""
        return self._sending is None and self._link.sends_at_once(len(outcome.value))

    def finish(self, outcome: Outcome) -> Report:
        """Delivers what is left, and the outcome."""
        self._end()
        if self._sending is None and self._counts:
            return self._say(self._send_outcome(outcome))
        return self._finish_after(self._sending, outcome)

    def cancel(self) -> None:
        """Nothing more is said."""
        self._end()
        for task in self._tasks:
            asyncio.get_running_loop().call_soon(task.cancel)  # later, since it may not have begun yet

    def _end(self) -> None:
        self._is_last = True
        if self._progress is not None:
            self._progress.end()
            self._progress = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return begin_task(work, self._tasks)

    async def _keep_sending(self, pause: float, report: Report | None) -> None:
        """Sends whatever there is, after a pause. `report`: what has been sent already."""
        while self._counts or report is not None:
            if pause:
                await asyncio.sleep(pause)
            if report is None and not self._chunks:
                break
            await self._say(report or self._send_next())
            pause, report = self._pause(), None
        self._sending = None

    async def _finish_after(self, sending: asyncio.Task[None] | None, outcome: Outcome) -> bool:
        if sending is not None:
            await sending
        return self._counts and await self._say(self._send_outcome(outcome))

    async def _say(self, report: Report) -> bool:
        objection = ""
        try:
            counts = await report
        except LinkError as error:
            counts, objection = False, str(error)
        if not counts and self._counts:
            self._counts = False
            self._on_over(objection)
        return self._counts

    def _pause(self) -> float:
        """For how many seconds the next chunks wait for others."""
        if not self._chunks or self._is_last or len(self._chunks) >= BATCH_CHUNKS or self._bytes >= BATCH_BYTES:
            return 0.0
        return max(0.0, self._sent_at + BATCH_SECONDS - time.monotonic())

    def _send_next(self) -> Report:
        batch = self._next_batch()
        first, self._sent = self._sent + 1, self._sent + len(batch)
        self._sent_at = time.monotonic()
        return self._emit(self._link.emit(self._attempt, first, batch), sum(map(len, batch)))

    async def _emit(self, report: Report, size: int) -> bool:
        counts = await report
        self._on_delivered(size)
        return counts

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._chunks and (not batch or (size + len(self._chunks[0]) <= BATCH_BYTES and len(batch) < 256)):
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        self._bytes -= size
        return batch

    def _say_progress(self, value: bytes) -> Report:
        return self._say(self._link.progress(self._attempt, value))

    def _send_outcome(self, outcome: Outcome) -> Report:
        return self._link.finish(self._attempt, outcome.state, outcome.field, outcome.value)


class _Progress:
    """Sends the newest progress without waiting for replies, which a handler may keep the loop from reading; not more
    often than chunks, and one at a time when it is large or the store is away, so that the latest wins."""

    def __init__(
        self,
        send: Callable[[bytes], Report],
        begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._send = send
        self._begin = begin
        self._newest = b""
        self._waits = False
        self._ended = False
        self._alone = False
        self._under_way = 0
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff()

    def set(self, value: bytes) -> None:
        self._newest, self._waits = value, True
        self._go_on()

    def end(self) -> None:
        """What has not been sent would not be seen."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        full = self._alone or self._under_way >= MOST_UNDER_WAY
        if not self._waits or self._ended or full or self._timer is not None:
            return
        pause = self._sent_at + BATCH_SECONDS - time.monotonic()
        if pause > 0:
            self._timer = asyncio.get_running_loop().call_later(pause, self._on_timer)
            return
        self._waits, self._sent_at = False, time.monotonic()
        self._under_way += 1
        self._alone = len(self._newest) > PROMPT_BYTES
        self._begin(self._follow(self._newest, self._send(self._newest)))

    def _on_timer(self) -> None:
        self._timer = None
        self._go_on()

    async def _follow(self, value: bytes, report: Report) -> None:
        try:
            await report
            self._backoff.reset()
        except LostReplyError:
            self._alone = True
            await asyncio.sleep(self._backoff.next())
            self._waits = self._waits or value is self._newest
        self._under_way -= 1
        if not self._under_way:
            self._alone = False
        self._go_on()
