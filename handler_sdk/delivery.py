"""The way of one attempt's chunks, progress and outcome to the store, in order, while its handler runs on."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from .links import Attempt, Link
from .outcomes import Outcome

# The first chunk goes at once. Later ones wait this long for others, unless there are enough of them already.
BATCH_SECONDS = 0.002
BATCH_CHUNKS = 32
BATCH_BYTES = 262144


class Delivery:
    """`on_delivered` gets the number of bytes of chunks that reached the store, each time some did."""

    def __init__(self, link: Link, attempt: Attempt, on_delivered: Callable[[int], None]) -> None:
        self._link = link
        self._attempt = attempt
        self._on_delivered = on_delivered
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0
        self._sent_at = 0.0
        self._progress: bytes | None = None
        self._outcome: Outcome | None = None
        self._changed = asyncio.Event()

    def add_chunk(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._changed.set()

    def set_progress(self, value: bytes) -> None:
        self._progress = value
        self._changed.set()

    def end_with(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._changed.set()

    async def run(self) -> bool:
        """Delivers until the outcome is in the store, or until nothing of this attempt counts any more: then False.

        Raises LinkError, RefusedError.
        """
        current = True
        while current:
            if self._chunks:
                current = await self._emit()
            elif self._outcome is not None:
                return await self._link.finish(
                    self._attempt, self._outcome.state, self._outcome.field, self._outcome.value
                )
            elif self._progress is not None:
                value, self._progress = self._progress, None
                current = await self._link.progress(self._attempt, value)
            else:
                self._changed.clear()
                await self._changed.wait()
        return False

    async def _emit(self) -> bool:
        pause = self._sent_at + BATCH_SECONDS - time.monotonic()
        if pause > 0 and len(self._chunks) < BATCH_CHUNKS and self._bytes < BATCH_BYTES and self._outcome is None:
            await asyncio.sleep(pause)
        batch = self._next_batch()
        current = await self._link.emit(self._attempt, self._sent + 1, batch)
        self._sent += len(batch)
        self._sent_at = time.monotonic()
        self._on_delivered(sum(map(len, batch)))
        return current

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._chunks and (not batch or (size + len(self._chunks[0]) <= BATCH_BYTES and len(batch) < 256)):
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        self._bytes -= size
        return batch
