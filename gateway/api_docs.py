"""The documentation of the API for people and programs: the OpenAPI document, and Swagger UI to read it in.

Swagger UI's files are those that the package `offapi` brings, and are served as they are: nothing comes from another
host, and there are no inline scripts.
"""

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

import orjson

from .described import JSON, Media, described
from .http import Answer, Call, Operation, Reply, Served

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>runlane API</title>
<link rel="stylesheet" href="swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script>
<script src="swagger-ui-standalone-preset.js"></script>
<script src="initializer.js"></script>
</body>
</html>
"""

_INITIALIZER = """window.ui = SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "StandaloneLayout",
});
"""
"""Swagger UI's options: https://swagger.io/docs/open-source-tools/swagger-ui/usage/configuration. Its validator is a
host elsewhere."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets `style` attributes, and its images are in its style sheet."""

_HTML, _SCRIPT, _STYLE = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"


class Documentation:
    """What is served without a key. `make`: makes the document, when it is first asked for."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._document = _File("The OpenAPI document.", lambda: orjson.dumps(make()), JSON)

    def operations(self) -> dict[str, Served]:
        """Path, and what is served there."""
        operations: dict[str, Operation] = {
            "/openapi.json": self._document,
            "/swagger": self.forward,
            "/swagger/": self.forward,
            "/swagger/doc.json": self._document,
            "/swagger/index.html": _File("The document as a page.", _PAGE.encode, _HTML),
            "/swagger/initializer.js": _File("A script of the page.", _INITIALIZER.encode, _SCRIPT),
            "/swagger/swagger-ui.css": _packaged("swagger_style.css", _STYLE),
            "/swagger/swagger-ui-bundle.js": _packaged("swagger_bundle.js", _SCRIPT),
            "/swagger/swagger-ui-standalone-preset.js": _packaged("swagger_preset.js", _SCRIPT),
        }
        return {path: Served(operation, ("GET",), None) for path, operation in operations.items()}

    @described(status=307)
    async def forward(self, _: Call) -> Answer:
        """Leads to the page."""
        return Reply(b"", 307, {"Location": "/swagger/index.html"}, b"text/plain; charset=utf-8")


class _File:
    """An operation that serves always the same, which is loaded when it is first asked for."""

    TAG = Documentation.__name__

    def __init__(self, text: str, load: Callable[[], bytes], content_type: str) -> None:
        self.__doc__ = text
        self._load = load
        self._content_type = content_type
        media_type = content_type.partition(";")[0]
        described(Media({media_type: dict if media_type == JSON else str}), also={304: None})(self)

    async def __call__(self, call: Call) -> Answer:
        """Answers 304 to whoever has it already."""
        headers = {"ETag": self._tag, "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
        if self._tag in call.header(b"if-none-match"):
            return Reply(b"", 304, headers)
        return Reply(self._content, headers=headers, content_type=self._content_type.encode())

    @functools.cached_property
    def _content(self) -> bytes:
        return self._load()

    @functools.cached_property
    def _tag(self) -> str:
        return f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'


def _packaged(name: str, content_type: str) -> _File:
    file = resources.files("offapi") / name
    return _File("A file of Swagger UI.", file.read_bytes, content_type)
