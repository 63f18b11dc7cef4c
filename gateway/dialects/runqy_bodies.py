"""What the requests that add Runqy's tasks say, as they were sent."""

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from ..errors import BadRequest
from ..http import Body
from .runpod import parse_object

LONGEST_DELAY_SECONDS = 365 * 86_400
LONGEST_UNIQUE = 256

_MEANT = {
    "timeout": "must be a whole number of seconds",
    "delay": f"must be 0 to {LONGEST_DELAY_SECONDS} seconds",
    "run_at": "must be a time as RFC 3339 has it, with its zone, or in seconds since 1970",
    "unique": f"must be a key of 1 to {LONGEST_UNIQUE} characters, or true",
}

Decoded = TypeVar("Decoded")


class Item(msgspec.Struct):
    """A task to be. `data`: JSON; `timeout` in s, 0 or less for none. Ours: `delay` (s) or `run_at`, before which it
    does not begin, and `unique` (a key, or true for its queue and payload), which no two tasks have that have not
    ended."""

    data: msgspec.Raw = msgspec.Raw()
    timeout: int | None = None
    delay: Annotated[float, Meta(ge=0, le=LONGEST_DELAY_SECONDS)] | None = None
    run_at: Annotated[datetime, Meta(tz=True)] | float | None = None
    unique: Annotated[str, Meta(min_length=1, max_length=LONGEST_UNIQUE)] | bool | None = None

    @property
    def delay_ms(self) -> int:
        """How long it has to wait, in ms.

        Raises:
            BadRequest: two times are given, or one that is too far away.
        """
        if self.run_at is None:
            return round((self.delay or 0) * 1000)
        if self.delay is not None:
            raise BadRequest("a task has a delay or run_at, not both")
        at = self.run_at.timestamp() if isinstance(self.run_at, datetime) else self.run_at
        seconds = at - time.time()
        if seconds > LONGEST_DELAY_SECONDS:
            raise BadRequest(f"invalid run_at field: it is more than {LONGEST_DELAY_SECONDS} seconds away")
        return round(max(0, seconds) * 1000)


_decode_item = msgspec.json.Decoder(Item).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_timeout = msgspec.json.Decoder(int | None).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_jobs = msgspec.json.Decoder(list[msgspec.Raw] | None).decode


class Request:
    """The body of a request that adds tasks to one queue.

    Raises:
        BadRequest: it is no JSON object, or names no queue.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._fields = parse_object(body)
        self.queue = self._decode("queue", _decode_text, "must be a string") or ""
        if not self.queue:
            raise BadRequest("queue is required")

    def task(self) -> Item:
        """The one task of the request.

        Raises:
            BadRequest: a field of a wrong type or out of its range.
        """
        return parse_item(self._body)

    def tasks(self) -> tuple[int, list[msgspec.Raw]]:
        """The timeout in s of those that have none of their own, and the tasks, to be read by `parse_item`.

        Raises:
            BadRequest: a field of a wrong type, or there are no tasks.
        """
        jobs = self._decode("jobs", _decode_jobs, "must be an array")
        if jobs is None:
            raise BadRequest("jobs is required")
        if not jobs:
            raise BadRequest("jobs array cannot be empty")
        return self._decode("timeout", _decode_timeout, _MEANT["timeout"]) or 0, jobs

    def _decode(self, name: str, decode: Callable[[msgspec.Raw], Decoded], meant: str) -> Decoded | None:
        if name not in self._fields:
            return None
        try:
            return decode(self._fields[name])
        except msgspec.ValidationError:
            raise BadRequest(f"invalid {name} field: {meant}") from None


def parse_item(body: Body | msgspec.Raw) -> Item:
    """One task. Without `data`, its payload is all that it says but for `queue` and `timeout`, as Runqy has it: then
    `delay`, `run_at` and `unique` are part of the payload, whose names they might be.

    Raises:
        BadRequest: it is no object, or has a field of a wrong type or out of its range.
    """
    fault = ""
    try:
        item = _decode_item(body)
    except msgspec.ValidationError as error:
        fault = str(error)
    else:
        if item.data:
            return item
    try:
        fields = _decode_fields(body)
    except msgspec.ValidationError:
        raise BadRequest("a job must be a JSON object") from None
    if "data" in fields:
        raise BadRequest(_said_of(fault))
    timeout = fields.pop("timeout", None)
    fields.pop("queue", None)
    try:
        seconds = _decode_timeout(timeout) if timeout is not None else None
    except msgspec.ValidationError:
        raise BadRequest(f"invalid timeout field: {_MEANT['timeout']}") from None
    return Item(msgspec.Raw(msgspec.json.encode(fields)), seconds)


def _said_of(fault: str) -> str:
    found = re.search(r"\$\.(\w+)", fault)
    name = found.group(1) if found else ""
    return f"invalid {name} field: {_MEANT[name]}" if name in _MEANT else fault
