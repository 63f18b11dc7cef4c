"""What handlers write down of what they do: JSON lines, in one file to which the processes of all workers append.

The checker of a history learns from it what really ran, whatever became of it on its way to the store.
"""

import json
import os
from typing import Any

LOG_VARIABLE = "FAULTS_LOG"


class Log:
    """The file that the environment names. Each line is one write, so lines of several processes do not mix. A process
    that is killed meanwhile may have written a part of it."""

    def __init__(self) -> None:
        self._file = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, kind: str, job: str, attempt: int, **more: Any) -> None:
        line = {"kind": kind, "job": job, "attempt": attempt, **more}
        os.write(self._file, b"\n" + json.dumps(line).encode() + b"\n")


def chunk_text(attempt: int, number: int, size: int = 0) -> str:
    """The chunk with this number, from 1 on, of an attempt."""
    return f"{attempt}:{number}:{'x' * size}"


def parse_chunk(text: str) -> tuple[int, int]:
    """Attempt and number of a chunk."""
    attempt, number, _ = text.split(":")
    return int(attempt), int(number)
