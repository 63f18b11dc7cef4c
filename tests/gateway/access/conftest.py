from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from gateway.access.keys import digest

from ...stores import Server
from ..conftest import client_of
from ..processes import Gateway

ADMIN_KEY = "rl-admin-key"
OTHER_ADMIN_KEY = "rl-other-admin-key"
PROXY = "127.0.0.0/8"
"""The tests' own address, which may say that it speaks for others."""


@pytest.fixture(scope="session")
def replicas(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways over one store, with the usual limits, for two tenants. Failed logins are told apart by what the
    requests say of where they come from."""
    keys = f"acme:{ADMIN_KEY},other:{OTHER_ADMIN_KEY}"
    started = [
        Gateway(tmp_path_factory.mktemp("replica"), backing.url, admin_keys=keys, trusted_proxies=PROXY)
        for _ in range(2)
    ]
    yield started[0], started[1]
    for gateway in started:
        gateway.stop()


@pytest.fixture
async def one(replicas: tuple[Gateway, Gateway]) -> AsyncIterator[httpx.AsyncClient]:
    """The administrator of the tenant acme, at the one gateway."""
    async with client_of(replicas[0], ADMIN_KEY) as client:
        yield client


@pytest.fixture
async def two(replicas: tuple[Gateway, Gateway]) -> AsyncIterator[httpx.AsyncClient]:
    """The same at the other gateway."""
    async with client_of(replicas[1], ADMIN_KEY) as client:
        yield client


def key_name(key: str) -> str:
    """The key under which the store has it."""
    return f"runlane:{{access}}:key:{digest(key)}"
