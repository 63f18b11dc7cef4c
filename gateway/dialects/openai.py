"""OpenAI's API, for whatever the workers of an endpoint understand of it: https://platform.openai.com/docs/api-reference

A request to /v2/{endpoint}/openai/v1/PATH becomes a job with the input {"openai_route": "/v1/PATH", "openai_input": the
body}, as RunPod's workers expect it: https://docs.runpod.io/serverless/vllm/openai-compatibility. Without a body there
is no `openai_input`. Ours: `openai_method`, when it is neither a POST with a body nor a GET without.
"""

from contextlib import AsyncExitStack
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
import orjson
from msgspec import Meta

from ..access.keys import Scope
from ..described import JSON, Media, described
from ..engine.engine import Engine, Submission
from ..engine.ids import new_id
from ..errors import Error, NotFound
from ..event_stream import EventStream
from ..http import Answer, Body, Call, Reply, Served
from ..settings import Settings
from .openai_errors import error_reply
from .openai_exchange import submitted
from .openai_stream import Events, Relay, read_answer
from .runpod import DEFAULT_TTL_MS, parse_object

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Request(msgspec.Struct):
    """Whatever the handler understands. With `stream`, the answer is an event stream."""

    stream: Any = False


class OpenAI:
    """The operations of one gateway process."""

    TAG = "OpenAI"

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def operations(self) -> dict[str, Served]:
        """Path under /v2/{endpoint}, and what is served there."""
        return {"/openai/{path:path}": Served(self.relay, METHODS, Scope.SUBMIT, "openai")}

    @described(
        Media({JSON: Any, "text/event-stream": str, "text/plain": str}), body=Request, body_is_optional=True,
        path={"path": Annotated[str, Meta(description="of OpenAI's API, from `v1/` on, with all its slashes")]},
        errors={"4XX": "an error that the handler gave", "5XX": "the same, or there was no answer in time"},
    )  # fmt: skip
    async def relay(self, call: Call) -> Answer:
        """Has a worker answer, and gives its answer or its stream back. A client that hangs up cancels the job."""
        route = _route(call)
        body = await call.body(self._settings.runsync_limit, self._settings.body_seconds)
        streams = bool(body) and bytes(parse_object(body).get("stream", b"")) == b"true"
        job = Submission(
            id=f"sync-{new_id(call.endpoint)}",
            input=_input(call.method, route, body),
            timeout=0,
            ttl=DEFAULT_TTL_MS,
            retention=self._settings.runsync_retention_seconds * 1000,
            share=call.key.id,
            weight=call.key.terms.weight,
        )
        try:
            answer = await (self._stream(call, job) if streams else self._answer(call, job))
        except Error as error:
            answer = error_reply(error)
        if isinstance(answer, Reply):
            answer = answer._replace(headers={**answer.headers, "x-request-id": job.id})
        return answer

    async def _answer(self, call: Call, job: Submission) -> Answer:
        async with submitted(self._engine, call, job, self._settings.openai_wait_seconds) as exchange:
            return await read_answer(exchange, self._settings.output_limit)

    async def _stream(self, call: Call, job: Submission) -> Answer:
        """Waits for the first text, but not for long: until then an error can have its status."""
        async with AsyncExitStack() as ending:
            exchange = await ending.enter_async_context(
                submitted(self._engine, call, job, self._settings.openai_wait_seconds)
            )
            relay = Relay(exchange, self._settings.openai_keep_alive_seconds)
            first = await relay.next()
            named = [(b"x-request-id", job.id.encode()), (b"cache-control", b"no-cache")]
            return EventStream(Events(relay, call.scope), ending.pop_all(), first, named)


def _route(call: Call) -> str:
    """The path from /v1 on, and the query, as the client sent them."""
    _, _, _, _, *rest = call.raw_path.split("/", 4)
    segments = [unquote(segment) for segment in rest[0].partition("?")[0].split("/")] if rest else []
    # Workers give the path to the server behind them, which has more than this to offer.
    if segments[:1] != ["v1"] or len(segments) < 2 or not {".", ".."}.isdisjoint(segments):
        raise NotFound("no such path; OpenAI's begin with /openai/v1/")
    return f"/{rest[0]}"


def _input(method: str, route: str, body: Body) -> bytes:
    fields = b'"openai_route":%b' % orjson.dumps(route)
    if body:
        fields += b',"openai_input":' + body
    if method != ("POST" if body else "GET"):
        fields += b',"openai_method":%b' % orjson.dumps(method)
    return b"{%b}" % fields
