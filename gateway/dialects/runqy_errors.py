"""What all of Runqy's routes have in common: how they say what went wrong, and which endpoints a key is for."""

import msgspec

from ..access.access import Access
from ..described import telling
from ..engine.endpoints import Endpoint
from ..errors import Blocked, Error, Forbidden, Unauthorized
from ..http import Call, Reply


class Errors(msgspec.Struct):
    """What went wrong."""

    errors: list[str]


class RegisterErrors(Errors):
    """What went wrong, twice."""

    error: str


@telling(Errors)
def error_reply(error: Error) -> Reply:
    """An error as Runqy's clients know it. All wrong keys get the same words."""
    return Reply(msgspec.json.encode(Errors([_message(error)])), error.status, error.headers)


@telling(RegisterErrors)
def register_error_reply(error: Error) -> Reply:
    """An error of `/worker/register`: Runqy's documents and its code name the field differently."""
    message = _message(error)
    return Reply(msgspec.json.encode(RegisterErrors([message], message)), error.status, error.headers)


def _message(error: Error) -> str:
    if isinstance(error, Unauthorized) and not isinstance(error, Blocked):
        return "access unauthorized"
    if isinstance(error, Forbidden):
        return "insufficient permissions"
    return error.message


async def use(call: Call, access: Access, endpoint: Endpoint, operation: str = "") -> None:
    """Has a request, which was let in before it was known what it is about, use an endpoint.

    Raises:
        Forbidden: its key is not for this endpoint.
        TooManyRequests: too many requests for this operation.
    """
    check_endpoint(call, endpoint.id)
    if operation:
        await access.count(call, endpoint.name, operation)


def check_endpoint(call: Call, id: str) -> None:
    """Checks that a request's key is for an endpoint.

    Raises:
        Forbidden: it is not.
    """
    if not is_for(call, id):
        raise Forbidden("this key is not for this endpoint")


def is_for(call: Call, id: str) -> bool:
    """Whether a request's key is for an endpoint."""
    return not call.key.terms.endpoints or id in call.key.terms.endpoints
