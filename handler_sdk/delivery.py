"""The way of one attempt's chunks, progress and outcome to the store, in order, while its handler runs on."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from .links import Attempt, Link, LinkError, Report
from .outcomes import Outcome

# The first chunk goes at once. Later ones wait this long for others, unless there are enough of them already.
BATCH_SECONDS = 0.002
BATCH_CHUNKS = 32
BATCH_BYTES = 262144


class Delivery:
    """What is added is sent before the call returns, unless something else is on its way or it waits for others."""

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
        self._answered_at = 0.0
        self._progress: bytes | None = None
        self._counts = True
        self._is_last = False
        self._sending: asyncio.Task[None] | None = None

    @property
    def holds_chunks(self) -> bool:
        """Whether there are chunks that have not been sent."""
        return bool(self._chunks)

    def add_chunk(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._go_on()

    def set_progress(self, value: bytes) -> None:
        self._progress = value
        self._go_on()

    def finish(self, outcome: Outcome) -> Report:
        """Delivers what is left, and the outcome."""
        self._is_last = True
        if self._sending is None:
            return self._say(self._send_outcome(outcome))
        return self._finish_after(self._sending, outcome)

    def cancel(self) -> None:
        """Nothing more is said."""
        if self._sending is not None:
            self._sending.cancel()

    def _go_on(self) -> None:
        if self._sending is None and self._counts:
            pause = self._pause()
            self._sending = asyncio.create_task(self._keep_sending(pause, None if pause else self._send_next()))

    async def _keep_sending(self, pause: float, report: Report | None) -> None:
        """Sends whatever there is, after a pause. `report`: what has been sent already."""
        while self._counts:
            if pause:
                await asyncio.sleep(pause)
            report = report or self._send_next()
            if report is None:
                break
            await self._say(report)
            pause, report = self._pause(), None
        self._sending = None

    async def _finish_after(self, sending: asyncio.Task[None], outcome: Outcome) -> bool:
        await sending
        return self._counts and await self._say(self._send_outcome(outcome))

    async def _say(self, report: Report) -> bool:
        objection = ""
        try:
            self._counts = await report
        except LinkError as error:
            self._counts, objection = False, str(error)
        if not self._counts:
            self._on_over(objection)
        return self._counts

    def _pause(self) -> float:
        """For how many seconds the next chunks wait for others."""
        if not self._chunks or self._is_last or len(self._chunks) >= BATCH_CHUNKS or self._bytes >= BATCH_BYTES:
            return 0.0
        return max(0.0, self._answered_at + BATCH_SECONDS - time.monotonic())

    def _send_next(self) -> Report | None:
        if self._chunks:
            batch = self._next_batch()
            first, self._sent = self._sent + 1, self._sent + len(batch)
            return self._emit(self._link.emit(self._attempt, first, batch), sum(map(len, batch)))
        if self._progress is not None:
            value, self._progress = self._progress, None
            return self._link.progress(self._attempt, value)
        return None

    async def _emit(self, report: Report, size: int) -> bool:
        counts = await report
        self._answered_at = time.monotonic()
        self._on_delivered(size)
        return counts

    def _send_outcome(self, outcome: Outcome) -> Report:
        return self._link.finish(self._attempt, outcome.state, outcome.field, outcome.value)

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._chunks and (not batch or (size + len(self._chunks[0]) <= BATCH_BYTES and len(batch) < 256)):
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        self._bytes -= size
        return batch
