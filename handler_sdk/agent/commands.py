"""Programs that the agent runs to deploy: git, and the installer of packages."""

import asyncio
import logging
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..frames import READ_AT_ONCE
from ..lines import Line, LineBuffer
from . import guard
from .errors import DeploymentError

logger = logging.getLogger("runlane.agent")

_LONGEST_LINE = 1 << 16
_LAST_LINES = 3


async def run(
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    folder: Path | None = None,
    seconds: float | None = None,
    logs: bool = True,
) -> list[str]:
    """Runs a program to its end; what it writes goes to the log, line by line. It ends with this process at the latest,
    and so does what it has started: another agent may go on in the same place.

    Args:
        name: for people.
        command: the program and its arguments.
        environment: all of it.
        folder: its working directory.
        seconds: so long it may take.
        logs: whether its standard output goes to the log as well.

    Returns:
        The lines of its standard output.

    Raises:
        DeploymentError: it failed, and what it said last.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=dict(environment), cwd=folder,
            process_group=0,
        )  # fmt: skip
    except OSError as error:
        raise DeploymentError(f"{name} cannot be run: {error}") from None
    guard.of_this_process().watch(process.pid)
    try:
        async with asyncio.timeout(seconds):
            shown, said = await asyncio.gather(_read(process.stdout, name if logs else ""), _read(process.stderr, name))
            status = await process.wait()
    except TimeoutError:
        raise DeploymentError(f"{name} was not done after {seconds:g} s") from None
    finally:
        guard.kill_group(process.pid)
        guard.of_this_process().forget(process.pid)
    if status != 0:
        text = "; ".join((said or shown)[-_LAST_LINES:])
        raise DeploymentError(f"{name} failed with status {status}: {text}")
    return shown


async def _read(stream: asyncio.StreamReader | None, name: str) -> list[str]:
    lines: list[str] = []

    def add(line: Line) -> None:
        lines.append(line.text.decode(errors="replace").rstrip())
        if name:
            logger.info("%s: %s", name, lines[-1])

    buffer = LineBuffer(_LONGEST_LINE)
    while stream is not None and (data := await stream.read(READ_AT_ONCE)):
        for line in buffer.feed(data):
            add(line)
    for line in buffer.end():
        add(line)
    return lines
