"""Failed logins: what blocks an address, at both of two gateways over one store."""

import itertools

import httpx
import pytest
from starlette.types import Scope

from gateway.access.addresses import Addresses, Blocked, counted_as
from gateway.errors import StartupError

from ...stores import Server
from ..clients import API_KEY, bearer
from ..conftest import Make
from ..processes import Gateway
from .conftest import ADMIN_KEY

MOST = 10
BLOCKED = (401, {"error": "rate limit exceeded"})
WRONG = (401, {"error": "missing or wrong API key"})

_numbers = itertools.count(1)


def new_address() -> str:
    """One from which nobody has come before."""
    number = next(_numbers)
    return f"198.18.{number // 250}.{number % 250 + 1}"


async def ask(
    gateway: Gateway, address: str, key: str | None = None, path: str = "/v1/endpoints"
) -> tuple[int, object]:
    headers = {"X-Forwarded-For": address} | (bearer(key) if key else {})
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, verify=False) as http:
        response = await http.get(path)
        return response.status_code, response.json() if response.is_error else None


Replicas = tuple[Gateway, Gateway]


class TestBlock:
    async def test_after_ten_at_either_gateway(self, replicas: Replicas) -> None:
        address = new_address()
        for number in range(MOST):
            assert await ask(replicas[number % 2], address, f"guess-{number}") == WRONG
        for gateway in replicas:
            assert await ask(gateway, address, "guess") == BLOCKED
            assert await ask(gateway, address, ADMIN_KEY) == BLOCKED
            assert await ask(gateway, new_address(), ADMIN_KEY) == (200, None)

    async def test_requests_without_a_key_count(self, replicas: Replicas) -> None:
        address = new_address()
        for _ in range(MOST):
            assert await ask(replicas[0], address) == WRONG
        assert await ask(replicas[1], address, ADMIN_KEY) == BLOCKED

    async def test_good_ones_in_between_do_not_help(self, replicas: Replicas) -> None:
        address = new_address()
        for _ in range(MOST):
            assert await ask(replicas[0], address, "guess") == WRONG
            if _ < MOST - 1:
                assert await ask(replicas[0], address, ADMIN_KEY) == (200, None)
        assert await ask(replicas[0], address, ADMIN_KEY) == BLOCKED

    async def test_what_is_forbidden_is_no_failure(self, replicas: Replicas) -> None:
        address = new_address()
        for _ in range(MOST + 5):
            assert (await ask(replicas[0], address, ADMIN_KEY, "/v2/missing/health"))[0] == 404
        assert await ask(replicas[0], address, ADMIN_KEY) == (200, None)

    async def test_of_one_network_of_ipv6(self, replicas: Replicas) -> None:
        prefix = f"2001:db8:{next(_numbers):x}:1"
        for number in range(MOST):
            await ask(replicas[0], f"{prefix}::{number:x}", "guess")
        assert await ask(replicas[1], f"{prefix}:ffff::1", ADMIN_KEY) == BLOCKED
        assert await ask(replicas[1], f"{prefix[:-1]}2::1", ADMIN_KEY) == (200, None)

    async def test_is_known_to_a_gateway_that_starts_later(
        self, replicas: Replicas, backing: Server, tmp_path: "pytest.TempPathFactory"
    ) -> None:
        address = new_address()
        for _ in range(MOST):
            await ask(replicas[0], address, "guess")
        late = Gateway(tmp_path / "late", backing.url, api_keys=API_KEY, trusted_proxies="127.0.0.1")  # type: ignore[operator]
        try:
            assert await ask(late, address, API_KEY) == BLOCKED
        finally:
            late.stop()

    async def test_good_keys_may_be_let_through(self, backing: Server, tmp_path: "pytest.TempPathFactory") -> None:
        settings = {"api_keys": API_KEY, "trusted_proxies": "127.0.0.1", "good_keys_pass": "true", "failed_logins": "2"}
        gateway = Gateway(tmp_path / "kind", backing.url, **settings)  # type: ignore[operator]
        try:
            address = new_address()
            for _ in range(2):
                assert await ask(gateway, address, "guess") == WRONG
            assert await ask(gateway, address, "guess") == BLOCKED
            assert await ask(gateway, address, API_KEY) == (200, None)
        finally:
            gateway.stop()


async def test_a_shared_gateway_that_counts_nothing_blocks_nobody(make_target: Make) -> None:
    target = await make_target()
    for _ in range(MOST + 2):
        assert (await target.get("/health", headers=bearer("guess"))).json() == WRONG[1]
    assert (await target.get("/health")).status_code == 200


# by themselves


def scope_of(client: str | None, *forwarded: str) -> Scope:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    return {"type": "http", "client": (client, 1234) if client else None, "headers": headers}


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [("10.0.0.1", ("1.2.3.4",), "1.2.3.4"), ("10.0.0.1", ("6.6.6.6, 1.2.3.4",), "1.2.3.4"),
     ("10.0.0.1", ("6.6.6.6", "1.2.3.4"), "1.2.3.4"), ("10.0.0.1", ("1.2.3.4, 10.0.0.2",), "1.2.3.4"),
     ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"), ("10.0.0.1", (), "10.0.0.1"), ("10.0.0.1", ("",), "10.0.0.1"),
     ("10.0.0.1", ("nonsense",), "10.0.0.1"), ("10.0.0.1", ("1.2.3.4, nonsense",), "10.0.0.1"),
     ("10.0.0.1", ("1.2.3.4:5678",), "1.2.3.4"), ("10.0.0.1", ("[2001:db8::1]:5",), "2001:db8::1"),
     ("10.0.0.1", ("2001:db8::1",), "2001:db8::1"), ("8.8.8.8", ("1.2.3.4",), "8.8.8.8"),
     ("::ffff:10.0.0.1", ("1.2.3.4",), "1.2.3.4"), ("fd00::1", ("1.2.3.4",), "1.2.3.4"),
     (None, ("1.2.3.4",), "unknown")],
)  # fmt: skip
def test_where_a_request_comes_from(client: str | None, forwarded: tuple[str, ...], address: str) -> None:
    assert Addresses(["10.0.0.0/8", "fd00::1"]).of(scope_of(client, *forwarded)) == address


def test_nobody_is_believed_by_default() -> None:
    assert Addresses([]).of(scope_of("10.0.0.1", "1.2.3.4")) == "10.0.0.1"


@pytest.mark.parametrize("entry", ["", "proxy.internal", "10.0.0.0/33", "10.0.0"])
def test_a_proxy_that_cannot_be_one(entry: str) -> None:
    with pytest.raises(StartupError, match="RUNLANE_TRUSTED_PROXIES"):
        Addresses([entry])


@pytest.mark.parametrize(
    ("address", "counted"),
    [("1.2.3.4", "1.2.3.4"), ("::ffff:1.2.3.4", "1.2.3.4"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("unknown", "unknown"), ("x" * 1000, "unknown")],
)  # fmt: skip
def test_what_failures_are_counted_for(address: str, counted: str) -> None:
    assert counted_as(address) == counted


def test_a_block_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.access.addresses.time.monotonic", lambda: now)
    blocked = Blocked()
    blocked.add("a", 5000)
    assert ("a" in blocked, "b" in blocked, bool(blocked)) == (True, False, True)
    now = 105.0
    assert not blocked  # also when nobody comes from there any more: each request would be looked at for it
    assert "a" not in blocked
