"""Event streams of a source that gives what the tests want."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from gateway import event_stream
from gateway.event_stream import BrokenOff, EventStream, event, on_one_line
from gateway.http import CONNECTION


class Given:
    """A source of these texts, at whose end it breaks off if it is to."""

    def __init__(self, *texts: bytes, breaks_off: bool = False) -> None:
        self._texts = list(texts)
        self._breaks_off = breaks_off

    async def next(self) -> bytes | None:
        if self._texts:
            return self._texts.pop(0)
        if self._breaks_off:
            raise BrokenOff
        return None


class Client:
    """The other end: what it was sent, and what was done to its connection. It takes `most` messages and then none."""

    def __init__(self, most: int = 100) -> None:
        self.sent: list[Any] = []
        self.aborted = False
        self.ended: list[str] = []
        self._most = most

    def abort(self) -> None:
        self.aborted = True

    async def read(self, source: Given, **options: Any) -> None:
        async def send(message: Any) -> None:
            self.sent.append(message)
            if len(self.sent) > self._most:  # as our server does when the connection is full
                await asyncio.Event().wait()

        ending = AsyncExitStack()
        ending.callback(self.ended.append, "ended")
        scope = {"type": "http", "method": "GET", "raw_path": b"/", CONNECTION: self}
        await EventStream(source, ending, **options)(scope, cast(Any, None), send)

    @property
    def bodies(self) -> list[tuple[bytes, bool]]:
        return [(message["body"], message["more_body"]) for message in self.sent[1:]]


async def test_what_comes_is_sent_at_once_and_then_the_end() -> None:
    client = Client()
    await client.read(Given(b"data: 1\n\n", b"data: 2\n\n"))
    assert client.bodies == [(b"", True), (b"data: 1\n\n", True), (b"data: 2\n\n", True), (b"", False)]
    assert client.ended == ["ended"]
    assert not client.aborted


async def test_the_first_text_can_be_known_before_the_stream_begins() -> None:
    client = Client()
    await client.read(Given(b"b"), first=b"a", headers=[(b"x-request-id", b"job")])
    assert [body for body, _ in client.bodies] == [b"a", b"b", b""]
    assert dict(client.sent[0]["headers"])[b"x-request-id"] == b"job"
    assert dict(client.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"


async def test_a_stream_that_has_ended_before_it_began_is_empty() -> None:
    client = Client()
    await client.read(Given(b"never"), first=None)
    assert client.bodies == [(b"", False)]


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SECONDS_TO_WRITE", 0.05)
    client = Client(most=3)
    await client.read(Given(*[b"data: x\n\n"] * 10))
    assert len(client.sent) == 4
    assert all(more for _, more in client.bodies)  # no end: the connection is cut instead
    assert client.aborted
    assert client.ended == ["ended"]


async def test_a_stream_that_cannot_go_on_is_cut_off() -> None:
    client = Client()
    await client.read(Given(b"data: x\n\n", breaks_off=True))
    assert all(more for _, more in client.bodies)
    assert client.aborted
    assert client.ended == ["ended"]


def test_an_event_has_one_line_of_data() -> None:
    assert event("done", on_one_line(b'{\r\n"a": 1}')) == b'event: done\r\ndata: {  "a": 1}\r\n\r\n'
