"""A server with the bodies of Runqy's documentation, which records what it is asked."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit


class Request(NamedTuple):
    """What was asked. `path`: unquoted; `body`: the text, "" for none."""

    method: str
    path: str
    query: dict[str, str]
    body: str
    key: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Documented:
    """Answers each request with the next of the answers that were given to it."""

    KEY = "rl-documented-key-0123456789"

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: list[tuple[int, dict[str, str], bytes]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def clear(self) -> None:
        self.requests.clear()
        self._answers.clear()

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        """The next answer: JSON, or text as it is."""
        text, kind = (body, "text/plain") if isinstance(body, str) else (json.dumps(body), "application/json")
        self._answers.append((status, {"Content-Type": kind, **headers}, text.encode()))

    def send_events(self, *data: str) -> None:
        """The next answer is a stream of events, with a comment before them."""
        text = ": comment\n\n" + "".join(f"id: {number}\ndata: {each}\n\n" for number, each in enumerate(data))
        self._answers.append((200, {"Content-Type": "text/event-stream"}, text.encode()))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        documented = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                super().handle_one_request()
                self.close_connection = True

            def _serve(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                key = self.headers.get("Authorization")
                query = dict(parse_qsl(url.query))
                documented.requests.append(Request(self.command, unquote(url.path), query, body, key))
                status, headers, content = documented._answers.pop(0)
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_PATCH = _serve

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler
