"""A line to the store that a test can break: a TCP proxy on loopback, in threads of this process."""

import enum
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

BYTES_AT_ONCE = 65536
LONGEST_NAME = 64
LONGEST_BEGINNING = 1000


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_STORE = enum.auto()
    FROM_STORE = enum.auto()


BOTH = frozenset(Direction)


class LostReply:
    """An order to lose the reply to the next command whose bytes have `part` in them.

    The store gets and executes all that was sent before; then its client finds the line cut.
    """

    def __init__(self, part: bytes) -> None:
        assert len(part) <= LONGEST_NAME
        self.part = part
        self._executed = threading.Event()

    def done(self) -> bool:
        """Whether such a command came, and the store has executed it."""
        return self._executed.is_set()

    def mark(self) -> None:
        self._executed.set()


class Proxy:
    """Takes connections and passes each on to the store, for as long as nothing else is ordered."""

    def __init__(self, port: int) -> None:
        """`port`: the store's, on loopback."""
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._held: frozenset[Direction] = frozenset()
        self._lines: set[_Line] = set()
        self._lost: list[LostReply] = []
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="proxy")
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    @property
    def url(self) -> str:
        return "redis://{}:{}".format(*self.address)

    def hold(self, directions: frozenset[Direction] = BOTH) -> None:
        """A partition: connections stay open, but what is sent in these directions does not arrive before `heal`."""
        with self._changed:
            self._held = directions

    def heal(self) -> None:
        """Ends a partition; what was sent meanwhile arrives, as by TCP, even from those that have hung up since."""
        with self._changed:
            self._held = frozenset()
            self._changed.notify_all()

    def forsake(self, part: bytes) -> None:
        """Nothing passes any more through the connections that began with `part`, and nobody is told; new ones are
        served."""
        with self._changed:
            for line in self._lines:
                line.is_forsaken |= part in line.beginning

    def cut(self) -> None:
        """Cuts all connections; new ones are served."""
        with self._changed:
            lines = list(self._lines)
        for line in lines:
            line.cut()
        with self._changed:
            self._changed.notify_all()

    def lose_reply(self, part: bytes) -> LostReply:
        """See LostReply."""
        order = LostReply(part)
        with self._changed:
            self._lost.append(order)
        return order

    def reset(self) -> None:
        """Takes back all orders."""
        with self._changed:
            self._lost.clear()
        self.heal()

    def close(self) -> None:
        with self._changed:
            self._closed = True
        self.heal()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, 5)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                store = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            store.settimeout(None)
            for end in (client, store):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, store, self._pass, self._forget)
            with self._changed:
                self._lines.add(line)
            line.start()

    def _pass(self, direction: Direction, line: "_Line") -> None:
        """Returns when bytes may go this way, or when the line is cut."""
        with self._changed:
            self._changed.wait_for(lambda: line.is_cut or not (line.is_forsaken or direction in self._held))
            if direction is Direction.TO_STORE and not line.is_cut:
                line.obey(self._lost)

    def _forget(self, line: "_Line") -> None:
        with self._changed:
            self._lines.discard(line)
            self._changed.notify_all()


class _Line:
    """One connection through the proxy."""

    def __init__(
        self,
        client: socket.socket,
        store: socket.socket,
        allow: Callable[[Direction, "_Line"], None],
        ended: Callable[["_Line"], None],
    ) -> None:
        self.is_cut = False
        self.is_forsaken = False
        self.beginning = b""
        self._client = client
        self._store = store
        self._allow = allow
        self._ended = ended
        self._tail = b""
        self._losing: LostReply | None = None
        self._threads = [
            threading.Thread(target=self._pump, args=(client, store, Direction.TO_STORE), name="proxy to the store"),
            threading.Thread(target=self._pump, args=(store, client, Direction.FROM_STORE), name="proxy from it"),
        ]
        self._left = len(self._threads)
        self._leaving = threading.Lock()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        self.is_cut = True
        for end in (self._client, self._store):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def obey(self, orders: list[LostReply]) -> None:
        """Takes the first order that what was just read fulfils."""
        for order in orders:
            if order.part in self._tail:
                orders.remove(order)
                self._losing = order
                return

    def _pump(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        with suppress(OSError):
            while data := source.recv(BYTES_AT_ONCE):
                if direction is Direction.TO_STORE:
                    self._tail = self._tail[-LONGEST_NAME:] + data
                    self.beginning += data[: LONGEST_BEGINNING - len(self.beginning)]
                self._allow(direction, self)
                if self.is_cut:
                    break
                if direction is Direction.TO_STORE or self._losing is None:
                    target.sendall(data)
                if direction is Direction.TO_STORE and self._losing is not None:
                    # The store executes all that it got before it sees this end, and then closes; that cuts the line.
                    break
        if self._losing is None:
            self._allow(direction, self)  # the end of a connection is held like its bytes
        elif direction is Direction.FROM_STORE:
            self._losing.mark()
            self.cut()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        self._leave()

    def _leave(self) -> None:
        with self._leaving:
            self._left -= 1
            last = not self._left
        if last:
            self._client.close()
            self._store.close()
            self._ended(self)
