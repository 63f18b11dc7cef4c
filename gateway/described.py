"""What the OpenAPI document says of an operation. It stands at the operation itself, in a decorator:

    @described(Vault, body=NewVault, status=201, errors={409: "there is a vault of this name"})
    async def create(self, call: Call) -> Answer:
        \"\"\"The first sentence is the summary. The rest is the description.\"\"\"

The types are those that check requests (`Call.queried`, decoders of bodies) and that make answers. The rest is known
from where the operation is mounted: its scope, its limit, and the shape of its errors.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from .access.keys import Scope
from .errors import Error

Function = TypeVar("Function", bound=Callable[..., Any])

JSON = "application/json"
TOO_MANY = "too many requests; `Retry-After` says when to come back"


class Media(NamedTuple):
    """A body of several possible types, by their media types; `str` stands for text, `bytes` for anything else."""

    types: Mapping[str, Any]


class Described(NamedTuple):
    """See `described`."""

    answers: Mapping[int, Media]
    body: Any
    body_is_optional: bool
    query: type[msgspec.Struct] | None
    headers: Mapping[str, Any]
    path: Mapping[str, Any]
    errors: Mapping[str, str]
    scope: Scope | None


def described(
    answer: Any = None,
    *,
    status: int = 0,
    also: Mapping[int, Any] | None = None,
    body: Any = None,
    body_is_optional: bool = False,
    query: type[msgspec.Struct] | None = None,
    headers: Mapping[str, Any] | None = None,
    path: Mapping[str, Any] | None = None,
    errors: Mapping[int, str] | Mapping[str, str] | None = None,
    scope: Scope | None = None,
) -> Callable[[Function], Function]:
    """Describes an operation, whose docstring says what it does.

    Args:
        answer: the type of its answer, or a `Media`; None: it has no body.
        status: of that answer; 0: 200, or 204 without a body.
        also: other answers that are no errors, by their status.
        body: the type of the request's body, or a `Media`; None: there is none.
        body_is_optional: an empty body will do.
        query: the type that the query is read with, by `Call.queried`.
        headers: those that it reads, by name; what they are.
        path: what the parameters of its path are, where the document does not know them by their name.
        errors: by status (or `4XX`, or `5XX`), beyond those that each operation of this kind has; when they occur.
        scope: what the key has to be good for, where the operation checks that by itself.
    """
    answers = {status or (204 if answer is None else 200): answer} | dict(also or {})
    said = Described(
        answers={code: kind if isinstance(kind, Media) else as_json(kind) for code, kind in answers.items()},
        body=body,
        body_is_optional=body_is_optional,
        query=query,
        headers=headers or {},
        path=path or {},
        errors={str(code): text for code, text in (errors or {}).items()},
        scope=scope,
    )

    def describe(function: Function) -> Function:
        function.__dict__["described"] = said
        return function

    return describe


def as_json(kind: Any) -> Media:
    """JSON of this type; of None, nothing."""
    return Media({} if kind is None else {JSON: kind})


def description_of(operation: Any) -> Described | None:
    """What is said of the operation, if it is."""
    found = getattr(operation, "described", None)
    return found if isinstance(found, Described) else None


def telling(kind: type[msgspec.Struct]) -> Callable[[Callable[[Error], Any]], Callable[[Error], Any]]:
    """Says of a function that makes answers of errors, of what type their bodies are."""

    def tell(shape: Callable[[Error], Any]) -> Callable[[Error], Any]:
        shape.__dict__["tells"] = kind
        return shape

    return tell
