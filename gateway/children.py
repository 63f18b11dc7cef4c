"""Processes that end with the one that started them, also when that one is killed and can tell them nothing."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # here, since nothing may be loaded between fork and exec


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the child gets this signal when the thread that started it ends. Linux only."""
    return functools.partial(die_with, os.getpid(), number)


def die_with(parent: int, number: signal.Signals) -> None:
    """In a child: this process gets the signal when its parent, the process `parent`, ends. Linux only."""
    if sys.platform != "linux":
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
