"""A process that ends what another one has started when that one is gone: who was killed cannot do that itself.

The kernel can be asked to kill a child with its parent, but not what that child has started.
"""

import functools
import os
import signal
import sys
from contextlib import suppress
from subprocess import DEVNULL, PIPE, Popen


@functools.cache
def of_this_process() -> "Guard":
    """It is started by the first call."""
    return Guard()


class Guard:
    """Of this process."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__]
        self._process = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)

    def watch(self, group: int) -> None:
        """A process group is to end with this process."""
        self._say(f"+{group}\n")

    def forget(self, group: int) -> None:
        """It has ended."""
        self._say(f"-{group}\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101
        with suppress(OSError):  # without a guard, all else goes on
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Ends a process group by force, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """The guard, from its start to its end. Whoever signals all processes of a service means the others."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    main()
