import httpx
import pytest

from gateway.access.local import check_local, is_loopback
from gateway.errors import Forbidden

from ...stores import Server
from ..clients import Target
from ..processes import Gateway

OURS = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3:1", "[::1]", "[::1]:8000"]
FOREIGN = [
    "", "example.com", "localhost.example.com", "127.0.0.1.example.com", "example.com:8000", "x@localhost",
    "localhost:", "localhost:80x", "192.168.0.1", "0.0.0.0", "[::2]", "127.0.0.1/", "localhost\n", "127.0.0.१",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_what_is_this_machine(host: str) -> None:
    assert is_loopback(host)
    check_local(host, "")
    check_local(host, f"http://{host}")


@pytest.mark.parametrize("host", FOREIGN)
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Forbidden):
        check_local(host, "")


@pytest.mark.parametrize(
    "origin", ["null", "http://example.com", "https://localhost.example.com", "http://", "file://", "x"]
)
def test_a_page_from_elsewhere(origin: str) -> None:
    with pytest.raises(Forbidden, match="pages"):
        check_local("localhost:8000", origin)


async def test_a_gateway_without_keys_serves_no_pages_from_elsewhere(
    backing: Server, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = Gateway(tmp_path_factory.mktemp("open"), backing.url, "--insecure")
    try:
        async with httpx.AsyncClient(base_url=gateway.url, verify=False) as http:
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
                for path in (f"{target.path}/run", f"{target.path}/workers", "/v1/endpoints"):
                    response = await http.post(path, json={"input": 1}, headers=headers)
                    assert response.status_code == 403, path
                    assert response.json().keys() == {"error"}
            assert (await http.post(f"{target.path}/run", json={"input": 1})).status_code == 200
    finally:
        gateway.stop()
    assert len(await target.listed()) == 1


async def test_a_gateway_with_keys_may_have_any_name(target: Target) -> None:
    headers = {"Host": "gateway.example", "Origin": "https://app.example"}
    assert (await target.get("/health", headers=headers)).status_code == 200
