"""Where a request comes from, and which addresses are blocked for a while since too many logins failed there.

Failures are counted in the store, for all gateway processes (functions/access.lua); each of them knows the addresses
that are blocked, so that it need not ask.
"""

import ipaddress
import time
from collections.abc import Iterable

from starlette.types import Scope

from ..errors import StartupError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_BLOCKED = 100_000
IPV6_PREFIX = 64
"""So much of an IPv6 address is one customer's, who has all addresses behind it."""

UNKNOWN = "unknown"
"""The address of a client that came over no network."""


class Addresses:
    """Finds out where a request comes from."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        """`trusted_proxies`: addresses or networks, whose word on where a request came from counts.

        Raises:
            StartupError: one is neither.
        """
        self._trusted = [_network(entry) for entry in trusted_proxies]

    def of(self, scope: Scope) -> str:
        """The client's address: the nearest in the chain of proxies that is no proxy of ours.

        Every proxy adds the address of its own client to the right of `X-Forwarded-For`; what stands to the left of an
        address that is not trusted is whatever that client wanted to say.
        """
        client = scope.get("client")
        address = client[0] if client else UNKNOWN
        if not self._trusted or not self._trusts(address):
            return str(address)
        hops = [
            hop.strip()
            for name, value in scope["headers"] if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]  # fmt: skip
        for hop in reversed(hops):
            found = _without_port(hop)
            if _parse(found) is None:
                break
            address = found
            if not self._trusts(address):
                break
        return str(address)

    def _trusts(self, address: str) -> bool:
        found = _parse(address)
        return found is not None and any(found in network for network in self._trusted)


def counted_as(address: str) -> str:
    """What failed logins from an address are counted for: itself, or its network when it is of IPv6."""
    found = _parse(address)
    if not isinstance(found, ipaddress.IPv6Address):
        return UNKNOWN if found is None else str(found)
    return str(ipaddress.IPv6Network((found, IPV6_PREFIX), strict=False))


class Blocked:
    """The addresses that are blocked, as this process knows them."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._last = 0.0

    def __bool__(self) -> bool:
        return time.monotonic() < self._last

    def __contains__(self, counted: str) -> bool:
        until = self._until.get(counted)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._until[counted]
        return False

    def add(self, counted: str, ms: int) -> None:
        """Blocks an address for so long; forgets those whose time is over when there are very many."""
        now = time.monotonic()
        if len(self._until) >= MOST_BLOCKED:
            self._until = {known: until for known, until in self._until.items() if until > now}
        if len(self._until) < MOST_BLOCKED:
            self._until[counted] = now + ms / 1000
            self._last = max(self._last, self._until[counted])


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise StartupError(
            f"trusted_proxies (RUNLANE_TRUSTED_PROXIES): {entry!r} is neither an address nor a network"
        ) from None


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
