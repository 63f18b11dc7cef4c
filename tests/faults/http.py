"""A small HTTP client. It costs a fraction of what a whole one does, so that thousands of requests load the system and
not the test; and it tells apart what a client sees when a server goes away."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SECONDS = 30.0
LONGEST_LINE = 32 * 1024 * 1024


class NotConnectedError(ConnectionError):
    """The server took no connection, so it has not seen the request."""


class CutOffError(ConnectionError):
    """The connection ended before the answer had come."""


class Answer(NamedTuple):
    """An answer; `headers` by their names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """A client of one server. Connections are kept for later requests when `keep_alive`."""

    def __init__(self, url: str, headers: Mapping[str, str], keep_alive: bool = True) -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname, parts.port)
        common = {"Host": parts.netloc, **headers} | ({} if keep_alive else {"Connection": "close"})
        self._head = "".join(f"{name}: {value}\r\n" for name, value in common.items())
        self._keep_alive = keep_alive
        self._idle: list[_Connection] = []

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer; `body` is sent as JSON unless it is None.

        Raises:
            NotConnectedError: see there.
            CutOffError: see there.
        """
        connection = await self._connect()
        try:
            async with asyncio.timeout(SECONDS):
                connection.send(self._request(method, path, body, headers))
                status, found = await connection.read_head()
                answer = Answer(status, found, await connection.read_body(found))
        except (OSError, asyncio.IncompleteReadError) as error:
            connection.close()
            raise CutOffError(f"cut off: {error!r}") from None
        except BaseException:
            connection.close()
            raise
        if self._keep_alive and found.get("connection") != "close":
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    @asynccontextmanager
    async def lines(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[int, AsyncIterator[str]]]:
        """The status of an answer that comes piece by piece, and its lines; they may end as in `request`."""
        connection = await self._connect()
        try:
            connection.send(self._request("GET", path, None, headers))
            async with asyncio.timeout(SECONDS):
                status, found = await connection.read_head()
            yield status, connection.read_lines(found)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise CutOffError(f"cut off: {error!r}") from None
        finally:
            connection.close()

    def _request(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None) -> bytes:
        own = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{own}Content-Length: {len(content)}\r\n\r\n"
        return head.encode() + content

    async def _connect(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.stands:
                return connection
            connection.close()
        try:
            return _Connection(*await asyncio.open_connection(*self._place, limit=LONGEST_LINE))
        except OSError as error:
            raise NotConnectedError(f"no connection: {error!r}") from None


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def stands(self) -> bool:
        """Whether nothing says that the other side has closed it."""
        return not self._reader.at_eof() and self._reader.exception() is None

    def close(self) -> None:
        with suppress(OSError, RuntimeError):
            self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def read_body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return b"".join([part async for part in self._parts()])

    async def read_lines(self, headers: Mapping[str, str]) -> AsyncIterator[str]:
        if "content-length" in headers:
            for line in (await self.read_body(headers)).splitlines():
                yield line.decode()
            return
        rest = b""
        async for part in self._parts():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r").decode()

    async def _parts(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
