"""The process that imports the author's file and runs its handler.

Whatever happens here, a thread ends the process when the worker is gone, even while a model is loading.
"""

import gc
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import traceback

from .channel import Channel
from .ending import die_with
from .entry import PROCESS_VARIABLE, SOCKET_VARIABLE, WORKER_VARIABLE
from .frames import Kind
from .progress import report_to
from .runners import HandlerConfig
from .settings import LOG_FORMAT
from .taker import Taker
from .work import HandlerWork

_channel: Channel | None = None
_has_served = False


def serve(config: HandlerConfig) -> None:
    """What `start` does in the handler's process."""
    global _has_served
    assert _channel is not None  # noqa: S101
    _has_served = True
    taker = Taker(HandlerWork(config), _channel)
    report_to(taker.report_progress)
    os.register_at_fork(after_in_child=lambda: report_to(None))  # the connection to the store is not its own
    taker.serve()
    report_to(None)


def main(path: str, arguments: list[str]) -> int:
    """Runs the file as `python path argument…` would, in a process that a worker started."""
    global _channel
    channel = _channel = enter()
    _set_apart_what_stays()
    return _run_file(channel, path, arguments)


def _set_apart_what_stays() -> None:
    """Loads what this process needs of ours, and has the garbage collector look at it no more: a tenth of what a job
    costs here. The author's part is not set apart, since that may be replaced, and hold a graphics card's memory."""
    from .links import redis  # noqa: F401 - what most workers will use

    gc.collect()
    gc.freeze()


def enter() -> Channel:
    """Makes this process, which a worker started, one that takes jobs: from now on it ends with the worker."""
    connection = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    connection.set_inheritable(False)
    os.environ[PROCESS_VARIABLE] = str(os.getpid())
    channel = Channel(connection)
    die_with(int(os.environ.pop(WORKER_VARIABLE)))
    # Whoever signals the whole group or container means the worker, which then ends this process in its own time. A
    # handler that does nothing, unlike an ignored signal, is not passed on to programs that the author starts.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    _set_up_logging()
    threading.Thread(target=channel.watch, name="runlane-watch", daemon=True).start()
    return channel


def _set_up_logging() -> None:
    """Of the package alone: how the author logs is the author's."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter(LOG_FORMAT))
    package = logging.getLogger("runlane")
    package.addHandler(lines)
    package.propagate = False
    package.setLevel(os.environ.get("RUNLANE_LOG_LEVEL", "info").upper())


def _run_file(channel: Channel, path: str, arguments: list[str]) -> int:
    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as error:
        if _has_served:
            raise
        channel.send(Kind.BROKEN, f"it exited with status {error.code} before handler_sdk.start()".encode())
        return 1
    except BaseException as error:
        _print_traceback(error)
        channel.send(Kind.BROKEN, f"{type(error).__name__}: {error}".encode(errors="replace"))
        return 1
    if not _has_served:
        channel.send(Kind.BROKEN, b"it ended without a call of handler_sdk.start()")
        return 1
    return 0


def _print_traceback(error: BaseException) -> None:
    part = error.__traceback__
    while part is not None and (
        part.tb_frame.f_code.co_filename == __file__ or "runpy" in part.tb_frame.f_code.co_filename
    ):
        part = part.tb_next
    traceback.print_exception(type(error), error, part or error.__traceback__, file=sys.stderr)
