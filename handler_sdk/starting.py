"""The first steps of a worker's own process."""

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from .output import OWN
from .settings import LOG_FORMAT

if TYPE_CHECKING:
    from types import FrameType


def end_early_by_signals() -> None:
    """Until there is something to end in good order."""
    signal.signal(signal.SIGTERM, _exit_early)
    signal.signal(signal.SIGINT, _exit_early)


def set_up_logging() -> str:
    """Of a worker's own process, as RUNLANE_LOG_LEVEL says; returns what is wrong with that."""
    level = os.environ.get("RUNLANE_LOG_LEVEL", "info").upper()
    if level not in logging.getLevelNamesMapping():
        return f"RUNLANE_LOG_LEVEL must be debug, info, warning or error, not {level.lower()!r}"
    logging.basicConfig(stream=OWN, level=logging.WARNING, format=LOG_FORMAT)
    logging.getLogger("runlane").setLevel(level)
    return ""


def _exit_early(_number: int, _frame: "FrameType | None") -> None:
    sys.exit(0)
