"""What the worker and the process that runs the handler say to each other over their socket.

A frame is the length of its payload (4 bytes), its kind (1 byte), the number that the worker gave the job, or another
number where the kind says so (8 bytes), and the payload.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

READ_AT_ONCE = 65536
"""Bytes. The C library maps memory anew for each buffer that is twice as large."""

_HEADER = struct.Struct("!IBQ")


class Kind(IntEnum):
    # to the handler's process
    SETTINGS = 1  # JSON: output_limit, chunk_limit, worker
    RUN = 2  # the job as JSON: id, attempt, input, request
    STOP = 3
    CREDIT = 4  # decimal: bytes of chunks that have been delivered
    EXIT = 5
    # to the worker
    READY = 16
    BROKEN = 17  # text: why the file could not be loaded
    CHUNK = 18
    PROGRESS = 19
    DONE = 20  # an outcome, as `outcomes` writes it
    CONCURRENCY = 21  # the number is that of jobs at once
    UNSTOPPABLE = 22  # answer to STOP: nothing in the process can stop this job


Frame = tuple[Kind, int, bytes]


def encode_frame(kind: Kind, number: int = 0, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload), kind, number) + payload


class FrameBuffer:
    """Cuts the bytes of a stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Adds data and gives the frames that are complete with it. Take them all before the next call."""
        self._data += data
        at = 0
        while len(self._data) - at >= _HEADER.size:
            length, kind, number = _HEADER.unpack_from(self._data, at)
            end = at + _HEADER.size + length
            if len(self._data) < end:
                break
            yield Kind(kind), number, bytes(self._data[at + _HEADER.size : end])
            at = end
        del self._data[:at]
