"""A client that sends any bytes, and reads whole answers."""

import asyncio
import contextlib
from typing import NamedTuple

import httptools


class Response(NamedTuple):
    """An answer, with the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Silence(Exception):
    """There was no answer in time. `begun`: there was some of it."""

    def __init__(self, begun: bool) -> None:
        super().__init__("no answer in time")
        self.begun = begun


class NotHttp(Exception):
    """What came is no answer."""


class _Reading:
    """Of httptools: what comes of one answer. Whatever is behind it is another's."""

    def __init__(self, is_head: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.begun = self.complete = False
        self._is_head = is_head
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Takes what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise NotHttp(f"{error} in {data[:500]!r}") from None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.begun = True
        if not self.complete:
            self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self._parser.get_status_code()
            self.complete = self._is_head and self.status >= 200  # the length is what a GET would have got

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = self.complete or self.status >= 200


class Connection:
    """A connection to the gateway, made anew when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, request: bytes, is_head: bool, seconds: float, ends: bool) -> Response | None:
        """Sends a request and reads its answer; None when the gateway closed without one.

        Args:
            request: the bytes.
            is_head: the answer has no body, whatever it says.
            seconds: how long to wait for the whole answer.
            ends: nothing more will be sent, so that the gateway need not wait for the rest of what is none.

        Raises:
            Silence: there was no whole answer in time. The connection is closed then.
            NotHttp: what came is none.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        reading = _Reading(is_head)
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(request)
                if ends:
                    self._writer.write_eof()
                await self._read(reading)
        except TimeoutError:
            await self.close()
            raise Silence(reading.begun) from None
        except OSError:
            pass  # it was cut off
        if ends or is_head or not reading.complete or reading.headers.get("connection") == "close":
            await self.close()
        return Response(reading.status, reading.headers, reading.body) if reading.complete else None

    async def close(self) -> None:
        """Closes it, if it is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reading: _Reading) -> None:
        assert self._reader is not None
        while not reading.complete:
            data = await self._reader.read(2**18)
            if not data:
                break
            reading.feed(data)
