"""Answers that their clients do not read: without an end, a client could have a server keep whatever it asks for."""

from typing import Protocol

LEAST_READ = 65_536
"""Bytes; so many have to go in the time that there is."""


class Reader(Protocol):
    """A connection whose client has something to read."""

    def acknowledged(self) -> int | None:
        """How many bytes its client has taken so far; None when nobody knows."""

    def abort(self) -> None:
        """Cuts the connection off, with what was not read."""


class Unread:
    """The connections of a server that hold what their clients have not read."""

    def __init__(self) -> None:
        self._found: dict[Reader, tuple[int | None, float]] = {}

    def add(self, reader: Reader, now: float) -> None:
        """There is more than the network takes. `now`: the loop's time."""
        if reader not in self._found:
            self._found[reader] = reader.acknowledged(), now

    def discard(self, reader: Reader) -> None:
        """There is not, or not any more."""
        self._found.pop(reader, None)

    def end_stalled(self, now: float, seconds: float) -> None:
        """Cuts off those that have read too little for so long; to be called every now and then."""
        for reader, (before, since) in list(self._found.items()):
            read = reader.acknowledged()
            if read is None or before is None or read - before >= LEAST_READ:
                self._found[reader] = read, now
            elif now - since > seconds:
                del self._found[reader]
                reader.abort()
