"""What carries a worker's calls: whether it goes to the store or over HTTP."""

import socket

import pytest

from ..faults.proxy import Proxy as StoreLine
from ..stores import free_port
from .conftest import Gateway, Jobs, StartWorker
from .test_worker import ECHO, OBEDIENT

pytestmark = pytest.mark.only_over("http")

PASSWORD = "the-password-of-the-store"


def links(gateway: Gateway) -> list[tuple[str | None, str, bool]]:
    """What workers asked for: their ids, what carries their calls, and whether their processes were new."""
    return [(body.get("id"), body["link"], body.get("restarted", False)) for body in gateway.registrations]


class TestWithoutASetting:
    @pytest.mark.only_over("redis")
    def test_it_is_the_store_where_that_can_be_reached(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        worker = start_worker(ECHO)
        jobs.run()
        assert links(gateway) == [(None, "redis", True)]
        assert "HTTP" not in worker.log
        assert {request.path for request in gateway.requests} == {"/v2/sdk/workers"}

    @pytest.mark.only_over("redis")
    def test_it_is_the_store_also_when_a_connection_is_cut(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        line = StoreLine(gateway.store.port)
        try:
            cut = line.lose_reply(b"PING")
            gateway.url_of_store = line.url
            worker = start_worker(ECHO, RUNLANE_LINK="")
            jobs.run()
        finally:
            line.close()
        assert cut.done()
        assert links(gateway) == [(None, "redis", True)]
        assert "HTTP" not in worker.log

    def test_it_is_http_where_nobody_listens(self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway) -> None:
        place = f"127.0.0.1:{free_port()}"
        gateway.url_of_store = f"redis://worker:{PASSWORD}@{place}/0"
        worker = start_worker(ECHO, RUNLANE_LINK="")
        assert jobs.run({"a": 1})["input"] == {"a": 1}
        assert worker.log.count(f"INFO the store at {place} cannot be reached from here (Error 111 connecting to") == 1
        assert worker.log.count("): working over HTTP through the gateway\n") == 1
        assert PASSWORD not in worker.log
        assert links(gateway) == [(None, "redis", True), ("worker-1", "http", True)]

    def test_it_is_http_where_nobody_answers(self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            gateway.url_of_store = f"redis://worker:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/0"
            worker = start_worker(ECHO, RUNLANE_LINK="")
            jobs.run()
        assert "cannot be reached from here (Timeout" in worker.log
        assert "): working over HTTP through the gateway\n" in worker.log
        assert PASSWORD not in worker.log

    def test_it_is_http_where_another_store_has_that_address(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        gateway.url_of_store = gateway.url_of_store.replace("//", f"//worker:{PASSWORD}@")
        worker = start_worker(ECHO, RUNLANE_LINK="")
        jobs.run()
        assert "cannot be reached from here (invalid username-password pair" in worker.log
        assert PASSWORD not in worker.log

    def test_it_is_http_where_the_gateway_gives_no_access(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        gateway.gives_access = False
        worker = start_worker(ECHO, RUNLANE_LINK="")
        jobs.run()
        assert worker.log.count("the gateway gives no access to the store: working over HTTP") == 1
        assert links(gateway) == [(None, "redis", True)]


class TestRunlaneLink:
    def test_http_asks_for_no_access(self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway) -> None:
        worker = start_worker(ECHO, RUNLANE_LINK="http", RUNLANE_WORKER_ID="without-access")
        jobs.run()
        assert links(gateway) == [("without-access", "http", True)]
        assert "the store" not in worker.log
        assert "without-access" not in "".join(gateway.store.client.acl_users())

    @pytest.mark.only_over("redis")
    def test_redis_waits_for_a_store_that_cannot_be_reached(
        self, start_worker: StartWorker, jobs: Jobs, gateway: Gateway
    ) -> None:
        url = gateway.url_of_store
        gateway.url_of_store = f"redis://127.0.0.1:{free_port()}/0"
        worker = start_worker(OBEDIENT, RUNLANE_LINK="redis")
        worker.wait_for("the store does not serve this worker")
        gateway.url_of_store = url
        assert jobs.run()["attempt"] == 1
        assert {link for _, link, _ in links(gateway)} == {"redis"}

    def test_redis_ends_a_worker_that_gets_no_access(self, start_worker: StartWorker, gateway: Gateway) -> None:
        gateway.gives_access = False
        worker = start_worker(ECHO, loaded=False, RUNLANE_LINK="redis")
        assert worker.wait(10) == 1
        assert "gives workers no access to the store; RUNLANE_LINK=http does without" in worker.log
