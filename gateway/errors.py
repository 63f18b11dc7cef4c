"""Everything that can go wrong, by whose fault it is.

    Error
    ├── ClientError             the request cannot be served as it is
    │   ├── BadRequest          400  not JSON, a field missing or out of its range
    │   ├── HungUp              400  the client has gone away, so nobody will see this
    │   ├── Unauthorized        401  no key, or a wrong one
    │   ├── Blocked             401  too many failed logins from the client's address
    │   ├── Forbidden           403  a key that is not good for this
    │   ├── NotFound            404  no such endpoint, job or path
    │   ├── MethodNotAllowed    405
    │   ├── RequestTimeout      408  the headers or the body came too slowly, or what it waits for
    │   ├── Conflict            409  the job or endpoint is in another state than the request needs
    │   ├── TooLarge            413
    │   ├── UrlTooLong          414
    │   ├── TooManyRequests     429  come back later
    │   └── HeadersTooLarge     431
    ├── Unavailable             503  the store cannot be reached or cannot take more
    ├── NotSetUp                503  it takes a setting that the operator has not made
    └── DeadlineExceeded        504  the job did not end in the time that its client waits
StartupError                    the operator's settings or surroundings are not usable; ends the process

Each knows its HTTP status and headers; each dialect turns it into its own body.
"""

from collections.abc import Mapping


class Error(Exception):
    """A request that ends in an error, with what the client is to be told."""

    status = 500

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})


class ClientError(Error):
    """The request cannot be served as it is."""

    status = 400


class BadRequest(ClientError):
    """Not JSON, a field missing, of a wrong type or out of its range."""


class HungUp(ClientError):
    """The client has gone away, so nobody will see this."""


class Unauthorized(ClientError):
    """No key, or a wrong one."""

    status = 401

    def __init__(self, message: str = "missing or wrong API key") -> None:
        super().__init__(message, {"WWW-Authenticate": "Bearer"})


class Blocked(Unauthorized):
    """There were too many failed logins from the client's address."""

    def __init__(self) -> None:
        super().__init__("rate limit exceeded")


class Forbidden(ClientError):
    """A key that is not good for this operation or endpoint."""

    status = 403


class NotFound(ClientError):
    """No such endpoint, job or path."""

    status = 404


class MethodNotAllowed(ClientError):
    """The path exists, but not for this method."""

    status = 405

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"method not allowed; use {' or '.join(allowed)}", {"Allow": ", ".join(allowed)})


class RequestTimeout(ClientError):
    """The headers or the body did not arrive in time, or what the request waits for did not come about."""

    status = 408


class Conflict(ClientError):
    """The job or endpoint is in another state than the request needs."""

    status = 409


class TooLarge(ClientError):
    """The body is over the operation's limit."""

    status = 413


class UrlTooLong(ClientError):
    """The URL is over the server's limit."""

    status = 414


class TooManyRequests(ClientError):
    """The client is to pause before it comes again."""

    status = 429

    def __init__(self, message: str, seconds: int, limit: int | None = None) -> None:
        """`limit`: what there is too much of; told in the headers, whose names are those of the IETF's draft 06."""
        headers = {"Retry-After": str(seconds)}
        if limit is not None:
            headers |= {"RateLimit-Limit": str(limit), "RateLimit-Remaining": "0", "RateLimit-Reset": str(seconds)}
        super().__init__(message, headers)


class HeadersTooLarge(ClientError):
    """The headers are too many, or over the server's limit."""

    status = 431


class Unavailable(Error):
    """The store cannot be reached, or cannot take more at present."""

    status = 503

    def __init__(self, message: str = "the queue store is not available; try again shortly") -> None:
        super().__init__(message, {"Retry-After": "1"})


class NotSetUp(Error):
    """It takes a setting that the operator has not made."""

    status = 503


class DeadlineExceeded(Error):
    """The job did not end in the time that its client waits for it."""

    status = 504


class StartupError(Exception):
    """The settings or the surroundings do not allow to start; the message says what to do."""
