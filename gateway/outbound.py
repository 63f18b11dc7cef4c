"""Requests to addresses that a tenant chose: one client, which goes nowhere that its guard does not let it.

httpcore speaks HTTP, over connections that are made here: a name is looked up once, each of its addresses is checked,
and the connection goes to a checked address, not to a name. Addresses that may not be reached are left out, and the
request is refused when no other is left: what is never connected to does no harm, and networks that make up an IPv6
address for each IPv4 one (DNS64) give such a second address to every name. A connection serves later requests to its
origin that come within a second: servers usually wait longer before they close one, so that requests seldom meet that.

No proxy of the environment is used, no redirect followed, nothing decoded, and of an answer only its status is kept.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from ipaddress import ip_address
from itertools import zip_longest
from typing import Any

import httpcore

from .addresses import Address, Guard, Target
from .errors import BadRequest
from .lookups import Lookups

logger = logging.getLogger(__name__)
logging.getLogger("httpcore").setLevel(logging.INFO)  # below that, it logs what the other side sent

ATTEMPTS = 4  # addresses of one name that are tried
PIECE = 65536
ANSWER_LIMIT = 65536
ANSWER_PIECE = 8192  # parsing it takes some 10 ms at the worst, when all of it is tiny 1xx answers
REST_SECONDS = 1.0
IDLE_SECONDS = 1.0
IDLE_CONNECTIONS = 32  # to one origin; httpcore counts the busy ones too, and keeps none while there are more
IDLE_ORIGINS = 100  # to more than these at a time, connections are not kept

TEXTS = {
    "refused": "the address may not be reached from here",
    "unresolved": "the host name has no address",
    "unreachable": "no connection could be made",
    "tls": "no TLS connection could be made, or the certificate is not good for the host",
    "timeout": "there was no answer in time",
    "protocol": "the connection broke off, or what came was no HTTP answer",
}


class Failed(Exception):
    """There was no answer. Its text may be shown to the tenant.

    Args:
        kind: why, one of the keys of `TEXTS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(TEXTS[kind])
        self.kind = kind


class Outbound:
    """The client.

    Args:
        allow: what may be reached besides public addresses, as in the setting `outbound_allow`.

    Raises:
        StartupError: an entry that is not a network, an address or a host name.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._guard = Guard(allow)
        self._lookups = Lookups()
        self._tls = ssl.create_default_context()  # the system's authorities, or those of SSL_CERT_FILE
        # One for each origin: what a pool does for a request grows with the square of its idle connections.
        self._pools: dict[tuple[str, str, str, int], httpcore.AsyncConnectionPool] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def check_url(self, url: str) -> str:
        """The URL as it will be used: host in ASCII, no fragment, everything encoded.

        Raises:
            BadRequest: it is not one of http or https, has no host or user information, is too long, or names an
                address that may not be reached. What its name stands for is found out by `post` only.
        """
        return self._guard.target(url).url

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, seconds: float, of: str = "") -> int:
        """Sends one POST request and returns the status of its answer, whatever that is.

        Once the status is there, what follows has no part in it: it is read, to use the connection again, up to 64 KB
        and for a second.

        Args:
            url: as `check_url` takes it.
            headers: all but `Host` and `Content-Length`, which are made here.
            body: sent as it is.
            seconds: for everything, from looking the name up.
            of: whose request it is. Connections and slow name servers are not shared with others.

        Raises:
            Failed: no status came in that time.
        """
        try:
            target = self._guard.target(url)
        except BadRequest:
            raise Failed("refused") from None
        status = 0
        try:
            async with asyncio.timeout(seconds), self._request(target, headers, body, seconds, of) as answer:
                status = answer.status
                async with asyncio.timeout(REST_SECONDS):
                    async for _ in answer.aiter_stream():
                        pass
        except FAILURES as error:
            if not status:
                kind = _kind(error)
                logger.debug("POST to %s: %s (%s)", target.host, kind, type(error).__name__)
                raise Failed(kind) from None
        finally:
            self._sweep_later()
        return status

    async def close(self) -> None:
        """Closes the connections that are kept, once no request is on its way any more."""
        if self._sweeper:
            self._sweeper.cancel()
            self._sweeper = None
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, target: Target, of: str) -> httpcore.AsyncConnectionPool:
        origin = (of, target.scheme, target.host, target.port)
        if origin not in self._pools:
            self._pools[origin] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=None,
                max_keepalive_connections=IDLE_CONNECTIONS if len(self._pools) < IDLE_ORIGINS else 0,
                keepalive_expiry=IDLE_SECONDS,
                network_backend=_Network(self._guard, self._lookups, of),
            )
        return self._pools[origin]

    def _request(self, target: Target, headers: Mapping[str, str], body: bytes, seconds: float, of: str) -> Any:
        return self._pool(target, of).stream(
            "POST",
            httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
            headers=[*headers.items(), ("Host", target.authority), ("Content-Length", str(len(body)))],
            content=_pieces(body),
            extensions={"timeout": {"connect": seconds}},
        )

    def _sweep_later(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Closes what has been idle; a pool itself looks for that only when its next request comes."""
        while self._pools:
            await asyncio.sleep(IDLE_SECONDS)
            for origin, pool in list(self._pools.items()):
                for connection in pool.connections:
                    if connection.is_idle() and connection.has_expired():
                        await connection.aclose()
                if all(connection.is_closed() for connection in pool.connections):
                    del self._pools[origin]


FAILURES = (Failed, OSError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def _kind(error: Exception) -> str:
    if isinstance(error, Failed):
        return error.kind
    if isinstance(error, (TimeoutError, httpcore.TimeoutException)):
        return "timeout"
    if isinstance(error, ssl.SSLError):
        return "tls"
    return "unreachable" if isinstance(error, httpcore.ConnectError) else "protocol"


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """The body in pieces: as one, 20 MB would be encrypted in one go, and other requests wait."""
    view = memoryview(body)
    for start in range(0, len(body), PIECE):
        yield bytes(view[start : start + PIECE])


class _Network(httpcore.AsyncNetworkBackend):
    """Makes connections to addresses that the guard has passed, on behalf of `of`."""

    def __init__(self, guard: Guard, lookups: Lookups, of: str) -> None:
        self._guard = guard
        self._lookups = lookups
        self._of = of
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore calls it. Each address has an equal share of the time that is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout or 0)
        found = await self._addresses(host)
        if not found:
            raise Failed("unresolved")
        passed = _alternating([address for address in found if self._guard.may_reach(host, port, address)])[:ATTEMPTS]
        failure: Exception = Failed("refused")
        for number, address in enumerate(passed):
            share = (deadline - loop.time()) / (len(passed) - number)
            try:
                return _Stream(await self._sockets.connect_tcp(str(address), port, timeout=share))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> list[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            return await self._lookups.addresses_of(host, self._of)


def _alternating(addresses: list[Address]) -> list[Address]:
    """The same addresses, each once, one of each family in turn (RFC 8305, 4): one of them may not work at all here."""
    unique = list(dict.fromkeys(addresses))
    first = [address for address in unique if address.version == unique[0].version]
    others = [address for address in unique if address.version != unique[0].version]
    return [address for pair in zip_longest(first, others) for address in pair if address]


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that gives up when an answer becomes too long, head and body and all 1xx before it."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._received = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        part = await self._stream.read(min(max_bytes, ANSWER_PIECE), timeout)
        self._received += len(part)
        if self._received > ANSWER_LIMIT:
            raise Failed("protocol")
        return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._received = 0  # what comes from now on answers this
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except httpcore.ConnectError:
            raise Failed("tls") from None
        except asyncio.CancelledError:  # httpcore closes it after errors, and leaves it open after this
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
