"""A terminal for commands."""

import contextlib
import os
import pty
import subprocess

from ..processes import COMMAND, environment

COLUMNS = 60


class Terminal:
    """Runs a command with a terminal of its own, which is not that of the tests."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._ours, its = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment() | {"COLUMNS": str(COLUMNS)} | variables,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        self._shown = b""

    def answer(self, prompt: str, text: str) -> None:
        """Types a line, once it is asked for."""
        while not self._shown.endswith(prompt.encode()):
            assert self._read(), self._shown
        os.write(self._ours, text.encode() + b"\n")

    def end(self) -> list[str]:
        """The lines that it has shown, when it has ended well."""
        while self._read():
            pass
        os.close(self._ours)
        shown = self._shown.decode().replace("\r\n", "\n")
        assert self._process.wait() == 0, shown
        return shown.splitlines()

    def _read(self) -> bool:
        with contextlib.suppress(OSError):  # Linux's way of saying that the other side is closed
            data = os.read(self._ours, 4096)
            self._shown += data
            return bool(data)
        return False
