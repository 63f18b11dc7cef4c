"""`container.py once|always COMMAND…`: runs a command as a container does.

What is left of it ends with its first process. Each start has a new folder; with `always`, one follows each end.
"""

import itertools
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

from gateway.children import die_with_parent


def main() -> None:
    """Until the command has ended for good, or this process is told to end."""
    restart, *command = sys.argv[1:]

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, end)
    for number in itertools.count(1):
        folder = str(number)
        os.mkdir(folder)
        process = subprocess.Popen(
            command, cwd=folder, start_new_session=True, preexec_fn=die_with_parent(signal.SIGKILL)
        )
        try:
            process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if restart == "once":
            break


main()
