"""The handler of the fault tests. FAULTS_KIND says which of the four kinds it is; its input says what it does:

chunks      how many, at least 1 (3); a function or coroutine makes none, and only takes its time
size        padding of each chunk, in bytes (0)
pause       seconds before each chunk (0)
until       before the last chunk, waits for this file, or for one of its name with the number of the attempt behind
exit        ends its own process in the middle, with this status
kill_worker kills its worker, and dies with it
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import handler_sdk
from tests.faults.record import Log, chunk_text

KIND_VARIABLE = "FAULTS_KIND"
CONCURRENCY_VARIABLE = "FAULTS_CONCURRENCY"
SECONDS_BETWEEN_LOOKS = 0.01

log = Log() if __name__ == "__main__" else None


class Run:
    """One attempt: its log entries, and what it waits for before each chunk."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job: str = job["id"]
        self.attempt: int = job["attempt"]
        self.told: dict[str, Any] = job["input"]
        self.numbers = range(1, self.told.get("chunks", 3) + 1)

    def note(self, kind: str, **more: Any) -> None:
        assert log is not None
        log.note(kind, self.job, self.attempt, **more)

    def start(self) -> None:
        self.note("started", clock=time.time())

    def pauses(self, number: int) -> Iterator[float]:
        """The sleeps, in seconds, before chunk `number`; dies instead, where it is told to."""
        if number == self.numbers[-1]:
            self._die_if_told()
            while "until" in self.told and not self._may_go_on(self.told["until"]):
                yield SECONDS_BETWEEN_LOOKS
        if "pause" in self.told:
            yield self.told["pause"]

    def write(self, number: int) -> str:
        self.note("wrote", number=number)
        return chunk_text(self.attempt, number, self.told.get("size", 0))

    def result(self) -> dict[str, int]:
        self.note("returned")
        return {"attempt": self.attempt}

    def _may_go_on(self, gate: str) -> bool:
        return os.path.exists(gate) or os.path.exists(f"{gate}{self.attempt}")

    def _die_if_told(self) -> None:
        if "exit" in self.told:
            os._exit(self.told["exit"])
        if "kill_worker" in self.told:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)


def plain(job: dict[str, Any]) -> dict[str, int]:
    run = Run(job)
    run.start()
    for number in run.numbers:
        for seconds in run.pauses(number):
            time.sleep(seconds)
    return run.result()


async def coroutine(job: dict[str, Any]) -> dict[str, int]:
    run = Run(job)
    run.start()
    try:
        for number in run.numbers:
            for seconds in run.pauses(number):
                await asyncio.sleep(seconds)
        return run.result()
    finally:
        run.note("ended")


def generator(job: dict[str, Any]) -> Iterator[str]:
    run = Run(job)
    run.start()
    try:
        for number in run.numbers:
            for seconds in run.pauses(number):
                time.sleep(seconds)
            yield run.write(number)
        run.note("returned")
    finally:
        run.note("ended")


async def async_generator(job: dict[str, Any]) -> AsyncIterator[str]:
    run = Run(job)
    run.start()
    try:
        for number in run.numbers:
            for seconds in run.pauses(number):
                await asyncio.sleep(seconds)
            yield run.write(number)
        run.note("returned")
    finally:
        run.note("ended")


KINDS = {"plain": plain, "async": coroutine, "generator": generator, "async generator": async_generator}


def concurrency(_current: int) -> int:
    return int(os.environ.get(CONCURRENCY_VARIABLE, "1"))


if __name__ == "__main__":
    handler_sdk.start(
        {
            "handler": KINDS[os.environ[KIND_VARIABLE]],
            "concurrency_modifier": concurrency,
            "return_aggregate_stream": True,
        }
    )
