"""A small OpenAI-compatible server, as a process of its own: what a worker of `openai_proxy.py` stands in front of.

The model's name says what it does: "echo" repeats the last message word by word; "status-N" answers with the error N;
"flaky-N-…" does so twice and then repeats; "endless" streams until its client goes; "dies" ends the process; "breaks"
cuts the connection in the middle of an answer.
"""

import asyncio
import base64
import json
import os
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "the-upstream-s-own-key"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         429: "rate_limit_error"}  # fmt: skip

flaky: dict[str, int] = {}
aborted: list[str] = []


def error(status: int) -> Response:
    fields = {"message": f"upstream says {status}", "type": TYPES.get(status, "server_error"), "param": "model",
              "code": f"code_{status}"}  # fmt: skip
    return JSONResponse({"error": fields}, status)


def event(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def chunk(**fields: Any) -> bytes:
    return event({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "echo"} | fields)


def delta(**fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


async def stream_chat(body: dict[str, Any]) -> AsyncIterator[bytes]:
    yield delta(role="assistant", content="")
    if body.get("tools"):
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        yield delta(tool_calls=[call])
        for part in ('{"city', '": "Łódź"}'):
            yield delta(tool_calls=[{"index": 0, "function": {"arguments": part}}])
    else:
        for word in body["messages"][-1]["content"].split(" "):
            yield delta(content=f"{word} ")
    while body["model"] == "endless":
        await asyncio.sleep(0.01)
        yield delta(content="more ")
    if body["model"] == "breaks":
        raise ConnectionError
    yield chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield chunk(choices=[], usage=USAGE)
    yield b"data: [DONE]\n\n"


async def noting_the_end(body: dict[str, Any], stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream; whether it was read to its end can be asked for."""
    ended = False
    try:
        async for part in stream:
            yield part
        ended = True
    finally:
        if not ended:
            aborted.append(body["model"])


async def chat(request: Request) -> Response:
    body = await request.json()
    kind, _, rest = body["model"].partition("-")
    if kind == "status":
        return error(int(rest))
    if kind == "flaky":
        flaky[rest] = flaky.get(rest, 0) + 1
        if flaky[rest] <= 2:
            return error(int(rest.partition("-")[0]))
    if kind == "dies":
        os._exit(1)
    if body.get("stream"):
        return StreamingResponse(noting_the_end(body, stream_chat(body)), media_type="text/event-stream")
    message = {"role": "assistant", "content": body["messages"][-1]["content"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"],
                         "choices": [choice], "usage": USAGE})  # fmt: skip


async def completions(request: Request) -> Response:
    body = await request.json()
    choice = {"index": 0, "text": body["prompt"].upper(), "finish_reason": "stop", "logprobs": None}
    return JSONResponse({"id": "t1", "object": "text_completion", "created": 1, "model": body["model"],
                         "choices": [choice], "usage": USAGE})  # fmt: skip


async def embeddings(request: Request) -> Response:
    body = await request.json()
    data = []
    for index, text in enumerate(body["input"]):
        numbers = [float(len(text)), 0.5, -1.0]
        encoded: Any = numbers
        if body.get("encoding_format") == "base64":
            encoded = base64.b64encode(struct.pack("<3f", *numbers)).decode()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    return JSONResponse({"object": "list", "data": data, "model": body["model"],
                         "usage": {"prompt_tokens": 1, "total_tokens": 1}})  # fmt: skip


def model(id: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": 1, "owned_by": "tests"}


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [model("echo"), model("org/other")]})


async def one_model(request: Request) -> Response:
    return JSONResponse(model(request.path_params["id"]))


def response(id: str, status: str, text: str = "") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": content}]
    failure = {"code": "server_error", "message": "the model broke"} if status == "failed" else None
    return {"id": id, "object": "response", "created_at": 1, "status": status, "error": failure, "model": "echo",
            "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "output": output}  # fmt: skip


async def responses(request: Request) -> Response:
    body = await request.json()
    if body["input"] == "fail":
        return JSONResponse(response("r1", "failed"))
    return JSONResponse(response("r1", "completed", body["input"]))


async def one_response(request: Request) -> Response:
    id = request.path_params["id"]
    if request.method == "DELETE":
        return JSONResponse({"id": id, "object": "response", "deleted": True})
    return JSONResponse(response(id, "completed", str(request.query_params.get("include", ""))))


async def cancel_response(request: Request) -> Response:
    return JSONResponse(response(request.path_params["id"], "cancelled"))


async def health(request: Request) -> Response:
    return Response()


async def ended_early(request: Request) -> Response:
    return JSONResponse(aborted)


class Keys:
    """Lets nobody in without the key."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        wrong = scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != f"Bearer {KEY}".encode()
        await (error(401) if wrong else self._app)(scope, receive, send)


app = Keys(
    Starlette(
        routes=[
            Route("/health", health),
            Route("/ended-early", ended_early),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{id:path}", one_model),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/responses/{id}", one_response, methods=["GET", "DELETE"]),
            Route("/v1/responses/{id}/cancel", cancel_response, methods=["POST"]),
        ]
    )
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
