"""https without a proxy: which certificates are served, and that nothing else differs from http."""

import asyncio
import contextlib
import shutil
import signal
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ..handler_sdk.conftest import WorkerProcess
from ..stores import Server
from .certificates import Authority, Pair, private_pem
from .clients import API_KEY, Target, bearer
from .processes import Gateway
from .test_serve import refused
from .waiting import eventually, eventually_true, still_waits


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Pair:
    return Pair(tmp_path / "tls", authority)


@pytest.fixture(scope="session")
def secure(
    backing: Server, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, ssl.SSLContext]]:
    """A gateway that serves https, and how its clients connect."""
    pair = Pair(tmp_path_factory.mktemp("tls"), authority)
    pair.write("shared")
    gateway = Gateway(
        tmp_path_factory.mktemp("secure"), backing.url, api_keys=API_KEY, header_seconds="2", **pair.settings
    )
    yield gateway, authority.client()
    gateway.stop()


@pytest.fixture
async def https(secure: tuple[Gateway, ssl.SSLContext]) -> AsyncIterator[httpx.AsyncClient]:
    gateway, context = secure
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(API_KEY), timeout=30, verify=context) as client:
        yield client


@contextlib.contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


def served(gateway: Gateway, context: ssl.SSLContext) -> str:
    """The name in the certificate that a new connection gets."""
    with connected(gateway.port, context) as connection:
        certificate = connection.getpeercert()
    assert certificate
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


def request(target: Target, method: str, path: str, key: str, body: bytes = b"") -> bytes:
    head = f"{method} {target.path}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def beside(port: int, context: ssl.SSLContext) -> Iterator[tuple[socket.socket, ssl.SSLObject, ssl.MemoryBIO]]:
    """A connection that reads nothing by itself: its socket, and TLS beside it with what is to be sent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65536))
        yield plain, secured, outgoing


# what it refuses to serve


def test_one_file_without_the_other(pair: Pair, backing: Server) -> None:
    pair.write("x")
    for setting in ("tls_cert", "tls_key"):
        settings = {setting: pair.settings[setting]}
        refused("--redis", backing.url, api_keys="k", **settings, says=("--tls-cert", "--tls-key"))


def test_files_that_are_not_there(pair: Pair, backing: Server) -> None:
    arguments = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    refused("--redis", backing.url, *arguments, api_keys="k", says=("cert.pem", "No such file"))


@pytest.mark.parametrize("fault", ["mismatched", "expired", "no certificate", "no key", "a key with a password"])
def test_files_that_cannot_be_served(pair: Pair, backing: Server, fault: str) -> None:
    pair.write("x", days=-0.1 if fault == "expired" else 1)
    says = {"mismatched": "is not that of", "expired": "has expired"}.get(fault, "in PEM")
    if fault == "mismatched":
        pair.key.write_bytes(pair.authority.issue("y")[1])
    elif fault == "no certificate":
        pair.certificate.write_text("nonsense")
    elif fault == "no key":
        pair.key.write_text("nonsense")
    elif fault == "a key with a password":
        pair.key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    refused("--redis", backing.url, api_keys="k", **pair.settings, says=(says, ".pem"))


# how it serves


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_with_good_ciphers(
    secure: tuple[Gateway, ssl.SSLContext], authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(secure[0].port, context) as connection:
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[1] == connection.version()
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]
        assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_not_with_what_is_broken(secure: tuple[Gateway, ssl.SSLContext], authority: Authority) -> None:
    old = authority.client()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    weak = authority.client(ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    for context in (old, weak):
        with pytest.raises(ssl.SSLError), connected(secure[0].port, context):
            pass


async def test_says_that_it_is_to_be_asked_over_tls_alone(https: httpx.AsyncClient, http: httpx.AsyncClient) -> None:
    assert (await https.get("/nothing")).headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in (await http.get("/nothing")).headers


def test_who_does_not_speak_tls_is_let_go(secure: tuple[Gateway, ssl.SSLContext]) -> None:
    for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", secure[0].port), timeout=20) as connection:
            connection.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass


def test_a_head_that_does_not_come_is_answered(secure: tuple[Gateway, ssl.SSLContext]) -> None:
    with connected(secure[0].port, secure[1]) as connection:
        connection.sendall(b"GET / HT")
        assert b"".join(iter(lambda: connection.recv(1000), b"")).startswith(b"HTTP/1.1 408 ")


async def test_runsync_and_streams(https: httpx.AsyncClient, target: Target) -> None:
    worker = await target.register("w")
    answer = asyncio.create_task(https.post(f"{target.path}/runsync", json={"input": "x" * 100_000}))
    job = await worker.next()
    assert len(job.input) == 100_002
    worker.finish(job, b'"%b"' % (b"y" * 3_000_000))
    assert len((await answer).json()["output"]) == 3_000_000

    id = await target.run(1)
    (job,) = worker.take()
    async with https.stream("GET", f"{target.path}/stream/{id}", headers={"Accept": "text/event-stream"}) as stream:
        lines = stream.aiter_lines()
        for number in range(3):  # each arrives before the next is sent
            worker.emit(job, number + 1, b"%d" % number)
            assert (
                await anext(line async for line in lines if line.startswith("data:")) == f'data: {{"output":{number}}}'
            )
        worker.end(job)
        assert "event: done" in [line async for line in lines]


async def test_a_worker_of_ours(
    secure: tuple[Gateway, ssl.SSLContext], authority: Authority, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "handler.py").write_text(
        "import handler_sdk\n\n\ndef handler(job):\n    yield from job['input']\n\n\n"
        "handler_sdk.start({'handler': handler, 'return_aggregate_stream': True})\n"
    )
    settings = {
        "RUNLANE_URL": secure[0].url, "RUNLANE_ENDPOINT": target.id, "RUNLANE_WORKER_KEY": target.worker_key,
        "RUNLANE_LINK": "http", "SSL_CERT_FILE": str(authority.file),
    }  # fmt: skip
    worker = WorkerProcess([sys.executable, "-m", "handler_sdk", "handler.py"], settings, tmp_path)
    try:
        await asyncio.to_thread(worker.wait_for, "is loaded")
        answers = [target.post("/runsync", {"input": [number, "x" * 100_000]}) for number in range(10)]
        outputs = [answer.json()["output"][0] for answer in await asyncio.gather(*answers)]
        assert outputs == list(range(10))
    finally:
        assert await asyncio.to_thread(worker.end) == 0


# what was not read


async def test_a_worker_that_hangs_up_while_it_is_handed_a_job_loses_nothing(
    secure: tuple[Gateway, ssl.SSLContext],
    make_target,
    https: httpx.AsyncClient,  # type: ignore[no-untyped-def]
) -> None:
    target: Target = await make_target(attempts=1)  # so that a lost attempt would be the end of the job
    for number in range(20):
        with connected(secure[0].port, secure[1]) as worker:
            worker.sendall(request(target, "GET", "job-take/gone", target.worker_key))
            await eventually(lambda: idle(target))
            submission = asyncio.create_task(target.run(number))
            await asyncio.sleep(number % 5 * 0.0005)  # before, while and after the job comes in
        id = await submission
        headers = {"Authorization": target.worker_key}
        taken = await https.get(f"{target.path}/job-take/other", headers=headers, params={"wait": 5000})
        assert (taken.status_code, taken.json()["id"]) == (200, id), number
        done = await https.post(f"{target.path}/job-done/other/{id}", headers=headers, content=b'{"output":1}')
        assert done.status_code == 200
        assert (await target.status(id))["status"] == "COMPLETED"


async def idle(target: Target) -> bool:
    return (await target.health())["workers"]["idle"] >= 1


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_worker_that_closes_behind_what_it_has_read_keeps_its_job(
    secure: tuple[Gateway, ssl.SSLContext], target: Target, says_goodbye: bool
) -> None:
    for number in range(20):
        id = await target.run(number)

        def take() -> bytes:
            with connected(secure[0].port, secure[1]) as worker:
                worker.sendall(request(target, "GET", "job-take/a", target.worker_key))
                answer = worker.recv(10_000)
                if says_goodbye:
                    worker.unwrap()
                return answer

        assert id.encode() in await asyncio.to_thread(take)
        await asyncio.sleep(0.02)
        assert (await target.status(id))["status"] == "IN_PROGRESS", number


@pytest.mark.parametrize("how", ["reset", "goodbye"])
async def test_a_worker_that_closes_before_it_has_read_loses_its_job(
    secure: tuple[Gateway, ssl.SSLContext], target: Target, how: str
) -> None:
    id = await target.run(1)

    def take() -> None:
        with beside(secure[0].port, secure[1]) as (plain, secured, outgoing):
            secured.write(request(target, "GET", "job-take/a", target.worker_key))
            plain.sendall(outgoing.read())
            while len(plain.recv(2000, socket.MSG_PEEK)) < 900:  # the tickets of TLS and the answer
                pass
            if how == "reset":
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                with contextlib.suppress(ssl.SSLWantReadError):
                    secured.unwrap()
                plain.sendall(outgoing.read())

    await asyncio.to_thread(take)

    async def look() -> bool:
        return bool((await target.status(id))["status"] == "IN_QUEUE")

    assert await eventually(look, 5)


# the end


async def test_requests_under_way_at_the_end_are_answered(
    backing: Server, pair: Pair, target: Target, tmp_path: Path
) -> None:
    pair.write("x")
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY, **pair.settings)
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(API_KEY), verify=pair.authority.client()) as http:
        await http.get("/")  # a connection that idles, and whose client confirms no end
        waiting = asyncio.create_task(http.post(f"{target.path}/runsync", json={"input": 1}, timeout=20))
        assert await still_waits(waiting, 0.5)
        gateway.send(signal.SIGTERM)
        assert (await waiting).json()["status"] == "IN_QUEUE"
    assert gateway.wait(8) in (0, -signal.SIGTERM)
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_connections_made_while_it_ends_are_answered_or_refused(
    backing: Server, pair: Pair, tmp_path: Path, processes: str
) -> None:
    """Each finds nobody, or gets its answer; none is cut off, in whatever part of its handshake."""
    pair.write("x")
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY, processes=processes, **pair.settings)
    context = pair.authority.client()
    answered = 0

    def ask() -> bool:
        """Whether there was anybody."""
        nonlocal answered
        try:
            plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=2)
        except OSError:
            return False
        plain.settimeout(20)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1000), b""))
            assert answer.endswith(b'{"error":"not found"}')
        answered += 1
        return True

    async def go_on() -> None:
        while await asyncio.to_thread(ask):
            pass

    askers = [asyncio.create_task(go_on()) for _ in range(8)]

    async def enough() -> bool:
        return answered > 20

    await eventually(enough)
    gateway.send(signal.SIGTERM)
    await asyncio.gather(*askers)
    gateway.wait()


# other certificates


@pytest.mark.parametrize("processes", ["1", "2"])
def test_new_files_are_served(backing: Server, pair: Pair, tmp_path: Path, processes: str) -> None:
    pair.write("first", "rsa")
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY, processes=processes, **pair.settings)
    contexts = [pair.authority.client(version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]

    def names() -> set[str]:
        return {served(gateway, context) for context in contexts * 8}

    try:
        eventually_true(lambda: names() == {"first"})
        pair.write("second", "ec")
        eventually_true(lambda: names() == {"second"})
        pair.write("third", "rsa")
        gateway.send(signal.SIGHUP)
        eventually_true(lambda: names() == {"third"})
        assert names() == {"third"}
    finally:
        gateway.stop()


def test_a_pair_is_served_only_when_both_files_are_there(backing: Server, pair: Pair, tmp_path: Path) -> None:
    pair.write("first")
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY, **pair.settings)
    context = pair.authority.client()
    try:
        certificate, key = pair.authority.issue("second")
        pair.certificate.write_bytes(certificate)
        gateway.wait_for("(is not that of the certificate)")
        assert served(gateway, context) == "first"
        pair.key.unlink()
        gateway.wait_for("(cannot read .*key.pem)")
        assert served(gateway, context) == "first"
        pair.key.write_bytes(key)
        gateway.wait_for("(serving the new certificate)")
        assert served(gateway, context) == "second"
        pair.write("third", days=-0.1)
        gateway.wait_for("(has expired)")
        assert served(gateway, context) == "second"
    finally:
        gateway.stop()


def test_links_that_are_turned_at_once_as_in_kubernetes(backing: Server, authority: Authority, tmp_path: Path) -> None:
    for name in ("first", "second"):
        Pair(tmp_path / name, authority).write(name)
    data = tmp_path / "..data"
    data.symlink_to("first")
    for file in ("cert.pem", "key.pem"):
        (tmp_path / file).symlink_to(f"..data/{file}")
    pair = Pair(tmp_path, authority)
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY, **pair.settings)
    try:
        (tmp_path / "new").symlink_to("second")
        (tmp_path / "new").rename(data)
        gateway.wait_for("(serving the new certificate)")
        assert served(gateway, authority.client()) == "second"
        shutil.rmtree(tmp_path / "first")
    finally:
        gateway.stop()
