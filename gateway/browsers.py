"""What web pages of other origins and clients that send HEAD get, where the settings allow it. Both lie around the app
only then."""

import re
from collections.abc import Iterable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import StartupError
from .settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXPOSED = ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining",
           "RateLimit-Reset")  # fmt: skip

WITH_EFFECT = {"stream", "job-take", "job-take-batch", "job-stop", "ping", "openai"}
"""Operations of which a GET changes something: a chunk or a job is handed out once, a ping is a sign of life. With a
query, which can be `ttl`, that of a status does as well."""

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


def for_browsers(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The app with what the settings add to it."""
    if settings.head_requests:
        app = Head(app)
    if settings.cors_origins:
        # Keys come in a header that the page sets by itself, never as credentials that the browser adds.
        app = CORSMiddleware(
            app, allow_origins=settings.cors_origins, allow_methods=METHODS, allow_headers=("*",),
            allow_credentials=False, expose_headers=EXPOSED,
        )  # fmt: skip
    return app


def check_origins(origins: Iterable[str]) -> None:
    """Raises a `StartupError` when one of them can be no origin as a browser names it."""
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise StartupError(
                f"cors_origins: {origin!r} is no origin; one is * or like https://app.example, without a path"
            )


class Head:
    """Answers a HEAD as the GET, without its body, which the server leaves out; except where a GET has an effect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and not _has_effect(scope):
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _has_effect(scope: Scope) -> bool:
    parts = scope["path"].split("/")
    return len(parts) > 3 and (parts[3] in WITH_EFFECT or (parts[3] == "status" and bool(scope["query_string"])))
