"""A job in the handler's process."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .delivery import BATCH_SECONDS, Delivery
from .home import Home
from .links import Attempt, Link
from .runners import JobRun
from .window import Window

R = TypeVar("R", bound=JobRun)

# Chunks of one job that are not yet in the store, in bytes, at most.
WINDOW = 8 * 1024 * 1024

# A task of the handler's that yields without end lets its loop turn so often. What a thread pays for the same, to wake
# the loop's and to be woken, is too much to be paid more often than chunks go out.
SECONDS_OF_TURN = 0.00025

# Turns of the loop after which a chunk is sent, if the reply to the one before has come: one to read the reply, one for
# who waits for it, and one because that may be done after who counts.
TURNS_TO_SEND = 3


class Job(Generic[R]):
    """From its begin until all that is to be known of it is in the store: its run by the handler, and its delivery.

    has_run: the handler is done with it.
    """

    def __init__(
        self,
        attempt: Attempt,
        run_for: Callable[["Job[R]"], R],
        link: Link,
        home: Home,
        on_over: Callable[[str], None],
    ) -> None:
        """`run_for` makes its run; for the rest see `Delivery`."""
        self.attempt = attempt
        self.has_run = False
        self._window: Window | None = None  # from the first chunk on
        self.delivery = Delivery(link, attempt, self._give_room, on_over)
        self._home = home
        self._waited_at = 0.0
        self.run = run_for(self)

    def send(self, chunk: bytes) -> None:
        """Delivers a chunk, from a thread of the handler's."""
        self._open_window().take(len(chunk), lambda: self.run.stopping)
        self._send_from_elsewhere(chunk)

    async def send_async(self, chunk: bytes) -> None:
        """Delivers a chunk, from a task of the handler's, in whatever loop."""
        window = self._window or self._open_window()
        if not window.take_now(len(chunk)):
            await window.take_async(len(chunk))
        if self._home.is_here:
            self.delivery.add_chunk(chunk)
            if self._is_time_to_wait(SECONDS_OF_TURN):
                await self._let_send()
        else:
            self._send_from_elsewhere(chunk)

    def show(self, progress: bytes) -> None:
        """Shows progress, in the loop; the latest wins."""
        self.delivery.set_progress(progress)

    def end_run(self) -> None:
        """Nothing more comes from the handler."""
        self.has_run = True
        if self.run.stopping:
            self.delivery.cancel()

    def let_go(self) -> None:
        """It is over. What it holds refers back to it: without that, it is all freed now, and not when the collector
        comes by."""
        self.delivery.cancel()
        del self.delivery, self.run

    def wake(self) -> None:
        """The run is to stop, and may wait for room."""
        if self._window is not None:
            self._window.wake()

    def _open_window(self) -> Window:
        if self._window is None:
            self._window = Window(WINDOW)
        return self._window

    def _give_room(self, size: int) -> None:
        self._open_window().give(size)

    def _send_from_elsewhere(self, chunk: bytes) -> None:
        if self._is_time_to_wait(BATCH_SECONDS):
            sent = threading.Event()
            if self._home.call(self._send, chunk, sent):
                sent.wait()
        else:
            self._home.call(self.delivery.add_chunk, chunk)

    def _send(self, chunk: bytes, sent: threading.Event) -> None:
        self.delivery.add_chunk(chunk)
        self._tell_when_sent(sent, TURNS_TO_SEND)

    def _tell_when_sent(self, sent: threading.Event, turns: int) -> None:
        if turns and self.delivery.holds_chunks:
            asyncio.get_running_loop().call_soon(self._tell_when_sent, sent, turns - 1)
        else:
            sent.set()

    async def _let_send(self) -> None:
        turns = TURNS_TO_SEND
        while turns and self.delivery.holds_chunks:
            await asyncio.sleep(0)
            turns -= 1

    def _is_time_to_wait(self, seconds: float) -> bool:
        """Whether the handler goes on only when the chunk is sent, since it may block the loop or hold the interpreter
        from then on. Of those that come within `seconds`, one waits."""
        now = time.monotonic()
        if now - self._waited_at < seconds:
            return False
        self._waited_at = now
        return True
