"""The way of one attempt's chunks, progress and outcome to the store, in order, while its handler runs on."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from .links import Attempt, Link, LinkError
from .outcomes import Outcome

# The first chunk goes at once. Later ones wait this long for others, unless there are enough of them already.
BATCH_SECONDS = 0.002
BATCH_CHUNKS = 32
BATCH_BYTES = 262144


class Delivery:
    """What is added in one turn of the loop has been sent when the next one is over, unless it waits for others."""

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
        self._progress: bytes | None = None
        self._counts = True
        self._is_last = False
        self._changed = asyncio.Event()
        self._pumping: asyncio.Task[None] | None = None

    def add_chunk(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._pump()

    def set_progress(self, value: bytes) -> None:
        self._progress = value
        self._pump()

    async def finish(self, outcome: Outcome) -> bool:
        """Delivers what is left and the outcome. Returns True when it is in the store, False when it does not count any
        more."""
        if self._pumping is not None:
            self._is_last = True
            self._changed.set()
            await self._pumping
        if self._counts:
            await self._say(self._link.finish(self._attempt, outcome.state, outcome.field, outcome.value))
        return self._counts

    def cancel(self) -> None:
        """Nothing more is said."""
        if self._pumping is not None:
            self._pumping.cancel()

    def _pump(self) -> None:
        if self._pumping is None:
            self._pumping = asyncio.create_task(self._keep_sending())
        else:
            self._changed.set()

    async def _keep_sending(self) -> None:
        while self._counts:
            self._changed.clear()
            if self._chunks:
                await self._emit()
            elif self._is_last:
                break
            elif self._progress is not None:
                value, self._progress = self._progress, None
                await self._say(self._link.progress(self._attempt, value))
            else:
                await self._changed.wait()

    async def _say(self, saying: Awaitable[bool]) -> None:
        try:
            if not await saying:
                self._end("")
        except LinkError as error:
            self._end(str(error))

    def _end(self, objection: str) -> None:
        self._counts = False
        self._on_over(objection)

    async def _emit(self) -> None:
        pause = self._sent_at + BATCH_SECONDS - time.monotonic()
        if pause > 0 and len(self._chunks) < BATCH_CHUNKS and self._bytes < BATCH_BYTES and not self._is_last:
            await asyncio.sleep(pause)
        batch = self._next_batch()
        await self._say(self._link.emit(self._attempt, self._sent + 1, batch))
        self._sent += len(batch)
        self._sent_at = time.monotonic()
        self._on_delivered(sum(map(len, batch)))

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._chunks and (not batch or (size + len(self._chunks[0]) <= BATCH_BYTES and len(batch) < 256)):
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        self._bytes -= size
        return batch
