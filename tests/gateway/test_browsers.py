"""Web pages of other origins, and HEAD: only where the settings allow them."""

from collections.abc import Iterator

import httpx
import pytest

from ..stores import Server
from .clients import API_KEY, Target
from .conftest import client_of
from .processes import Gateway
from .sockets import asked, connected, until_closed
from .test_serve import refused_here

PAGE = "https://app.example"
OTHER = "https://other.example"


@pytest.fixture(scope="module")
def open_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that allows the pages of one origin, and HEAD."""
    folder = tmp_path_factory.mktemp("open")
    gateway = Gateway(folder, backing.url, api_keys=API_KEY, cors_origins=PAGE, head_requests="true")
    yield gateway
    gateway.stop()


def preflight(origin: str) -> dict[str, str]:
    headers = "authorization,content-type,idempotency-key"
    return {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}


async def test_the_pages_of_an_origin_may_call(open_gateway: Gateway, target: Target) -> None:
    async with client_of(open_gateway) as http:
        allowed = await http.options(f"{target.path}/run", headers=preflight(PAGE))
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert {"authorization", "idempotency-key"} <= set(
            allowed.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
        )
        for path, status in ((f"{target.path}/health", 200), ("/nothing", 404)):
            answer = await http.get(path, headers={"Origin": PAGE})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
            exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
            assert {"X-Request-ID", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining"} <= exposed
            assert "access-control-allow-credentials" not in answer.headers
            assert len(answer.headers.get_list("x-request-id")) == 1


async def test_those_of_another_may_not(open_gateway: Gateway, target: Target) -> None:
    async with client_of(open_gateway) as http:
        refused = await http.options(f"{target.path}/run", headers=preflight(OTHER))
        assert refused.status_code == 400
        for answer in (refused, await http.get(f"{target.path}/health", headers={"Origin": OTHER})):
            assert "access-control-allow-origin" not in answer.headers


async def test_none_may_unless_it_is_set(http: httpx.AsyncClient, target: Target) -> None:
    refused = await http.options(f"{target.path}/run", headers=preflight(PAGE))
    answer = await http.get(f"{target.path}/health", headers={"Origin": PAGE})
    assert (refused.status_code, answer.status_code) == (405, 200)
    assert not [name for name in (*refused.headers, *answer.headers) if name.startswith("access-control")]


async def test_all_may_but_without_credentials(
    backing: Server, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = Gateway(tmp_path_factory.mktemp("all"), backing.url, api_keys=API_KEY, cors_origins="*")
    try:
        async with client_of(gateway) as http:
            answer = await http.get(f"{target.path}/health", headers={"Origin": OTHER, "Cookie": "a=b"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    finally:
        gateway.stop()


async def test_a_server_without_keys_serves_no_pages_from_elsewhere(
    backing: Server, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = Gateway(tmp_path_factory.mktemp("local"), backing.url, insecure="true", cors_origins="*")
    try:
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            assert (await http.get(f"{target.path}/health")).status_code == 200
            assert (await http.get(f"{target.path}/health", headers={"Origin": OTHER})).status_code == 403
    finally:
        gateway.stop()


@pytest.mark.parametrize("origins", ["app.example", "https://app.example/", "https://App.example", "null", "https://*"])
def test_what_is_no_origin(backing: Server, tmp_path_factory: pytest.TempPathFactory, origins: str) -> None:
    file = tmp_path_factory.mktemp("settings") / "runlane.toml"
    file.write_text(f'cors_origins = ["{origins}"]')
    refused_here("--redis", backing.url, "--config", str(file), says=("cors_origins", origins))


async def test_head_is_get_without_the_body(open_gateway: Gateway, target: Target) -> None:
    id = await target.run(1)
    async with client_of(open_gateway) as http:
        for path in (f"{target.path}/health", f"{target.path}/status/{id}", "/v1/endpoints", f"{target.path}/requests"):
            head, whole = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == whole.headers["content-type"]
            assert int(head.headers["content-length"]) > 0
        assert (await http.head(f"{target.path}/run")).status_code == 405
        assert (await http.head("/nothing")).status_code == 404
    with connected(open_gateway) as connection:
        connection.sendall(asked("HEAD", f"{target.path}/health") + asked("HEAD", "/nothing", "Connection: close"))
        assert until_closed(connection).count(b"HTTP/1.1 ") == 2


async def test_head_changes_nothing(open_gateway: Gateway, target: Target) -> None:
    """Where a GET does, it stays what it is: not allowed."""
    worker = await target.register("w")
    id = await target.run(1)
    async with client_of(open_gateway) as http:
        key = {"Authorization": target.worker_key}
        assert (await http.head(f"{target.path}/job-take/w", headers=key)).status_code == 405
        assert (await http.head(f"{target.path}/ping/w", headers=key)).status_code == 405
        assert (await http.head(f"{target.path}/status/{id}", params={"ttl": 10_000})).status_code == 405
        (job,) = worker.take()
        worker.emit(job, 1, b'"one"')
        assert (await http.head(f"{target.path}/stream/{id}")).status_code == 405
        assert (await http.head(f"{target.path}/openai/v1/models")).status_code == 405
    assert [item["output"] for item in (await target.poll(id))["stream"]] == ["one"]
    assert len(await target.listed()) == 1
