"""The chunks of a job as the text that its client reads: a whole answer, or an event stream as it comes."""

import json
import time

import msgspec
from starlette.types import Scope

from ..engine.engine import Job, State
from ..engine.following import Arrived
from ..errors import DeadlineExceeded
from ..event_stream import BrokenOff, on_one_line
from ..http import Reply, error_of
from .openai_errors import DO_NOT_RETRY, JobError, body_of, error_in, error_of_job
from .openai_exchange import Exchange

DONE = b"data: [DONE]"
COMMENT = b": keep-alive\n\n"

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


async def read_answer(exchange: Exchange, most: int) -> Reply:
    """Waits for the whole answer, of `most` bytes at most.

    Raises:
        Error: the job ended in an error, or there is no answer in time.
    """
    chunks: list[bytes] = []
    size = 0
    while not isinstance(found := await exchange.next(exchange.deadline - time.monotonic()), Job):
        if found is None or time.monotonic() > exchange.deadline:
            raise DeadlineExceeded("the job did not end in time")
        if found.restarted is not None:
            chunks, size = [], 0
        chunks += found.chunks
        size += sum(map(len, found.chunks))
        if size > most:
            raise JobError(f"the worker's answer is over the limit of {most} bytes", headers=DO_NOT_RETRY)
        if found.missing:
            raise JobError("a part of the answer is no longer kept, since it was not read in time")
    if found.state is not State.COMPLETED:
        raise error_of_job(found)
    return _reply_of(chunks or ([] if found.output is None else [found.output]))


def _reply_of(parts: list[bytes]) -> Reply:
    """One JSON value, or strings that are its text."""
    if len(parts) == 1 and (error := error_in(parts[0])):
        raise error
    texts = [text_of(part) for part in parts]
    if len(parts) == 1 and texts[0] is None:
        return Reply(parts[0])
    if not parts or None in texts:
        message = "the worker gave no single answer, which a request that does not stream needs"
        raise JobError(message, headers=DO_NOT_RETRY)
    body = b"".join(text for text in texts if text is not None)
    try:
        _check_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reply(body, content_type=b"text/plain; charset=utf-8")
    return Reply(body)


def text_of(value: bytes) -> bytes | None:
    """The text of a JSON string; None for another JSON value. Half a surrogate pair, which UTF-8 lacks, becomes '?'.

    Raises:
        JobError: it is not JSON.
    """
    if not value.startswith(b'"'):
        return None
    try:
        text: str = json.loads(value)
    except ValueError:
        raise JobError("the worker sent a chunk that is not JSON") from None
    return text.encode(errors="replace")


class Relay:
    """The text of one event stream."""

    def __init__(self, exchange: Exchange, keep_alive_seconds: float) -> None:
        self._exchange = exchange
        self._keep_alive_seconds = keep_alive_seconds
        self._ended = False
        self._begun = False
        self._has_objects = False
        self._tail = b""

    async def next(self) -> bytes | None:
        """The text that came next, a comment after a silence, or None at the end.

        Raises:
            Error: the job ended in an error, there was no text in time, or the rest cannot be had.
        """
        while not self._ended:
            found = await self._exchange.next(self._patience())
            if found is None:
                if not self._begun and time.monotonic() >= self._exchange.deadline:
                    raise DeadlineExceeded("the stream did not begin in time")
                if self._is_between_events:
                    return COMMENT
            elif text := self._closing(found) if isinstance(found, Job) else self._text_of(found):
                self._begun = True
                self._tail = (self._tail + text)[-len(DONE) - 4 :]
                if self._is_done and not self._ended:
                    self._ended = self._exchange.is_complete = True  # clients hang up here
                return text
        return None

    def fail(self, body: bytes) -> bytes | None:
        """Ends the stream with an error, and returns its event; None within another event, which would take it in."""
        self._ended = True
        return b"data: %b\n\n" % body if self._is_between_events else None

    @property
    def _is_between_events(self) -> bool:
        return not self._begun or self._tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))

    @property
    def _is_done(self) -> bool:
        return self._is_between_events and self._tail.rstrip(b"\r\n").endswith(DONE)

    def _patience(self) -> float:
        if self._begun:
            return self._keep_alive_seconds
        return min(self._keep_alive_seconds, self._exchange.deadline - time.monotonic())

    def _text_of(self, arrived: Arrived) -> bytes:
        if self._begun and arrived.restarted is not None:
            raise JobError("the worker was lost; another one has begun anew, but a part of its answer was sent already")
        if arrived.missing:
            raise JobError("a part of the answer is no longer kept, since it was not read in time")
        if not self._begun and arrived.chunks and (error := error_in(arrived.chunks[0])):
            raise error
        return b"".join(map(self._event_of, arrived.chunks))

    def _closing(self, job: Job) -> bytes:
        self._ended = True
        if job.state is not State.COMPLETED:
            raise error_of_job(job)
        text = b""
        if not self._begun and job.output is not None:
            if error := error_in(job.output):
                raise error
            text = self._event_of(job.output)
        is_complete = (self._begun or text) and not self._has_objects
        return text if is_complete else text + DONE + b"\n\n"

    def _event_of(self, value: bytes) -> bytes:
        text = text_of(value)
        if text is None:
            self._has_objects = True
            return b"data: %b\n\n" % on_one_line(value)
        return text


class Events:
    """What a relay gives, and at its end what went wrong, as the source of an event stream."""

    def __init__(self, relay: Relay, scope: Scope) -> None:
        self._relay = relay
        self._scope = scope

    async def next(self) -> bytes | None:
        """See `Source`."""
        try:
            return await self._relay.next()
        except Exception as exception:
            event = self._relay.fail(body_of(error_of(exception, self._scope)))
            if event is None:
                raise BrokenOff from None
            return event
