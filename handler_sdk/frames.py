"""What the two processes of a worker say to each other over their socket.

A frame is the length of its payload (4 bytes), its kind (1 byte), and the payload.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict
from enum import IntEnum

from .links import Attempt, Registered
from .outcomes import Limits

READ_AT_ONCE = 65536
"""Bytes. The C library maps memory anew for each buffer that is twice as large."""

_HEADER = struct.Struct("!IB")


class Kind(IntEnum):
    # to the handler's process
    REGISTERED = 1  # the worker's newest registration
    STOP = 2  # an attempt
    DRAIN = 3  # take no more; DRAINED is the answer
    EXIT = 4
    # to the worker
    READY = 16
    BROKEN = 17  # text: why the file could not be loaded
    CONCURRENCY = 18  # decimal: jobs at once
    REGISTER = 19  # the process is not served: REGISTERED is the answer, when the worker is
    BEGUN = 20  # an attempt
    ENDED = 21  # an attempt, and how: all that is to be known of it is in the store
    STALE = 22  # an attempt: the store says that it counts no more
    UNSTOPPABLE = 23  # an attempt; answer to STOP: nothing in the process can stop it
    REFRESH = 24  # the handler wants a fresh process: this one drains
    DRAINED = 25  # nothing is left to do
    LOST = 26  # an attempt, and why it must be given up


Frame = tuple[Kind, bytes]


def encode_frame(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload), kind) + payload


class FrameBuffer:
    """Cuts the bytes of a stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Adds data and gives the frames that are complete with it. Take them all before the next call."""
        self._data += data
        at = 0
        while len(self._data) - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._data, at)
            end = at + _HEADER.size + length
            if len(self._data) < end:
                break
            yield Kind(kind), bytes(self._data[at + _HEADER.size : end])
            at = end
        del self._data[:at]


def encode_attempt(attempt: Attempt, text: str = "") -> bytes:
    """`text` says more of it."""
    return f"{attempt.job} {attempt.number} {text}".encode()


def decode_attempt(payload: bytes) -> tuple[Attempt, str]:
    job, number, text = payload.decode().split(" ", 2)
    return Attempt(job, int(number)), text


def encode_registered(registered: Registered) -> bytes:
    return json.dumps(asdict(registered)).encode()


def decode_registered(payload: bytes) -> Registered:
    fields = json.loads(payload)
    return Registered(**{**fields, "limits": Limits(**fields["limits"])})
