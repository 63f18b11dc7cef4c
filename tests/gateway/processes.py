"""The commands of runlane as processes, and what can be seen of a process from outside."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from gateway.children import die_with_parent
from gateway.settings import FIELDS, environment_name

from .waiting import eventually_true

SECONDS_TO_STOP = 20
COMMAND = [sys.executable, "-m", "gateway"]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings of runlane (`api_keys` is RUNLANE_API_KEYS) and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNLANE_", "RUNPOD_"))}
    return kept | {"PYTHONFAULTHANDLER": "1"} | {_variable(name): value for name, value in settings.items()}


def _variable(name: str) -> str:
    """The variable of a setting, of the gateway or of another command."""
    return environment_name(name) if name in FIELDS else f"RUNLANE_{name.upper()}"


def run(*arguments: str, cwd: Path | None = None, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command that is expected to end soon."""
    command, variables = [*COMMAND, *arguments], environment(**settings)
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=15, check=False)


class Process:
    """A command that runs on; it ends with the tests at the latest."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._log.touch()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                env=environment(**settings),
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 30.0) -> str:
        """The first group of the pattern, once it is in the log."""

        def look() -> "re.Match[str] | None":
            found = re.search(pattern, self.log, re.MULTILINE)
            assert found or self._process.poll() is None, f"ended with {self._process.returncode}: {self.log}"
            return found

        found = eventually_true(look, seconds)
        assert found
        return found.group(1)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status; negative for a signal."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """Ends it in good order, if it runs at all."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # it writes where each thread is
            self._process.wait()
            raise AssertionError(f"it has not ended after {SECONDS_TO_STOP} s: {self.log}") from None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Gateway(Process):
    """`runlane serve` on a free port."""

    def __init__(self, folder: Path, redis_url: str, *arguments: str, **settings: str) -> None:
        super().__init__(folder, "serve", "--port", "0", *arguments, redis_url=redis_url, **settings)
        self.url = self.wait_for(r"^serving (https?://\S+)$")
        self.port = int(self.url.rpartition(":")[2])
        eventually_true(lambda: listens(self.port))


class Dev(Process):
    """`runlane dev` on a free port."""

    def __init__(self, folder: Path, handler: Path, *arguments: str, **settings: str) -> None:
        super().__init__(folder, "dev", str(handler), "--port", "0", *arguments, **settings)

    def ready(self) -> str:
        """The endpoint's URL, once it takes jobs."""
        return self.wait_for(r"^ready (http://\S+)$")


def listens(port: int) -> bool:
    """Whether a connection to this port of loopback is accepted."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def descendants(pid: int) -> set[int]:
    """The processes that this one has started, and those that they have."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except OSError:
            continue
        found.update(children, *map(descendants, children))
    return found


def owns_port(pid: int, port: int) -> bool:
    """Whether the process has a connection from this port of loopback: proc(5), /proc/net/tcp."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inodes = {line.split()[9] for line in lines if line.split()[1].endswith(f":{port:04X}")}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(descriptor.readlink())[8:-1] in inodes:
                return True
        except OSError:
            continue
    return False


def alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
