"""Who waits and hangs up: what was held for him ends then, and he counts as under way no more."""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from ..stores import Server
from .certificates import Authority, Pair
from .clients import API_KEY, Target
from .conftest import client_of
from .processes import Gateway
from .sockets import asked
from .waiting import eventually

LIMITS = "runsync=1000/1/0,status=1000/1/0"
"""One at once of each: another is refused for as long as there is one."""

LONG = "?wait=300000"


@pytest.fixture(scope="module", params=["http", "https"])
def strict(
    request: pytest.FixtureRequest, backing: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that has one request at once."""
    settings = {}
    if request.param == "https":
        folder = tmp_path_factory.mktemp("tls")
        pair = Pair(folder, Authority(folder))
        pair.write("strict")
        settings = pair.settings
    gateway = Gateway(
        tmp_path_factory.mktemp("strict"),
        backing.url,
        api_keys=API_KEY,
        rate_limits=LIMITS,
        audit_log="off",
        **settings,
    )
    yield gateway
    gateway.stop()


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as plain:
        if gateway.url.startswith("https"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(plain) as secured:
                yield secured
        else:
            yield plain


@pytest.fixture
async def client(strict: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(strict) as client:
        yield client


def of_status(path: str, job: str) -> tuple[bytes, str]:
    """A request that waits, and the path of one for which there is room only without it."""
    return asked("GET", f"{path}/status-sync/{job}{LONG}"), f"{path}/status/{job}"


def of_status_with_a_body(path: str, job: str) -> tuple[bytes, str]:
    """Nobody reads it."""
    headers = ("Content-Length: 200000",)
    return asked("GET", f"{path}/status-sync/{job}{LONG}", *headers, body=bytes(150_000)), f"{path}/status/{job}"


def of_status_and_more(path: str, job: str) -> tuple[bytes, str]:
    """Other requests wait behind it."""
    sent, free = of_status(path, job)
    return sent + asked("GET", "/v1/endpoints") * 2000, free


def of_runsync(path: str, job: str, size: int = 1) -> tuple[bytes, str]:
    body = b'{"input":"%b"}' % (b"x" * size)
    # A request without a job finds no room either, and is refused for itself if it does.
    return asked("POST", f"{path}/runsync{LONG}", f"Content-Length: {len(body)}", body=body), f"{path}/runsync"


def of_a_large_runsync(path: str, job: str) -> tuple[bytes, str]:
    return of_runsync(path, job, 300_000)


@pytest.mark.parametrize("at_once", [False, True], ids=["later", "at once"])
@pytest.mark.parametrize(
    "waiting", [of_status, of_status_with_a_body, of_status_and_more, of_runsync, of_a_large_runsync]
)
async def test_who_hangs_up_is_under_way_no_more(
    strict: Gateway,
    client: httpx.AsyncClient,
    target: Target,
    waiting: Callable[[str, str], tuple[bytes, str]],
    at_once: bool,
) -> None:
    sent, other = waiting(target.path, await target.run(1))

    async def is_under_way() -> bool:
        method = "POST" if other.endswith("runsync") else "GET"
        return (await client.request(method, other)).status_code == 429

    async def is_over() -> bool:
        return not await is_under_way()

    with connected(strict) as connection:
        connection.sendall(sent)
        if not at_once:
            await eventually(is_under_way)
    await eventually(is_over)
