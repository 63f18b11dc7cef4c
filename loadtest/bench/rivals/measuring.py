"""Jobs per second of one worker: queued before it starts, timed by the jobs themselves."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis

from loadtest.bench import batches
from loadtest.bench.environment import ENDPOINT, HERE, KEY, NotMeasuredError, gateway, processors, started_on
from loadtest.bench.measurement import Tree
from loadtest.bench.rivals import given
from loadtest.bench.rivals.install import FOLDER
from loadtest.bench.rivals.table import RIVALS

OURS = "runlane"
SECONDS = 180.0
SECONDS_TO_STOP = 10.0
JOBS_IN_A_REQUEST = 1000


def measure(name: str, store_url: str, count: int, tree: Tree = HERE) -> float:
    """Has one worker of a library, or of a tree of runlane's, run so many no-op jobs: jobs per second.

    The worker has the first of this process's processors, and the gateway the others, where the store should be as
    well. The store must be empty, and is so afterwards.

    Raises:
        NotMeasuredError: jobs were not queued, or not all of them run; with what the library's program said last.
    """
    with emptied(store_url), tempfile.TemporaryDirectory(prefix="runlane-rivals-") as folder:
        file = Path(folder) / "seconds"
        told = {given.STORE: store_url, given.COUNT: str(count), given.FILE: str(file)}
        if name == OURS:
            return count / _of_runlane(tree, {**os.environ, "PYTHONPATH": str(tree), **told}, file)
        return count / _of_rival(name, {**os.environ, "PYTHONPATH": str(HERE), **told}, file)


@contextlib.contextmanager
def emptied(url: str) -> Iterator[None]:
    """A store that is empty becomes so again."""
    with redis.Redis.from_url(url) as client:
        if client.dbsize():
            raise NotMeasuredError("the store has keys in it, which the measurement would delete")
        try:
            yield
        finally:
            client.flushdb()


def _of_rival(name: str, environment: dict[str, str], file: Path) -> float:
    """Seconds, with its own environment's programs."""
    rival = RIVALS[name]
    programs = FOLDER / name / "bin"
    if not programs.exists():
        raise NotMeasuredError("it is not installed: make .venv/.rivals")
    queued = subprocess.run(
        [programs / "python", "-m", rival.module], env=environment, capture_output=True, text=True, check=False
    )
    if queued.returncode:
        raise NotMeasuredError(_last_of(queued.stderr))
    program, *arguments = shlex.split(rival.command.format(store=environment[given.STORE]))
    return _seconds([str(programs / program), *arguments], environment | rival.variables, file)


def _of_runlane(tree: Tree, environment: dict[str, str], file: Path) -> float:
    """Seconds, by runlane's own worker, which registers at a gateway and takes its jobs from the store."""
    with contextlib.ExitStack() as stack:
        with started_on(processors()[1]):
            base, _ = stack.enter_context(gateway(tree, environment[given.STORE]))
        _queue_at(base, int(environment[given.COUNT]))
        command = [sys.executable, "-m", "handler_sdk", str(Path(__file__).with_name("with_runlane.py"))]
        ours = {"RUNLANE_URL": base, "RUNLANE_ENDPOINT": ENDPOINT, "RUNLANE_WORKER_KEY": KEY,
                "RUNLANE_LOG_LEVEL": "warning"}  # fmt: skip
        return _seconds(command, environment | ours, file)


def _queue_at(base: str, count: int) -> None:
    """Queues so many jobs over HTTP."""
    headers = {"Authorization": f"Bearer {KEY}"}
    for done in range(0, count, JOBS_IN_A_REQUEST):
        path, body = batches.request(min(JOBS_IN_A_REQUEST, count - done), "{}")
        httpx.post(f"{base}{path}", content=body, headers=headers, timeout=60).raise_for_status()


def _seconds(command: list[str], environment: dict[str, str], file: Path) -> float:
    """What the jobs of a worker write into the file."""
    log = file.with_name("log")
    deadline = time.monotonic() + SECONDS
    with _worker(command, environment, log) as worker:
        while worker.poll() is None and not _text(file) and time.monotonic() < deadline:
            time.sleep(0.05)
    if not _text(file):
        raise NotMeasuredError(_last_of(_text(log)))
    return float(_text(file))


@contextlib.contextmanager
def _worker(command: list[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker with the processes that it starts, in a process group of its own."""
    with log.open("wb") as output, started_on(processors()[0]):
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(SECONDS_TO_STOP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _text(file: Path) -> str:
    """What is in it; "" when there is none yet."""
    return file.read_text() if file.exists() else ""


def _last_of(text: str) -> str:
    """Its last lines."""
    return " / ".join(text.splitlines()[-3:]) or "it said nothing"
