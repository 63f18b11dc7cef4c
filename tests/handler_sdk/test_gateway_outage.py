"""Workers over HTTP whose gateway goes and comes back, or stands behind a proxy."""

import datetime
import functools
import ipaddress
import json
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..gateway import processes
from ..stores import free_port
from .conftest import Gateway, Jobs, StartWorker, Store, eventually
from .proxy import Proxy
from .test_worker import ECHO

pytestmark = pytest.mark.only_over("http")

# Each start of a job is a line in a file, and so is seen whatever becomes of it on its way to the store.
COUNTING = """
import os, time
import handler_sdk
def handler(job):
    with open("begun", "a") as log: log.write(job["id"] + "\\n")
    yield "first"
    while job["input"] and not os.path.exists(job["input"]): time.sleep(0.01)
    for number in range(100): yield number
    with open("ended", "a") as log: log.write(job["id"] + "\\n")
handler_sdk.start({"handler": handler, "return_aggregate_stream": True})
"""
CHUNKS = ["first", *range(100)]


class Restarted:
    """A gateway that comes back at the same port."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = f"redis://127.0.0.1:{store.port}/0"
        self._port = free_port()
        self._starts = 0
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._starts += 1
        folder = self._folder / f"gateway-{self._starts}"
        self.process = processes.Process(
            folder, "serve", "--port", str(self._port), redis_url=self._store, insecure="true"
        )
        eventually(functools.partial(processes.listens, self._port), 30)

    def end(self, number: signal.Signals) -> None:
        self.process.send(number)
        self.process.wait()


@pytest.fixture
def restarted(store: Store, gateway: Gateway, tmp_path: Path) -> Iterator[Restarted]:
    """Over the shared store, whose upkeep `gateway` does. Leases last longer than an outage."""
    store.configure("lease_ms", 30_000, "config", '{"leaseSeconds":30.0}')
    restarted = Restarted(tmp_path, store)
    yield restarted
    restarted.process.stop()


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
class TestRestart:
    def test_in_the_middle_of_a_job_delays_its_result(
        self, number: signal.Signals, restarted: Restarted, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(COUNTING, RUNLANE_URL=restarted.url)
        job = jobs.submit("go")
        eventually(lambda: jobs.chunks(job) == ["first"])
        restarted.end(number)
        (tmp_path / "go").touch()
        eventually(lambda: lines(tmp_path / "ended") == [job])
        worker.wait_for("the gateway does not serve this worker")
        restarted.start()
        fields = jobs.wait(job)
        assert (fields["state"], fields["attempt"], json.loads(fields["output"])) == ("COMPLETED", "1", CHUNKS)
        assert jobs.chunks(job) == CHUNKS
        worker.wait_for("the gateway is back after")
        assert worker.log.count("the gateway does not serve this worker") == 1
        assert jobs.wait(jobs.submit())["state"] == "COMPLETED"

    def test_while_it_waits_for_jobs_goes_unnoticed(
        self, number: signal.Signals, restarted: Restarted, start_worker: StartWorker, jobs: Jobs, store: Store
    ) -> None:
        start_worker(COUNTING, RUNLANE_URL=restarted.url)
        eventually(lambda: store.client.zcard("runlane:{sdk}:waiting"))
        restarted.end(number)
        early = jobs.submit()
        restarted.start()
        for job in (early, jobs.submit()):
            fields = jobs.wait(job)
            assert (fields["state"], fields["attempt"], fields["tries"]) == ("COMPLETED", "1", "1")

    def test_again_and_again_has_no_job_run_twice(
        self, number: signal.Signals, restarted: Restarted, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(COUNTING, RUNLANE_URL=restarted.url)
        many = []
        for _ in range(3):
            many += [jobs.submit() for _ in range(40)]
            begun = len(lines(tmp_path / "begun"))
            eventually(lambda: len(lines(tmp_path / "begun")) > begun + 5)  # noqa: B023
            restarted.end(number)
            restarted.start()
        for job in many:
            assert jobs.wait(job)["state"] == "COMPLETED"
            assert jobs.chunks(job) == CHUNKS
        assert sorted(lines(tmp_path / "begun")) == sorted(many)
        assert worker.end() == 0


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """Of 127.0.0.1, by an authority of nobody's but the test's, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "certificate.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return path

    @pytest.fixture
    def proxy(self, gateway: Gateway, certificate: Path) -> Iterator[Proxy]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        proxy = Proxy(gateway.port, context)
        yield proxy
        proxy.close()

    def test_ends_at_a_proxy(self, proxy: Proxy, certificate: Path, start_worker: StartWorker, jobs: Jobs) -> None:
        worker = start_worker(ECHO, RUNLANE_URL=proxy.url, SSL_CERT_FILE=str(certificate))
        for given in (1, "x" * 300_000):
            assert jobs.run(given)["input"] == given
        assert worker.end() == 0

    def test_is_refused_when_nobody_vouches_for_the_proxy(self, proxy: Proxy, start_worker: StartWorker) -> None:
        worker = start_worker(ECHO, RUNLANE_URL=proxy.url)
        worker.wait_for("waiting for the gateway at https://127.0.0.1:")
        assert "certificate verify failed" in worker.log
        assert worker.end() == 0

    def test_shows_chunks_before_the_handler_blocks_its_loop(
        self, proxy: Proxy, certificate: Path, start_worker: StartWorker, jobs: Jobs
    ) -> None:
        source = """
import time
import handler_sdk
async def handler(job):
    for number in range(3):
        time.sleep(0.05)
        yield number
    for step in range(5):
        handler_sdk.progress_update(job, step)
        time.sleep(0.05)
    time.sleep(30)
handler_sdk.start({"handler": handler})
"""
        start_worker(source, RUNLANE_URL=proxy.url, SSL_CERT_FILE=str(certificate))
        job = jobs.submit()
        eventually(lambda: jobs.fields(job).get("progress") == "4", 5)
        assert jobs.chunks(job) == [0, 1, 2]

    def test_results_arrive_however_often_the_line_breaks(
        self, proxy: Proxy, certificate: Path, start_worker: StartWorker, jobs: Jobs, tmp_path: Path
    ) -> None:
        worker = start_worker(COUNTING, RUNLANE_URL=proxy.url, SSL_CERT_FILE=str(certificate))
        many = [jobs.submit() for _ in range(60)]
        for share in (10, 20, 30):
            eventually(lambda: len(lines(tmp_path / "begun")) > share)  # noqa: B023
            proxy.cut()
        for job in many:
            assert jobs.wait(job)["state"] == "COMPLETED"
            assert jobs.chunks(job) == CHUNKS
        assert sorted(lines(tmp_path / "begun")) == sorted(many)
        assert worker.end() == 0
