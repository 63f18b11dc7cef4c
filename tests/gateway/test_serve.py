import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli import main

from ..stores import Server, free_port
from .clients import API_KEY, Target, Worker, bearer
from .conftest import STORE_PASSWORD, client_of
from .processes import COMMAND, Gateway, alive, descendants, environment, run
from .waiting import eventually_true, still_waits

# what it refuses


def check_refused(status: int | None, output: str, errors: str, *says: str) -> None:
    """It ended with one clear line and never served."""
    assert status == 1, errors
    assert output == ""
    assert "Traceback" not in errors
    assert errors.startswith("runlane: ")
    assert errors.count("\n") == 1, errors
    assert all(word in errors for word in says), errors


def refused(*arguments: str, says: tuple[str, ...], **settings: str) -> None:
    result = run("serve", *arguments, **settings)
    check_refused(result.returncode, result.stdout, result.stderr, *says)


def refused_here(*arguments: str, says: tuple[str, ...]) -> str:
    """The same in this process, which is quicker. Returns what was said."""
    result = CliRunner().invoke(main, ["serve", *arguments], env={"RUNLANE_API_KEYS": "k"})
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    check_refused(result.exit_code, result.stdout, result.stderr, *says)
    return result.stderr


def test_without_a_store() -> None:
    refused(api_keys="k", says=("--redis", "RUNLANE_REDIS_URL"))


@pytest.mark.parametrize("keys", ["", ","])
def test_without_keys(own_server: Server, keys: str) -> None:
    refused("--redis", own_server.url, api_keys=keys, says=("RUNLANE_API_KEYS", "runlane key create", "--insecure"))


@pytest.mark.parametrize("master_keys", ["x", "A" * 43 + "=,x", "A" * 44, ","])
def test_a_master_key_that_is_none(backing: Server, master_keys: str) -> None:
    refused("--redis", backing.url, api_keys="k", vault_master_keys=master_keys, says=("RUNQY_VAULT_MASTER_KEY",))


def test_keys_at_the_store_are_enough(own_server: Server, tmp_path: Path) -> None:
    arguments = ["key", "create", "--tenant", "t", "--redis", own_server.url, "--json"]
    key = json.loads(CliRunner().invoke(main, arguments, catch_exceptions=False).stdout)["key"]
    gateway = Gateway(tmp_path / "gateway", own_server.url)
    assert httpx.get(f"{gateway.url}/v2/e/health", headers=bearer(key)).status_code == 404
    assert httpx.get(f"{gateway.url}/v2/e/health").status_code == 401
    gateway.stop()


@pytest.mark.parametrize("keys", ["ci:", "k,other:"])
def test_with_an_empty_key(backing: Server, keys: str) -> None:
    refused("--redis", backing.url, "--port", "0", api_keys=keys, says=("key",))


def test_with_a_worker_key_of_no_endpoint(backing: Server) -> None:
    refused("--redis", backing.url, api_keys="k", worker_keys="x", says=("ENDPOINT:KEY",))


def test_with_an_address_that_webhooks_cannot_go_to(backing: Server) -> None:
    refused("--redis", backing.url, api_keys="k", outbound_allow="10.0.0.0/99", says=("RUNLANE_OUTBOUND_ALLOW",))


@pytest.mark.parametrize(
    "url",
    ["redis://:secret@{}", "redis+cluster://:secret@{}", "rediss://:secret@{}"],
)
def test_with_a_store_that_is_not_there(url: str) -> None:
    place = f"127.0.0.1:{free_port()}"
    assert "secret" not in refused_here("--redis", url.format(place), says=(place, "RUNLANE_REDIS_URL"))


def test_with_a_socket_that_is_not_there(tmp_path: Path) -> None:
    refused_here("--redis", f"unix://{tmp_path}/none.sock", says=("none.sock",))


@pytest.mark.parametrize(
    "url", ["nonsense", "http://127.0.0.1", "redis://127.0.0.1:port", "redis://[::1", "redis://127.0.0.1:6379/x",
            "redis+sentinel://127.0.0.1:1", "redis+cluster://127.0.0.1:port", "redis://127.0.0.1:99999"],
)  # fmt: skip
def test_with_an_address_that_is_none(url: str) -> None:
    refused_here("--redis", url, says=())


def test_with_a_wrong_password(backing: Server) -> None:
    url = backing.url.replace(STORE_PASSWORD, "a-wrong-one")
    assert "a-wrong-one" not in refused_here("--redis", url, says=("password", str(backing.port)))


def test_on_a_port_that_is_taken(backing: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        refused("--redis", backing.url, "--port", port, api_keys="k", says=(port, "in use"))


@pytest.mark.parametrize(
    "arguments", [("--host", "192.0.2.1"), ("--host", "no.such.host.invalid"), ("--port", "70000")]
)
def test_on_an_address_that_is_not_ours(backing: Server, arguments: tuple[str, str]) -> None:
    refused_here("--redis", backing.url, *arguments, says=(arguments[1],))


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (("--processes", "0"), {}, "processes"),
        (("--endpoint", "a b"), {}, "a b"),
        (("--port", "0"), {"log_level": "loud"}, "LOG_LEVEL"),
        (("--config", "/nowhere/runlane.toml"), {}, "/nowhere/runlane.toml"),
    ],
)
def test_with_a_setting_that_cannot_work(
    backing: Server, arguments: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    refused("--redis", backing.url, *arguments, api_keys="k", **settings, says=(says,))


@asynccontextmanager
async def pretending(version: str, knows_hello: bool) -> AsyncIterator[int]:
    """A server that says it is of this version. Gives its port."""
    hello = b"*2\r\n$5\r\nproto\r\n:2\r\n" if knows_hello else b"-ERR unknown command 'HELLO'\r\n"
    text = f"# Server\r\n{version}\r\ncluster_enabled:0\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            parts = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                parts.append((await reader.readexactly(size + 2))[:-2].upper())
            answers = {b"HELLO": hello, b"INFO": b"$%d\r\n%b\r\n" % (len(text), text)}
            writer.write(answers.get(parts[0], b"+OK\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("version", "knows_hello", "shown"),
    [("redis_version:5.0.14", False, "Redis 5.0.14"),      ("redis_version:7.0.15", True, "Redis 7.0.15"),
     ("redis_version:7.2.4\r\nvalkey_version:7.2.5", True, "Valkey 7.2.5")],
)  # fmt: skip
async def test_with_a_store_that_is_too_old(version: str, knows_hello: bool, shown: str) -> None:
    async with pretending(version, knows_hello) as port:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--redis", f"redis://127.0.0.1:{port}", env=environment(api_keys="k"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
    check_refused(process.returncode, output.decode(), errors.decode(), shown, "Redis ≥ 7.2", "Valkey ≥ 8")


# how it serves and ends

Start = Callable[..., Gateway]


@pytest.fixture
def start(backing: Server, tmp_path: Path) -> Iterator[Start]:
    """Starts gateways of the test's own over the shared store."""
    started: list[Gateway] = []

    def call(*arguments: str, **settings: str) -> Gateway:
        settings = {"api_keys": API_KEY} | settings
        started.append(Gateway(tmp_path / f"gateway-{len(started)}", backing.url, *arguments, **settings))
        return started[-1]

    yield call
    for gateway in started:
        gateway.stop()


async def test_endpoints_are_made_at_the_start_unless_they_exist(start: Start, endpoint: str) -> None:
    arguments = [argument for i in range(2) for argument in ("--endpoint", f"{endpoint}-{i}")]
    for workers_max in (3, 9):
        gateway = start(*arguments)
        async with client_of(gateway) as http:
            for i in range(2):
                path = f"/v1/endpoints/{endpoint}-{i}"
                assert (await http.get(path)).json()["workersMax"] == workers_max
                await http.patch(path, json={"workersMax": 9})
    async with client_of(gateway) as http:
        for i in range(2):
            await http.delete(f"/v1/endpoints/{endpoint}-{i}")


async def test_without_keys_when_that_is_wanted(start: Start, target: Target) -> None:
    gateway = start("--insecure", api_keys="")
    async with httpx.AsyncClient(base_url=gateway.url, verify=False) as http:
        assert (await http.post(f"{target.path}/run", json={"input": 1})).status_code == 200
        assert (await http.post(f"{target.path}/workers")).status_code == 200


async def test_worker_keys_from_the_settings(start: Start, target: Target) -> None:
    gateway = start(worker_keys=f"{target.id}:rl-worker-key")
    async with client_of(gateway, "rl-worker-key") as http:
        assert (await http.post(f"{target.path}/workers")).status_code == 200
        assert (await http.get(f"{target.path}/health")).status_code == 403


async def test_workers_are_told_the_address_that_is_meant_for_them(start: Start, target: Target) -> None:
    gateway = start(worker_redis_url="redis://store.example:6390")
    async with client_of(gateway, target.worker_key) as http:
        url = (await http.post(f"{target.path}/workers", json={"id": "w"})).json()["redis"]["url"]
    assert url.endswith("@store.example:6390")
    assert STORE_PASSWORD not in url


async def test_two_processes_share_what_comes(start: Start, target: Target, worker: Worker) -> None:
    gateway = start("--processes", "2")
    assert len(serving_processes(gateway)) == 2

    async def submit() -> dict[str, Any]:
        async with client_of(gateway) as http:  # a connection of its own, to either process
            response = await http.post(f"{target.path}/runsync?wait=20000", json={"input": 1})
            found: dict[str, Any] = response.json()
            return found

    answers = [asyncio.create_task(submit()) for _ in range(12)]
    for _ in answers:
        worker.finish(await worker.next(), b'"ok"')
    assert [(await answer)["output"] for answer in answers] == ["ok"] * 12


async def test_a_chunk_reaches_a_reader_at_any_process(start: Start, target: Target, worker: Worker) -> None:
    gateway = start("--processes", "2")
    id = await target.run(1)

    async def read() -> str:
        async with client_of(gateway) as http:
            headers = {"Accept": "text/event-stream"}
            return (await http.get(f"{target.path}/stream/{id}", headers=headers)).text

    readers = [asyncio.create_task(read()) for _ in range(8)]
    (job,) = worker.take()
    worker.emit(job, 1, b'"one"')
    assert await still_waits(readers[0])
    worker.end(job)
    for reader in readers:
        assert 'data: {"output":"one"}' in await reader
        assert "event: done" in await reader


def serving_processes(gateway: Gateway) -> set[int]:
    """The processes that serve, when there are several."""

    def look() -> set[int]:
        found = descendants(gateway.pid)
        return {pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

    return eventually_true(look)


async def test_several_processes_end_together(start: Start) -> None:
    gateway = start("--processes", "2")
    processes = serving_processes(gateway)
    assert gateway.stop() in (0, -signal.SIGTERM)
    eventually_true(lambda: not any(alive(pid) for pid in processes))


async def test_several_processes_end_when_their_parent_is_killed(start: Start) -> None:
    gateway = start("--processes", "2")
    processes = serving_processes(gateway)
    gateway.kill()
    eventually_true(lambda: not any(alive(pid) for pid in processes))


async def test_a_job_goes_on_when_the_gateway_is_killed(start: Start, target: Target, worker: Worker) -> None:
    gateway = start()
    async with client_of(gateway) as http:
        answer = asyncio.create_task(http.post(f"{target.path}/runsync", json={"input": "x"}))
        job = await worker.next()
        assert await still_waits(answer)
        gateway.kill()
        with pytest.raises(httpx.HTTPError):
            await answer
    assert (await target.status(job.id))["status"] == "IN_PROGRESS"  # at another gateway
    worker.finish(job, b'"done"')
    assert (await target.get(f"/status-sync/{job.id}")).json()["output"] == "done"


async def test_whoever_waits_is_answered_at_once_when_the_gateway_ends(
    start: Start, target: Target, worker: Worker
) -> None:
    gateway = start()
    async with client_of(gateway) as http:
        sync = asyncio.create_task(http.post(f"{target.path}/runsync", json={"input": 1}))
        job = await worker.next()
        queued = await target.run(2)
        others = [
            asyncio.create_task(http.get(f"{target.path}/{path}/{queued}", headers=headers))
            for path, headers in (("status-sync", {}), ("stream", {}), ("stream", {"Accept": "text/event-stream"}))
        ]
        assert await still_waits(sync, 0.3)
        gateway.send(signal.SIGTERM)
        async with asyncio.timeout(5):
            answer = await sync
            answers = [await other for other in others]
    assert (answer.status_code, answer.json()) == (200, await target.status(job.id))
    assert answers[0].json() == await target.status(queued)
    assert (answers[1].json()["status"], answers[1].json()["stream"]) == ("IN_QUEUE", [])
    assert [other.status_code for other in answers] == [200, 200, 200]
    assert gateway.wait() in (0, -signal.SIGTERM)


async def test_an_idle_gateway_ends_soon(start: Start, target: Target) -> None:
    gateway = start()
    async with client_of(gateway) as http:
        await http.get(f"{target.path}/health")  # and keeps the connection open
        gateway.send(signal.SIGINT)
        assert gateway.wait(5) in (0, 130, -signal.SIGINT)
    assert "Traceback" not in gateway.log
