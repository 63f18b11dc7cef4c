"""Bare connections to a gateway, and what comes back on them."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import NamedTuple

from .clients import API_KEY
from .processes import Gateway

HEAD = f"Host: x\r\nAuthorization: Bearer {API_KEY}\r\n"


class Response(NamedTuple):
    """`names`: of all its headers, in lower case, as often as they came."""

    status: int
    headers: dict[str, str]
    body: bytes
    names: list[str]

    @property
    def error(self) -> str:
        """What its body says, which must be of the project's shape."""
        assert self.headers["content-type"] == "application/json"
        found = json.loads(self.body)
        assert list(found) == ["error"]
        return str(found["error"])


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        yield connection


def message(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request of these headers alone."""
    return "".join(f"{text}\r\n" for text in (line, *headers, "")).encode("latin-1") + body


def asked(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request that is in order, with a key."""
    return message(f"{method} {path} HTTP/1.1", *HEAD.splitlines(), *headers, body=body)


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side has closed."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def responses(data: bytes) -> list[Response]:
    """The responses in these bytes; their bodies have lengths, or go on to the end."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (text.partition(":") for text in lines)]
        headers = dict(pairs)
        size = int(headers.get("content-length", len(data)))
        assert len(data) >= size, "the body is not complete"
        found.append(Response(int(line.split()[1]), headers, data[:size], [name for name, _ in pairs]))
        data = data[size:]
    return found


def answer_on(connection: socket.socket) -> Response:
    """The next response; its body has a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _some(connection)
    (response,) = responses(head + b"\r\n\r\n" + body)
    return response


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    assert received, "closed before the answer was complete"
    return received
