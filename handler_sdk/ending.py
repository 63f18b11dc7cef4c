"""The ends of the handler's process that nobody wished for."""

import asyncio
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # here, since nothing may be loaded between fork and exec


def die_with(parent: int) -> None:
    """This process is killed when `parent`, which has started it, ends (or its thread that has), where that can be had:
    on Linux. May be called between fork and exec."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def begin_task(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """A task that is in `tasks` for as long as it lasts. A fault in it ends the process: unseen, a job would hang."""
    task = asyncio.create_task(_watch(work))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _watch(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        end_after_fault()


def end_after_fault() -> NoReturn:
    """Ends this process with the traceback of the exception that is being handled."""
    print("runlane: the handler's process has a fault and ends", file=sys.stderr)
    traceback.print_exc()
    end_with_worker()


def end_with_worker() -> NoReturn:
    """Ends this process, and what it has started: the worker is gone, or would not be heard any more."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
