"""The ceiling: an ASGI app that sends the body back, under the server settings of the gateway."""

import sys
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from gateway.server import Server, configuration, listen
from gateway.settings import Settings


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def make() -> object:
    """The app, for uvicorn's factory; without a lifespan of its own."""
    return echo


def serve(app: Callable[[], object]) -> None:
    """Serves on the port that the command line says."""
    settings = Settings(port=int(sys.argv[1]))
    config = configuration(app, settings, 1)
    config.lifespan = "off"
    Server(config).run(sockets=[listen(settings)])


if __name__ == "__main__":
    serve(make)
