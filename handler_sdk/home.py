"""The loop that the link lives in, as the other threads of the handler's process reach it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Home:
    """Made anywhere; entered in the loop itself, before anything is called there."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def enter(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def is_here(self) -> bool:
        """Whether this thread is the loop's."""
        return threading.get_ident() == self._thread

    def call(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """Calls a function in the loop: at once when this is its thread, or there is no loop yet and so nothing that it
        could disturb; else soon. False when the loop is no more."""
        if self._loop is None or self.is_here:
            function(*arguments)
            return True
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True
