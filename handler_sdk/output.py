"""What the worker and the handler's process print: passed on to where it went before, and kept to be told as lines.

It is kept as it came, in blocks, and cut into lines when they are told: a handler may print a hundred megabytes a
second, nearly all of which is thrown away again.
"""

import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple

Stream = Literal["stdout", "stderr"]

# Of one line, and of all lines that are told at once; what is more is left out, the oldest first.
MOST_IN_LINE = 8192
MOST_BYTES = 65536
MOST_LINES = 500

# A line that has no end yet, such as a progress bar, is told as it is after so long.
UNFINISHED_SECONDS = 5.0

_READ_AT_ONCE = 65536
_DESCRIPTORS: dict[Stream, int] = {"stdout": 1, "stderr": 2}


class Line(NamedTuple):
    """number: among all lines, from 1. at: of the monotonic clock, when its end was read. left_out: it stands for so
    many lines that are not here."""

    number: int
    at: float
    stream: Stream
    text: str
    left_out: int = 0


class _Skipped(NamedTuple):
    """lines: whose ends were thrown away. is_whole: nothing of another line was."""

    lines: int
    is_whole: bool


_NOTHING_SKIPPED = _Skipped(0, True)


class Output:
    """Gets what is printed, from any thread, and gives it as lines, in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[tuple[float, Stream, bytes]] = deque()
        self._size = 0
        self._skipped: dict[Stream, _Skipped] = {}
        self._cutters: dict[Stream, _Cutter] = {"stdout": _Cutter(), "stderr": _Cutter()}
        self._lines: deque[Line] = deque()
        self._newest = 0

    def add(self, stream: Stream, block: bytes) -> None:
        """Something was printed."""
        with self._lock:
            self._blocks.append((time.monotonic(), stream, block))
            self._size += len(block)
            while self._size - len(self._blocks[0][2]) >= MOST_BYTES:
                _, of, oldest = self._blocks.popleft()
                self._size -= len(oldest)
                before = self._skipped.get(of, _NOTHING_SKIPPED).lines
                self._skipped[of] = _Skipped(before + oldest.count(b"\n"), oldest.endswith(b"\n"))

    def lines(self, final: bool = False) -> list[Line]:
        """All lines that were not heard yet, their numbers without a gap: at most `MOST_LINES`, and `MOST_BYTES` of
        text. Where there were more, one says so in their place. `final`: also what has no end yet."""
        self._cut(final)
        self._shorten()
        return list(self._lines)

    def heard(self, number: int) -> None:
        """The lines up to this one need not be told again."""
        while self._lines and self._lines[0].number <= number:
            self._lines.popleft()

    def copy(self, stdout: int, stderr: int, on_end: Callable[[], None]) -> None:
        """Begins to pass on what comes out of two pipes, as this process's own output, until nobody has their other
        ends any more; then calls `on_end`, in a thread of its own."""
        pipes: dict[int, Stream] = {stdout: "stdout", stderr: "stderr"}
        threading.Thread(target=self._copy, args=(pipes, on_end), name="runlane-output", daemon=True).start()

    def _copy(self, pipes: dict[int, Stream], on_end: Callable[[], None]) -> None:
        poll = select.poll()
        for pipe in pipes:
            poll.register(pipe, select.POLLIN)
        while pipes:
            for pipe, _ in poll.poll():
                block = os.read(pipe, _READ_AT_ONCE)
                if block:
                    _pass_on(_DESCRIPTORS[pipes[pipe]], block)
                    self.add(pipes[pipe], block)
                else:
                    poll.unregister(pipe)
                    os.close(pipe)
                    del pipes[pipe]
        on_end()

    def _cut(self, final: bool) -> None:
        with self._lock:
            blocks, self._blocks = self._blocks, deque()
            skipped, self._skipped = self._skipped, {}
            self._size = 0
        for stream, (number, is_whole) in skipped.items():
            self._cutters[stream].skip(is_whole)
            self._keep(blocks[0][0], stream, number)
        for at, stream, block in blocks:
            for found in self._cutters[stream].feed(block, at):
                self._keep(at, stream, found)
        now = time.monotonic()
        for stream, cutter in self._cutters.items():
            if final or now - cutter.since > UNFINISHED_SECONDS:
                for found in cutter.flush():
                    self._keep(now, stream, found)

    def _keep(self, at: float, stream: Stream, found: str | int) -> None:
        """A line, or so many that were lost."""
        if isinstance(found, str):
            self._newest += 1
            self._lines.append(Line(self._newest, at, stream, found))
        elif found:
            self._newest += 1
            self._lines.append(_left_out(self._newest, at, stream, found))

    def _shorten(self) -> None:
        """Leaves the oldest out, when there are too many."""
        size = sum(len(line.text) for line in self._lines)
        if len(self._lines) <= MOST_LINES and size <= MOST_BYTES:
            return
        number = 0
        while len(self._lines) >= MOST_LINES or size > MOST_BYTES:
            oldest = self._lines.popleft()
            size -= len(oldest.text)
            number += oldest.left_out or 1
        self._lines.appendleft(_left_out(oldest.number, oldest.at, oldest.stream, number))


class _Cutter:
    """Cuts what one stream has into lines. Of what a carriage return has overwritten, as progress bars do, only the
    last is left."""

    def __init__(self) -> None:
        self.since = 0.0
        """When the line that has no end yet began."""
        self._text, self._more = b"", 0
        self._overwritten = b"", 0
        self._skips = False

    def skip(self, is_whole: bool) -> None:
        """A part was lost, and with it the line that it ends in, unless that was whole."""
        self._clear()
        self._skips = not is_whole

    def feed(self, block: bytes, at: float) -> Iterator[str | int]:
        """The lines that end in this block, or how many are left out."""
        *ended, rest = block.rsplit(b"\n", MOST_LINES)
        if ended and (self._skips or b"\n" in ended[0]):
            yield 1 + ended[0].count(b"\n")
            self._clear()
            self._skips = False
            del ended[0]
        for part in ended:
            self._add(part, at)
            yield self._end()
        if rest and not self._skips:
            self._add(rest, at)

    def flush(self) -> Iterator[str]:
        """The line that has no end yet, if there is one."""
        if self._text or self._overwritten[0]:
            yield self._end()

    def _add(self, part: bytes, at: float) -> None:
        if not self._text and not self._overwritten[0]:
            self.since = at
        *overwritten, last = part.split(b"\r")
        for each in overwritten:
            self._append(each)
            if self._text:
                self._overwritten = self._text, self._more
            self._text, self._more = b"", 0
        self._append(last)

    def _append(self, part: bytes) -> None:
        room = MOST_IN_LINE - len(self._text)
        self._text += part[:room]
        self._more += max(0, len(part) - room)

    def _end(self) -> str:
        text, more = (self._text, self._more) if self._text else self._overwritten
        self._clear()
        shown = text.decode(errors="replace")
        return f"{shown} [runlane: {more} bytes more]" if more else shown

    def _clear(self) -> None:
        self._text, self._more = b"", 0
        self._overwritten = b"", 0


def _left_out(number: int, at: float, stream: Stream, lines: int) -> Line:
    return Line(number, at, stream, f"[runlane: {lines} lines left out]", lines)


class OwnOutput(io.TextIOBase):
    """This process's standard error, for its log: what is written goes there, and to the outputs of all workers of this
    process, which an agent may have several of."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []

    @contextmanager
    def told_to(self, output: Output | None) -> Iterator[None]:
        """Meanwhile, this output gets it too."""
        more = [output] if output is not None else []
        self._outputs += more
        try:
            yield
        finally:
            for each in more:
                self._outputs.remove(each)

    def write(self, text: str) -> int:
        for output in self._outputs:
            output.add("stderr", text.encode(errors="replace"))
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


OWN = OwnOutput()


def _pass_on(descriptor: int, block: bytes) -> None:
    """Where nobody reads any more, it is lost: the handler need not end for that."""
    left = memoryview(block)
    with suppress(OSError):
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                wait = select.poll()
                wait.register(descriptor, select.POLLOUT)
                wait.poll()
