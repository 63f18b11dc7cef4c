"""What a container may use of its machine, and does: limits of control groups, version 2, for memory and processors.

The files are those of https://docs.kernel.org/admin-guide/cgroup-v2.html. A limit may be on any of the groups that this
process's own is in; the tightest one counts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

Use = TypeVar("Use")


class MemoryUse(NamedTuple):
    """In bytes; `used` is without what the kernel would give up at once, files that were read and are not needed."""

    used: int
    limit: int


class ProcessorUse(NamedTuple):
    """seconds: of all processors, since the group was made. limit: processors."""

    seconds: float
    limit: float


class ControlGroups:
    """The groups that this process is in, its own one first."""

    def __init__(self, root: Path = ROOT, own: Path = OWN) -> None:
        path = next((line[3:].strip("/") for line in _read(own).splitlines() if line.startswith("0::")), "")
        folder = root / path
        self._folders = [folder, *(each for each in folder.parents if each.is_relative_to(root))]

    def memory(self) -> MemoryUse | None:
        """None where there is no limit."""
        return min(self._each(_memory_of), key=lambda use: use.limit, default=None)

    def processors(self) -> ProcessorUse | None:
        """None where there is no limit."""
        return min(self._each(_processors_of), key=lambda use: use.limit, default=None)

    def _each(self, look: Callable[[Path], Use | None]) -> list[Use]:
        return [use for folder in self._folders if (use := look(folder)) is not None]


def _memory_of(folder: Path) -> MemoryUse | None:
    limit, current = _read(folder / "memory.max"), _read(folder / "memory.current")
    if not limit.isdigit() or not current.isdigit():
        return None
    return MemoryUse(max(0, int(current) - _field(folder / "memory.stat", "inactive_file")), int(limit))


def _processors_of(folder: Path) -> ProcessorUse | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return ProcessorUse(_field(folder / "cpu.stat", "usage_usec") / 1e6, int(quota) / int(period))


def _field(file: Path, name: str) -> int:
    """A number of a file whose lines are each a name and a number; 0 when it is not there."""
    values = [line.partition(" ")[2] for line in _read(file).splitlines() if line.startswith(f"{name} ")]
    return int(values[0]) if values and values[0].isdigit() else 0


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
