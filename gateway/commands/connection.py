"""The gateway that a command talks to: which one, with which key, and what becomes of its answers."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import click

from .. import logs
from ..errors import StartupError
from . import credentials, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLES = ("RUNLANE_URL", "RUNQY_SERVER")
KEY_VARIABLES = ("RUNLANE_API_KEY", "RUNQY_API_KEY")
LOGIN = "login"
DEFAULT_SECONDS = 30.0
EVENT_SECONDS = 60.0
"""Event streams that have nothing to tell say so more often."""

Command = Callable[..., None]


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Contexts share what they remember with those of the commands in them, which come later and may say it again."""
    if value is not None:
        context.meta[f"{__name__}.{parameter.name}"] = value


server_option = click.option(
    "-s", "--server", "--url", "server", metavar="URL", expose_value=False, callback=_remember,
    help=f"The gateway.  [{', '.join(URL_VARIABLES)}, `runlane login`, else {DEFAULT_URL}]",
)  # fmt: skip
key_option = click.option(
    "-k", "--api-key", "--key", "api_key", metavar="KEY", expose_value=False, callback=_remember,
    help=f"An API key.  [{', '.join(KEY_VARIABLES)}, `runlane login`]",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

HINTS = {401: "set --key or RUNLANE_API_KEY, or `runlane login`"}


class ServerError(StartupError):
    """The gateway refused a request."""

    def __init__(self, status: int, message: str, hint: str | None) -> None:
        super().__init__(f"server error ({status}): {message}{f'; {hint}' if hint else ''}")
        self.status = status


class Place(NamedTuple):
    """A gateway and a key for it, or None, and where each was found: a variable, "option", LOGIN, or "" for nowhere."""

    url: str
    key: str | None
    url_source: str = ""
    key_source: str = ""


class Connection:
    """Asks a gateway, and shows its answers."""

    def __init__(self, place: Place, as_json: bool = False) -> None:
        self.place = place
        self.as_json = as_json

    def call(
        self,
        method: str,
        path: str,
        body: "dict[str, Any] | bytes | None" = None,
        hints: Mapping[int, str] = HINTS,
        seconds: float = DEFAULT_SECONDS,
        **query: Any,
    ) -> Any:
        """What the gateway answers; None when that is nothing.

        Args:
            body: an object, or the text of one.
            hints: what to say besides for a status.
            seconds: as long it may be silent.
            query: those that are None are left out.

        Raises:
            ServerError: it refuses.
            StartupError: it cannot be reached, or is none.
        """
        with self._answer(method, path, body, hints, seconds, query) as response:
            response.read()
            try:
                return response.json() if response.content else None
            except ValueError:
                raise self._stranger() from None

    def events(self, path: str, **query: Any) -> "Iterator[str]":
        """The data of the events that the gateway sends, until it ends the stream.

        Raises:
            As `call`.
        """
        import httpx_sse

        with self._answer("GET", path, None, HINTS, EVENT_SECONDS, query) as response:
            try:
                for event in httpx_sse.EventSource(response).iter_sse():
                    yield event.data
            except httpx_sse.SSEError:
                raise self._stranger() from None

    def show(self, answer: Any, print_: Callable[[Any], None]) -> None:
        """Prints an answer: as JSON if that was asked for, else as `print_` does.

        Raises:
            StartupError: it is not what a gateway answers.
        """
        if self.as_json:
            output.echo_json(answer)
            return
        with self.reading():
            print_(answer)

    @contextmanager
    def reading(self) -> "Iterator[None]":
        """Inside, an answer is taken to be a gateway's.

        Raises:
            StartupError: it is not.
        """
        try:
            yield
        except (LookupError, TypeError, AttributeError) as error:
            raise self._stranger() from error

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: "dict[str, Any] | bytes | None",
        hints: Mapping[int, str],
        seconds: float,
        query: Mapping[str, Any],
    ) -> "Iterator[httpx.Response]":
        import httpx

        headers = {"Authorization": f"Bearer {_printable(self.place.key)}"} if self.place.key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        parameters = {name: value for name, value in query.items() if value is not None}
        timeout = httpx.Timeout(DEFAULT_SECONDS, read=seconds)
        url = f"{self.place.url}{path}"
        try:
            with httpx.stream(
                method, url, params=parameters, content=content, headers=headers, timeout=timeout
            ) as response:
                if not response.is_success:
                    response.read()
                    raise ServerError(response.status_code, message_of(response), hints.get(response.status_code))
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            shown = logs.without_secrets(self.place.url)
            raise StartupError(f"cannot reach the gateway at {shown}: {error}; check --url or RUNLANE_URL") from None

    def _stranger(self) -> StartupError:
        shown = logs.without_secrets(self.place.url)
        return StartupError(f"{shown} does not answer as a gateway does; check --url or RUNLANE_URL")


def remote(command: Command) -> Command:
    """Gives a command that talks to a gateway its `Connection`, and the options that say which."""

    @wraps(command)
    def wrapped(*args: Any, as_json: bool, **given: Any) -> None:
        command(Connection(find_place(), as_json), *args, **given)

    return server_option(key_option(json_option(says_errors(wrapped))))


def remote_group(group: Command) -> Command:
    """Gives a group of such commands these options too, so that they can stand before the command."""
    return server_option(key_option(group))


def says_errors(command: Command) -> Command:
    """Ends with a line and the status 1 when something is not there or not usable."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except StartupError as error:
            click.echo(f"runlane: {error}", err=True)
            sys.exit(1)

    return wrapped


def find_place() -> Place:
    """Where a command goes, by what was given to it or before it, the environment, and what `runlane login` keeps.

    Raises:
        StartupError: what is kept is needed and cannot be read.
    """
    url, url_source = _given("server", URL_VARIABLES)
    key, key_source = _given("api_key", KEY_VARIABLES)
    if url is not None:
        url = base_of(url)
    if url is None or key is None:
        server = credentials.load().of(url)
        if server is not None and url is None:
            url, url_source = server.url, LOGIN
        if server is not None and key is None:
            key, key_source = server.key, LOGIN
    return Place(DEFAULT_URL if url is None else url, key, url_source, key_source)


def was_given() -> bool:
    """Whether an option says which gateway or key, here or before."""
    return any(_given(option, ())[0] is not None for option in ("server", "api_key"))


def base_of(url: str) -> str:
    """A gateway's URL without what clients may have at its end."""
    return url.rstrip("/").removesuffix("/v2")


def message_of(response: "httpx.Response") -> str:
    """What went wrong, by one of the forms that a gateway's errors have. A key is not taken along to another place."""
    if response.is_redirect:
        return f"it sends elsewhere: {output.text(logs.without_secrets(response.headers['Location']))}"
    try:
        body = response.json()
        errors = body["errors"] if "errors" in body else [body["error"]]
        return output.text("; ".join(map(str, errors)))
    except (ValueError, LookupError, TypeError):
        return output.text(response.text[:200].strip())


def segment(text: str) -> str:
    """A name as a part of a path.

    Raises:
        StartupError: it would be another path.
    """
    if "/" in text:
        raise StartupError(f"there is nothing whose name has a '/': {text[:80]!r}")
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def secret_of(given: str | None, prompt: str) -> str:
    """A secret: what was given, but for None and `-`, which mean that it comes over standard input; on a terminal it is
    asked for, and not shown."""
    if given is not None and given != "-":
        return given
    if sys.stdin.isatty():
        return str(click.prompt(prompt, hide_input=True, err=True))
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _given(option: str, variables: Iterable[str]) -> tuple[str | None, str]:
    value = click.get_current_context().meta.get(f"{__name__}.{option}")
    if value is not None:
        return value, "option"
    return next(((value, name) for name in variables if (value := os.environ.get(name))), (None, ""))


def _printable(key: str) -> str:
    """The key, if a header can hold it: errors of the HTTP client would show it."""
    if not (key.isascii() and key.isprintable()):
        raise StartupError("a key has no such characters as this one; check --key or RUNLANE_API_KEY")
    return key
