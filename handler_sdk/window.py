"""How much of a job's stream may be on its way to the store at once."""

import asyncio
import threading
from collections.abc import Callable


class Window:
    """Counts the bytes that were sent and are not yet delivered; the producer waits while it is full.

    A single chunk larger than the whole window passes when nothing else is on its way.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()
        self._sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def take(self, size: int, given_up: Callable[[], bool]) -> None:
        """Waits for room and takes it; also returns when `given_up` says so after a `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: given_up() or self._has_room(size))
            self._used += size

    def take_now(self, size: int) -> bool:
        """Takes room if there is some; whether there was."""
        with self._changed:
            has_room = self._has_room(size)
            if has_room:
                self._used += size
            return has_room

    async def take_async(self, size: int) -> None:
        """Waits for room and takes it."""
        while (sleep := self._take_or_sleep(size)) is not None:
            await sleep.wait()

    def give(self, size: int) -> None:
        """Makes room, from any thread."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()
            if self._sleeper is not None:
                loop, event = self._sleeper
                loop.call_soon_threadsafe(event.set)
                self._sleeper = None

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._size

    def _take_or_sleep(self, size: int) -> asyncio.Event | None:
        with self._changed:
            if self.take_now(size):
                return None
            event = asyncio.Event()
            self._sleeper = asyncio.get_running_loop(), event
            return event
