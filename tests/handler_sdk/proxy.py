"""Something between a worker and the gateway: an HTTP proxy in a thread of this process, which tests give orders."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

END_OF_HEAD = b"\r\n\r\n"


class Message(NamedTuple):
    """A request or an answer, as it came."""

    head: bytes
    body: bytes = b""

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def path(self) -> str:
        """Without its query."""
        return self.head.split(b" ", 2)[1].decode().partition("?")[0]

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None

    def with_body(self, body: bytes) -> "Message":
        """The same with another body of the same kind."""
        lines = [
            line for line in self.head[: -len(END_OF_HEAD)].split(b"\r\n") if b"content-length" not in line.lower()
        ]
        return Message(b"\r\n".join([*lines, b"content-length: %d" % len(body)]) + END_OF_HEAD, body)


def reply(status: int, body: bytes) -> Message:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return Message(head.encode(), body)


async def read_message(reader: asyncio.StreamReader) -> Message:
    head = await reader.readuntil(END_OF_HEAD)
    length = Message(head).header("content-length")
    return Message(head, await reader.readexactly(int(length or 0)))


class Background:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def stop(self) -> None:
        """Cancels what still runs."""
        self.do(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()


class Order:
    """What is to happen to the next request whose head has `part` in it. done: it has."""

    def __init__(self, part: bytes) -> None:
        self.part = part
        self.done = threading.Event()


Forward = Callable[[Message], Awaitable[Message]]


class Proxy:
    """Passes each request on to a gateway, and its answer back. Who hangs up on one side is hung up on the other."""

    def __init__(self, port: int, tls: Any = None) -> None:
        """`port`: the gateway's, on loopback. `tls`: the context to take connections with."""
        self.target = port
        self.requests: list[Message] = []
        self._tls = tls
        self._lost: list[Order] = []
        self._halved: list[Order] = []
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}
        self._background = Background()
        self._server = self._background.do(self._start())
        scheme = "http" if tls is None else "https"
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def lose_answer(self, part: bytes) -> Order:
        """The gateway executes such a request; then its client finds the connection cut."""
        self._lost.append(Order(part))
        return self._lost[-1]

    def halve(self, part: bytes) -> Order:
        """The gateway gets half of such a request; then both find the connection cut."""
        self._halved.append(Order(part))
        return self._halved[-1]

    def cut(self) -> None:
        """Cuts all connections; new ones are served."""
        self._background.do(self._cut())

    def close(self) -> None:
        self._background.do(self._stop())
        self._background.stop()

    async def answer(self, request: Message, forward: Forward) -> Message:
        """To be changed by those who answer something themselves."""
        return await forward(request)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**26)

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.gather(*self._clients.values())

    async def _cut(self) -> None:
        for client in self._clients:
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[writer] = task
        requests: asyncio.Queue[Message] = asyncio.Queue()
        answering = asyncio.create_task(self._answer_all(requests, writer))
        try:
            while True:
                requests.put_nowait(await read_message(reader))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has hung up, or the proxy ends
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await _abort(writer)
        del self._clients[writer]

    async def _answer_all(self, requests: asyncio.Queue[Message], client: asyncio.StreamWriter) -> None:
        backend = _Backend(self.target)
        try:
            while True:
                request = await requests.get()
                self.requests.append(request)
                if order := _take(self._halved, request):
                    await backend.send_half(request)
                    await backend.close()
                    order.done.set()
                    break
                order = _take(self._lost, request)
                answer = await self.answer(request, backend.ask)
                if order:
                    order.done.set()
                    break
                client.write(answer.head + answer.body)
        except (OSError, EOFError):
            pass  # the gateway has hung up
        finally:
            await backend.close()
            await _abort(client)


class _Backend:
    """A connection to the gateway, once it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Message) -> Message:
        reader, writer = await self._open()
        writer.write(request.head + request.body)
        return await read_message(reader)

    async def send_half(self, request: Message) -> None:
        _, writer = await self._open()
        writer.write(request.head + request.body[: len(request.body) // 2])
        await writer.drain()

    async def close(self) -> None:
        if self._connection is not None:
            await _abort(self._connection[1])

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port, limit=2**26)
        return self._connection


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def _take(orders: list[Order], request: Message) -> Order | None:
    for order in orders:
        if order.part in request.head:
            orders.remove(order)
            return order
    return None
