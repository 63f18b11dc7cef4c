"""Lines of JSON, by which an agent and the process of a task speak.

    agent to task: {"task_id", "type", "payload", "retry_count", "max_retry", "queue"}, and what is ours
    task to agent: {"status": "ready"} or {"status": "error", "error"}, then for each job {"task_id", "result", "error",
                   "retry"}, where an error of null or "" is none

That is the protocol of Runqy's worker; what else comes on the task's standard output is a log. Ours besides, when the
task says {"status": "ready", "runlane": {"stops": bool}}: `{"cancel": task_id}` to the task, and from it {"task_id",
"chunk"}, {"task_id", "progress"}, {"task_id", "streamed": true} as the end of a job without output of its own,
{"task_id", "stopped": true} as that of one that was to stop, "refresh": true beside each of these and a result when the
process is to be replaced, and {"runlane": {"concurrency": n}}.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

KEPT = 4096
"""Bytes of each end of a line that is too long."""

_TASK_ID = re.compile(rb'"task_id"\s*:\s*"([^"\\]{1,200})"')
_ANSWER = re.compile(rb"\s*\{\s*" + _TASK_ID.pattern)


class Line(NamedTuple):
    """size: of the line, in bytes. text: all of it, or the two ends of one that is too long."""

    text: bytes
    size: int

    @property
    def is_whole(self) -> bool:
        return len(self.text) == self.size

    @property
    def task_id(self) -> str:
        """The one that stands in it; "" when none is found."""
        return _named(_TASK_ID.search(self.text))

    @property
    def answers_to(self) -> str:
        """The one that it begins with, as answers do, whatever comes behind; "" when it does not."""
        return _named(_ANSWER.match(self.text))


def _named(found: re.Match[bytes] | None) -> str:
    return found[1].decode(errors="replace") if found else ""


class LineBuffer:
    """Cuts the bytes of a stream into lines. A line of more than `limit` bytes is not kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """Adds data and gives the lines that are complete with it. Take them all before the next call."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._add(end)
            yield self._take()
        self._add(rest)

    def end(self) -> Iterator[Line]:
        """What stands behind the last end of a line."""
        if self._size:
            yield self._take()

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > self.limit:
            joined = b"".join(self._pieces)
            self._pieces = [joined[:KEPT], joined[KEPT:][-KEPT:]]

    def _take(self) -> Line:
        line = Line(b"".join(self._pieces), self._size)
        self._pieces, self._size = [], 0
        return line


def message_in(text: bytes) -> dict[str, Any] | None:
    """The message that a line is; None when it is a log."""
    if not text.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not {"status", "task_id", "runlane"}.isdisjoint(found) else None


def one_line(value: bytes) -> bytes:
    """JSON without line breaks, which are nothing but space there."""
    return value.translate(_NO_BREAKS) if b"\n" in value or b"\r" in value else value


_NO_BREAKS = bytes.maketrans(b"\n\r", b"  ")
