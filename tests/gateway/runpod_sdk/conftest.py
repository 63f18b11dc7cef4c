"""Endpoints and workers of RunPod's SDK. An idle worker of 1.7.13 keeps a whole core busy, so none lives longer than it
is needed."""

from collections.abc import Callable, Generator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from ..clients import API_KEY, Target, bearer
from ..processes import Gateway
from .workers import LATEST, OLD, Endpoint, Sdk, SdkWorker

MakeEndpoint = Callable[..., Endpoint]
StartWorker = Callable[..., SdkWorker]
ClientOf = Callable[[Endpoint], Target]

_started: list[SdkWorker] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the logs of the workers that there are, when a test fails."""
    report = yield
    if report.failed:
        report.sections += [(f"worker {worker.id} of {worker.sdk.name}", worker.log[-20_000:]) for worker in _started]
    return report


@pytest.fixture(scope="module", params=[OLD, LATEST], ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Each version of the SDK."""
    found: Sdk = request.param
    return found


@pytest.fixture(scope="module")
def make_endpoint(gateway: Gateway) -> Iterator[MakeEndpoint]:
    """Makes endpoints with the fields given; they go with the tests of the module."""
    made: list[str] = []
    with httpx.Client(base_url=gateway.url, headers=bearer(API_KEY), timeout=30) as client:

        def make(**fields: Any) -> Endpoint:
            made.append(f"sdk-{uuid4().hex[:12]}")
            created = client.post("/v1/endpoints", json={"id": made[-1], **fields})
            assert created.status_code == 201, created.text
            return Endpoint(gateway, made[-1], created.json()["workerKey"])

        yield make
        for id in made:
            client.delete(f"/v1/endpoints/{id}")


@pytest.fixture(scope="module")
def start_worker(tmp_path_factory: pytest.TempPathFactory, make_endpoint: MakeEndpoint) -> Iterator[StartWorker]:
    """Starts workers, which go with the tests of the module at the latest."""
    mine: list[SdkWorker] = []

    def start(sdk: Sdk, endpoint: Endpoint, id: str = "w1", **variables: Any) -> SdkWorker:
        mine.append(SdkWorker(tmp_path_factory.mktemp("worker"), sdk, endpoint, id, **variables))
        _started.append(mine[-1])
        return mine[-1]

    yield start
    for worker in mine:
        worker.kill()
        _started.remove(worker)


@pytest.fixture
def client_of(http: httpx.AsyncClient) -> ClientOf:
    """A client of an endpoint."""
    return lambda endpoint: Target(http, {"id": endpoint.id, "workerKey": endpoint.key})


async def final(target: Target, input: Any, **fields: Any) -> dict[str, Any]:
    """A job with this input, at its end."""
    response = await target.post("/runsync", {"input": input, **fields}, params={"wait": 25_000})
    found: dict[str, Any] = response.json()
    return found


async def ended(target: Target, job: str) -> dict[str, Any]:
    """The job at its end."""
    found: dict[str, Any] = (await target.get(f"/status-sync/{job}", params={"wait": 25_000})).json()
    return found
