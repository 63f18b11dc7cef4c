"""How busy a worker's machine is: processors, memory, GPUs.

Of a container with a limit, that limit is what counts, and what is used of it (control groups, version 2); else it is
the whole machine. GPUs are all that NVIDIA's library shows: in a container those that it was given.

Each kind is measured by a thread of its own, since a call to a driver may never come back; then its figures are
missing, and the worker's process goes on.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .control_group import ControlGroups

logger = logging.getLogger("runlane.worker")

SECONDS = 5.0
# Older figures are none.
SECONDS_GOOD = 3 * SECONDS

T = TypeVar("T")


@functools.cache
def of_this_machine() -> "Figures":
    """They are measured from the first call on, once for all workers of a process."""
    figures = Figures()
    figures.start()
    return figures


class Figures:
    """The newest figures."""

    def __init__(self) -> None:
        self._machine = Sampler(measure_machine, "the processors and the memory")
        self._gpus = Sampler(measure_gpus, "the GPUs")

    def start(self) -> None:
        """Begins to measure."""
        self._machine.start()
        self._gpus.start()

    def newest(self) -> dict[str, Any] | None:
        """`cpu_percent`, `memory_used_bytes`, `memory_total_bytes` and `gpus`; None before they were measured, or when
        they cannot be."""
        machine = self._machine.newest()
        return None if machine is None else {**machine, "gpus": self._gpus.newest() or []}


class Sampler(Generic[T]):
    """Measures again and again in a thread of its own, which ends with the process."""

    def __init__(self, begin: Callable[[], Callable[[], T]], what: str, seconds: float = SECONDS) -> None:
        """
        Args:
            begin: called in the thread; returns what measures. Either may raise whatever it likes, and is called again.
            what: is measured, for people.
            seconds: between two measurements.
        """
        self._begin = begin
        self._what = what
        self._seconds = seconds
        self._found: tuple[float, T] | None = None
        self._told = ""

    def start(self) -> None:
        threading.Thread(target=self._run, name="runlane-figures", daemon=True).start()

    def newest(self) -> T | None:
        """What was found last, unless that is too long ago."""
        found = self._found
        return found[1] if found is not None and time.monotonic() - found[0] < SECONDS_GOOD else None

    def _run(self) -> None:
        measure: Callable[[], T] | None = None
        while True:
            try:
                measure = measure or self._begin()
                self._found = time.monotonic(), measure()
            except Exception as error:
                self._tell(f"{type(error).__name__}: {error}")
                measure = None
            time.sleep(self._seconds)

    def _tell(self, reason: str) -> None:
        """Once, and not every few seconds."""
        if reason != self._told:
            logger.info("no figures of %s: %s", self._what, reason)
        self._told = reason


def measure_machine() -> Callable[[], dict[str, Any]]:
    """What measures processors and memory."""
    import psutil

    groups = ControlGroups()
    psutil.cpu_percent()  # the next call tells what was used since this one
    before = time.monotonic(), groups.processors()

    def measure() -> dict[str, Any]:
        nonlocal before
        now, used = time.monotonic(), groups.processors()
        percent, (then, used_then), before = psutil.cpu_percent(), before, (now, used)
        if used is not None and used_then is not None and now > then:
            percent = 100 * (used.seconds - used_then.seconds) / (now - then) / used.limit
        memory, host = groups.memory(), psutil.virtual_memory()
        if memory is None or memory.limit >= host.total:
            return _shown(percent, host.total - host.available, host.total)
        return _shown(percent, memory.used, memory.limit)

    time.sleep(0.1)  # else the first figure would be of no time at all
    return measure


def _shown(percent: float, used: int, total: int) -> dict[str, Any]:
    return {"cpu_percent": round(percent, 1), "memory_used_bytes": used, "memory_total_bytes": total}


def measure_gpus() -> Callable[[], list[dict[str, Any]]]:
    """What measures NVIDIA's GPUs. Raises NVMLError where there is no driver."""
    import pynvml

    pynvml.nvmlInit()

    def measure() -> list[dict[str, Any]]:
        return [gpu for index in range(pynvml.nvmlDeviceGetCount()) if (gpu := _gpu(pynvml, index)) is not None]

    return measure


def _gpu(nvml: Any, index: int) -> dict[str, Any] | None:
    """None for one that is gone. What a GPU does not tell, as a part of one does not (MIG), is None."""

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except nvml.NVMLError as error:
            logger.debug("GPU %d: %s: %s", index, call.__name__, error)
            return None

    gpu = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    memory = gpu and ask(nvml.nvmlDeviceGetMemoryInfo, gpu)
    if not memory:
        return None
    utilization = ask(nvml.nvmlDeviceGetUtilizationRates, gpu)
    return {
        "index": index,
        "name": ask(nvml.nvmlDeviceGetName, gpu) or "",
        "utilization_percent": utilization and utilization.gpu,
        "memory_used_mb": memory.used >> 20,
        "memory_total_mb": memory.total >> 20,
        "temperature_c": ask(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU),
    }
