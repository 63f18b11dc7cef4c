"""The way of chunks, progress and outcomes, over a link that does as it is told."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from handler_sdk.delivery import BATCH_SECONDS, Delivery
from handler_sdk.links import PROMPT_BYTES, Attempt, LinkError, LostReplyError
from handler_sdk.outcomes import Outcome

OUTCOME = Outcome("COMPLETED", "output", b"1")


class ObedientLink:
    """Notes what is sent at the moment it is sent. Each reply is what was put in `replies`, or what comes there."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.replies: asyncio.Queue[bool | Exception] = asyncio.Queue()
        self.is_told = asyncio.Event()

    def emit(self, attempt: Attempt, first: int, chunks: list[bytes]) -> Coroutine[Any, Any, bool]:
        return self._send((first, *chunks))

    def progress(self, attempt: Attempt, value: bytes) -> Coroutine[Any, Any, bool]:
        return self._send(value)

    def finish(self, attempt: Attempt, state: str, field: str, value: bytes) -> Coroutine[Any, Any, bool]:
        return self._send(state)

    def _send(self, what: Any) -> Coroutine[Any, Any, bool]:
        self.sent.append(what)
        self.is_told.set()
        return self._reply()

    async def _reply(self) -> bool:
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply


def deliver(link: ObedientLink, over: list[str] | None = None) -> Delivery:
    on_over = (over if over is not None else []).append
    return Delivery(link, Attempt("job", 1), lambda _: None, on_over)  # type: ignore[arg-type]


async def turns() -> None:
    """Lets the loop do what it can do at once."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_chunk_is_sent_before_the_call_returns() -> None:
    link = ObedientLink()
    delivery = deliver(link)

    delivery.add_chunk(b"1")

    assert link.sent == [(1, b"1")]
    delivery.cancel()


async def test_chunks_that_come_while_one_is_under_way_go_together() -> None:
    link = ObedientLink()
    delivery = deliver(link)
    for chunk in (b"1", b"2", b"3"):
        delivery.add_chunk(chunk)
    for _ in range(3):
        link.replies.put_nowait(True)

    assert await delivery.finish(OUTCOME)

    assert link.sent == [(1, b"1"), (2, b"2", b"3"), "COMPLETED"]


async def test_a_chunk_waits_for_others_from_the_time_when_the_last_was_sent() -> None:
    """Not from the time of the reply, which is read late when the handler blocks the loop."""
    link = ObedientLink()
    delivery = deliver(link)
    delivery.add_chunk(b"1")
    await asyncio.sleep(BATCH_SECONDS)
    link.replies.put_nowait(True)
    await turns()

    delivery.add_chunk(b"2")

    assert link.sent == [(1, b"1"), (2, b"2")]
    delivery.cancel()


async def test_nothing_is_said_any_more_after_a_refusal() -> None:
    link, over = ObedientLink(), list[str]()
    delivery = deliver(link, over)
    delivery.add_chunk(b"1")
    link.replies.put_nowait(LinkError("GAP"))
    await turns()

    assert not await delivery.finish(OUTCOME)

    assert (link.sent, over) == ([(1, b"1")], ["GAP"])


async def test_progress_is_sent_while_other_progress_is_under_way() -> None:
    link = ObedientLink()
    delivery = deliver(link)
    for value in (b"1", b"2"):
        delivery.set_progress(value)
        await asyncio.sleep(BATCH_SECONDS)

    assert link.sent == [b"1", b"2"]
    delivery.cancel()


async def test_of_progress_that_was_lost_the_newest_is_sent_again() -> None:
    link = ObedientLink()
    delivery = deliver(link)
    for value in (b"1", b"2"):
        delivery.set_progress(value)
        await asyncio.sleep(BATCH_SECONDS)
    link.is_told.clear()
    for _ in range(2):
        link.replies.put_nowait(LostReplyError())
    async with asyncio.timeout(5):
        await link.is_told.wait()
    await turns()

    assert link.sent == [b"1", b"2", b"2"]
    delivery.cancel()


async def test_progress_is_held_back_while_the_store_is_away() -> None:
    """One call at a time, after pauses that grow, whatever the handler says meanwhile."""
    link = ObedientLink()
    delivery = deliver(link)
    delivery.set_progress(b"1")
    link.replies.put_nowait(LostReplyError())
    await turns()
    for number in range(2, 100):
        delivery.set_progress(b"%d" % number)
    assert link.sent == [b"1"]
    link.is_told.clear()

    async with asyncio.timeout(5):
        await link.is_told.wait()

    assert link.sent == [b"1", b"99"]
    delivery.cancel()


async def test_progress_waits_for_large_progress_before_it() -> None:
    """That has another connection, and could arrive later."""
    link = ObedientLink()
    delivery = deliver(link)
    large = b"x" * (PROMPT_BYTES + 1)
    delivery.set_progress(large)
    delivery.set_progress(b"2")
    await asyncio.sleep(2 * BATCH_SECONDS)
    assert link.sent == [large]
    link.replies.put_nowait(True)
    await turns()

    assert link.sent == [large, b"2"]
    delivery.cancel()


async def test_of_progress_that_comes_fast_the_last_is_sent() -> None:
    link = ObedientLink()
    delivery = deliver(link)
    for number in range(100):
        delivery.set_progress(b"%d" % number)
    await asyncio.sleep(10 * BATCH_SECONDS)

    assert link.sent[-1] == b"99"
    assert len(link.sent) < 100
    delivery.cancel()


async def test_it_can_be_cancelled_before_it_has_begun() -> None:
    """Warnings are errors here, such as that of a coroutine that nobody has awaited."""
    link = ObedientLink()
    delivery = deliver(link)
    delivery.add_chunk(b"1")
    delivery.cancel()
    await asyncio.sleep(0.01)

    assert link.sent == [(1, b"1")]
