"""The floor of a stream: Starlette's `StreamingResponse` with the same events, under the gateway's server settings."""

from collections.abc import AsyncIterator

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from .chunks import EVENT, chunk
from .echo import serve


async def _events(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield EVENT % (number, orjson.dumps(chunk(number)))


async def stream(request: Request) -> StreamingResponse:
    """So many chunks as server-sent events."""
    count = int(request.query_params["chunks"])
    return StreamingResponse(_events(count), media_type="text/event-stream")


def make() -> Starlette:
    """The app, for uvicorn's factory."""
    return Starlette(routes=[Route("/stream", stream)])


if __name__ == "__main__":
    serve(make)
