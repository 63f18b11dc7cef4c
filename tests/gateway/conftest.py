from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from ..stores import Server, valkey
from .clients import API_KEY, Target, Worker, bearer
from .processes import Gateway

NOBODY = urlsplit("http://127.0.0.1:9/")
"""Where webhooks may go, in vain."""

STORE_PASSWORD = "the-main-password-of-the-store"
SMALL_LIMIT = 1000
SMALL_HEADER_LIMIT = 20_000
BODY_SECONDS = 1


@pytest.fixture(scope="session")
def backing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The store behind the gateways of these tests; no test stops it."""
    server = Server(tmp_path_factory.mktemp("backing"), valkey(), requirepass=STORE_PASSWORD)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def admin(backing: Server) -> "Iterator[redis.Redis]":
    """The store's own client, for a look behind the gateway's back."""
    with backing.client as client:
        yield client


@pytest.fixture(scope="session")
def gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without limits, which the tests share; they keep apart by their endpoints."""
    gateway = Gateway(
        tmp_path_factory.mktemp("gateway"), backing.url, api_keys=f"{API_KEY},rl-other-key",
        rate_limits="off", failed_logins="0", audit_log="off", outbound_allow=NOBODY.netloc,
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def small_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Another one over the same store, with little patience and small limits."""
    gateway = Gateway(
        tmp_path_factory.mktemp("small-gateway"), backing.url, api_keys=API_KEY, body_seconds=str(BODY_SECONDS),
        run_limit=str(SMALL_LIMIT), runsync_limit=str(2 * SMALL_LIMIT), header_seconds="1",
        header_limit=str(SMALL_HEADER_LIMIT), rate_limits="off", failed_logins="0",
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shared gateway, with a key."""
    async with client_of(gateway) as client:
        yield client


def client_of(gateway: Gateway, key: str = API_KEY) -> httpx.AsyncClient:
    """A client with this key."""
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(base_url=gateway.url, headers=bearer(key), timeout=30, limits=limits, verify=False)


Make = Callable[..., Awaitable[Target]]


@pytest.fixture
async def make_target(http: httpx.AsyncClient, endpoint: str) -> AsyncIterator[Make]:
    """Makes endpoints with the fields given; they go with the test."""
    made: list[Target] = []

    async def make(**fields: Any) -> Target:
        id = f"{endpoint}-{len(made)}"
        response = await http.post("/v1/endpoints", json={"id": id, **fields})
        assert response.status_code == 201, response.text
        made.append(Target(http, response.json()))
        return made[-1]

    yield make
    for target in made:
        target.close()
        await http.delete(f"/v1/endpoints/{target.id}")


@pytest.fixture
async def target(make_target: Make) -> Target:
    """An endpoint with the default settings."""
    return await make_target()


@pytest.fixture
async def worker(target: Target) -> Worker:
    """A worker of `target`."""
    return await target.register("w1")
