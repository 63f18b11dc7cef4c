"""The ends of the handler's process that nobody wished for."""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import Any, NoReturn


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
