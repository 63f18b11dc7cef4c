"""Where a request begins and ends in what a client sends, and which requests are refused for how they are written.

Whoever reads a message otherwise than the proxy before it can be made to take a part of one request for another. So
what RFC 9112 leaves to good will is refused here. llhttp refuses most of it by itself: bare LF, folded lines, control
characters, a space before the colon, lengths that are no plain numbers or come twice or with chunks. It lets through,
and this module does not: other versions, targets that are not a path, more than one space in the request line, `Host`
missing or twice, transfer codings besides "chunked", and what may stand around chunks. It has no limits either.
"""

import re
from typing import NamedTuple

from .errors import BadRequest, Error, HeadersTooLarge, UrlTooLong

END_OF_HEAD = b"\r\n\r\n"
MOST_IN_URL = 16_384
MOST_HEADERS = 100

LONGEST_SIZE = 17
"""The bytes of the longest line with a chunk's size: 15 digits are less than 2^60."""

ONCE = {b"host", b"content-length", b"transfer-encoding", b"authorization", b"x-api-key", b"idempotency-key",
        b"expect", b"origin"}  # fmt: skip
"""Headers that may not come twice: another reader could take the other one."""

_REQUEST_LINE = re.compile(rb"([A-Z-]+) (/[!\"$->@-~]*)(?:\?([!\"$-~]*))? HTTP/1\.([01])\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r]*", re.IGNORECASE)
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}\r\n")


class Line(NamedTuple):
    """The first line of a request. `query`: None without a '?'; `minor`: of the version, 0 or 1."""

    method: bytes
    path: bytes
    query: bytes | None
    minor: bytes


def take_head(data: bytes, searched: int, limit: int) -> tuple[Line, bytes, bytes] | None:
    """The lines of the request that begins this data, and what follows them; None when they are not complete.

    Args:
        data: all that has come of the request.
        searched: how much of it is known to hold no end.
        limit: the most bytes that the lines may have.

    Returns:
        The first line, all lines as llhttp may have them, and the rest.

    Raises:
        BadRequest: it is no request.
        UrlTooLong, HeadersTooLarge: it is over a limit.
    """
    begin = data.find(END_OF_HEAD, searched - 3 if searched > 3 else 0)
    end = begin + 4 if begin >= 0 else len(data)
    if not b"A" <= data[:1] <= b"Z":
        raise BadRequest("this is not an HTTP/1.1 request")
    if end > limit:
        raise _too_large(data, limit)
    if begin < 0:
        return None
    head = data[:end]
    line = _REQUEST_LINE.match(head)
    if line is None or line.end() > MOST_IN_URL:
        _check_line(line, head)
    if b"pgrade" in head:  # a client that offers another protocol does without; one that insists is refused later
        head = _UPGRADE.sub(b"", head)
    return Line._make(line.groups()), head, data[end:]  # type: ignore[union-attr]


def fault_in(headers: list[tuple[bytes, bytes]], found: dict[bytes, bytes], minor: bytes) -> Error | None:
    """What is wrong with the headers of a request that llhttp takes.

    Args:
        headers: their names in lower case, and their values.
        found: the same, each name once.
        minor: of the version.
    """
    if len(found) != len(headers):
        names = [name for name, _ in headers]
        for name in ONCE & found.keys():
            if names.count(name) > 1:
                return BadRequest(f"the header {name.decode()} comes more than once")
    if b"host" not in found and minor == b"1":
        return BadRequest("the header host is missing")
    if b"transfer-encoding" in found and (found[b"transfer-encoding"].lower() != b"chunked" or minor == b"0"):
        return BadRequest("the only transfer coding is chunked, with HTTP/1.1")
    return None


def _too_large(data: bytes, limit: int) -> Error:
    if b"\r\n" not in data[: MOST_IN_URL + len("OPTIONS  HTTP/1.1\r\n")]:
        return UrlTooLong(f"the URL is over the limit of {MOST_IN_URL} bytes")
    return HeadersTooLarge(f"the headers are over the limit of {limit} bytes")


def _check_line(line: "re.Match[bytes] | None", head: bytes) -> None:
    """Raises what is wrong with a line that is none, or that is long."""
    parts = head.partition(b"\r\n")[0].split(b" ")
    if len(parts) > 1 and len(parts[1]) > MOST_IN_URL:
        raise UrlTooLong(f"the URL is over the limit of {MOST_IN_URL} bytes")
    if line is None:
        raise BadRequest("a request begins with METHOD /path HTTP/1.1")


class Chunks:
    """Where a body in chunks ends. Extensions and trailers are refused: nothing here uses them, and few others read
    them alike."""

    def __init__(self) -> None:
        self.is_complete = False
        self._left = 0
        self._line = b""
        self._is_last = False

    def take(self, data: bytes) -> int:
        """How many of these bytes, which come next, belong to the body.

        Raises:
            BadRequest: they cannot.
        """
        at = 0
        while at < len(data) and not self.is_complete:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                at = self._take_line(data, at)
        return at

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at, at + LONGEST_SIZE) + 1 or min(len(data), at + LONGEST_SIZE)
        self._line += data[at:end]
        if not self._line.endswith(b"\n"):
            if len(self._line) >= LONGEST_SIZE:
                raise self._fault
            return end
        line, self._line = self._line, b""
        if not (line == b"\r\n" if self._is_last else _SIZE.fullmatch(line)):
            raise self._fault
        if self._is_last:
            self.is_complete = True
        else:
            size = int(line, 16)
            self._is_last = size == 0
            self._left = size + len(b"\r\n") if size else 0
        return end

    @property
    def _fault(self) -> BadRequest:
        if self._is_last:
            return BadRequest("trailers are not taken")
        return BadRequest("a chunk's size is a plain hexadecimal number, without extensions")
