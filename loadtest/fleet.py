"""The processes that generate the load."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

import msgspec

from .errors import NotUsable
from .generator import Ready, Report, Unusable, main
from .plan import Assignment, Begin, Order, Plan, Stop
from .recorder import Window

SECONDS_BEFORE_BEGIN = 0.2
"""So late that all processes know of the begin before it comes."""

SECONDS_TO_END = 5.0

_report: "msgspec.json.Decoder[Report]" = msgspec.json.Decoder(Report)


class Fleet:
    """Starts the processes; as a context manager it ends them."""

    def __init__(self, plan: Plan, inputs: list[msgspec.Raw], key: str | None) -> None:
        self.began = 0.0
        """When the load begins, on the monotonic clock."""
        self.stopped_at: float | None = None
        """When it was broken off."""
        self.lost = 0
        """How many of the processes have ended before their time: killed, or by a fault of theirs."""
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        signals = (signal.SIGINT, signal.SIGTERM)  # for us; they inherit that they are ignored
        before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
        try:
            for index in range(plan.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=main, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
                self._send(ours, Assignment(plan, inputs, key, index))
        except BaseException:
            self._end()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        latest = time.monotonic() + SECONDS_TO_END
        try:
            for process in self._processes:
                process.join(max(0.0, latest - time.monotonic()))
        finally:
            for process in self._processes:
                process.kill()
                process.join()

    def begin(self, is_broken_off: Callable[[], bool]) -> None:
        """Waits until all are ready, and has them begin at once.

        Raises:
            NotUsable: they cannot, or it was broken off.
        """
        for pipe in self._pipes:
            while not pipe.poll(0.2):
                if is_broken_off():
                    raise NotUsable("broken off before the load began")
            report = self._receive(pipe)
            if isinstance(report, Unusable):
                raise NotUsable(f"the server refuses a job: {report.reason}")
            if not isinstance(report, Ready):
                raise NotUsable("a process that was to generate load has ended; see above, or was it killed?")
        self.began = time.monotonic() + SECONDS_BEFORE_BEGIN
        self._order(Begin(self.began))

    def stop(self) -> None:
        """They send nothing more, and end within a second or two."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
            self._order(Stop())

    def windows(self) -> Iterator[list[tuple[int, Window | None]]]:
        """What they tell, as it comes: which process, and a window, or None behind its last one; [] now and then."""
        running = {pipe: index for index, pipe in enumerate(self._pipes)}
        while running:
            found: list[tuple[int, Window | None]] = []
            for pipe in wait(list(running), timeout=0.2):
                assert isinstance(pipe, Connection)
                report = self._receive(pipe)
                if isinstance(report, Window):
                    found.append((running[pipe], report))
                else:
                    self.lost += report is None
                    found.append((running.pop(pipe), None))
            yield found

    def _receive(self, pipe: Connection) -> Report | None:
        """None when the process has ended without a word."""
        try:
            return _report.decode(pipe.recv_bytes())
        except (EOFError, OSError):
            return None

    def _order(self, order: Order) -> None:
        for pipe in self._pipes:
            self._send(pipe, order)

    def _send(self, pipe: Connection, message: Assignment | Order) -> None:
        with contextlib.suppress(OSError):  # it has ended, which `_receive` will see
            pipe.send_bytes(msgspec.json.encode(message))
