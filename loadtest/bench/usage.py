"""What processes use."""

import contextlib
import os
from pathlib import Path

import psutil

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """The memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def forget_peak(pid: int) -> None:
    """From now on, `peak_bytes` is what the process has had since. See proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def processor_seconds(pid: int) -> float:
    """The processor time of all of a process's threads, to the nanosecond: /proc/PID/task/TID/schedstat."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def connections(pid: int, port: int) -> int:
    """How many TCP connections a process has at a port where it listens."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for one in psutil.Process(pid).net_connections("tcp")
    )


def family_seconds(pid: int) -> float:
    """The same of a process and all that it has started."""
    seconds = processor_seconds(pid)
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            seconds += processor_seconds(child.pid)
    return seconds
