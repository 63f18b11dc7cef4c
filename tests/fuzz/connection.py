"""A client that sends any bytes, and reads whole answers."""

import asyncio
from typing import NamedTuple

import httptools


class Response(NamedTuple):
    """An answer, with the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    keeps: bool


class Silence(Exception):  # noqa: N818
    """There was no answer in time. `begun`: there was some of it."""

    def __init__(self, begun: bool) -> None:
        super().__init__("no answer in time")
        self.begun = begun


class _Reading:
    """Of httptools: what comes of one answer."""

    def __init__(self, is_head: bool) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.begun = self.complete = False
        self._is_head = is_head

    def on_status(self, _: bytes) -> None:
        self.begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.complete = self.complete or self._is_head  # the length is what a GET would have got

    def on_body(self, body: bytes) -> None:
        if not self.complete:  # else it is of another answer
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


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
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        reading = _Reading(is_head)
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(request)
                if ends:
                    self._writer.write_eof()
                status = await self._read(reading)
        except TimeoutError:
            await self.close()
            raise Silence(reading.begun) from None
        except OSError:
            status = None
        keeps = status is not None and not (ends or is_head) and reading.headers.get("connection") != "close"
        if not keeps:
            await self.close()
        return None if status is None else Response(status, reading.headers, reading.body, keeps)

    async def close(self) -> None:
        """Closes it, if it is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass

    async def _read(self, reading: _Reading) -> int | None:
        assert self._reader is not None
        parser = httptools.HttpResponseParser(reading)
        while not reading.complete:
            data = await self._reader.read(2**18)
            if not data:
                return parser.get_status_code() if reading.begun and "content-length" not in reading.headers else None
            parser.feed_data(data)
            if reading.begun and parser.get_status_code() == 100:
                reading.complete, parser = False, httptools.HttpResponseParser(reading)
        return int(parser.get_status_code())
