"""Reads the parameters of a query into a type."""

import functools
import re
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, inspect

from .errors import BadRequest

Query = TypeVar("Query", bound=msgspec.Struct)

MOST_LISTED = 1000

PageLimit = Annotated[int, Meta(ge=1, le=MOST_LISTED, description="the most entries of a page")]
Cursor = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,16}\.(?:0|[1-9][0-9]{0,15})$",
        description="`next` of the page before",
        extra={"wanted": "what an earlier page gave as next"},
    ),
]

_LONGEST_SHOWN = 40
_FIELD = re.compile(r"\$\.([\w-]+)")
_DIGITS = re.compile(r"-?[0-9]+")


def parse_query(found: dict[str, str], kind: type[Query]) -> Query:
    """The parameters that the type knows; others do not matter. Nobody changes what is returned: it is shared.

    Raises:
        BadRequest: one is missing, of a wrong type or out of its range.
    """
    return _parsed(found, kind) if found else cast(Query, _without_any(kind))


@functools.cache
def _without_any(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """What most requests on the paths of jobs have."""
    return _parsed({}, kind)


def _parsed(found: dict[str, str], kind: type[Query]) -> Query:
    try:
        query = msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        wrong = _FIELD.search(str(error))  # else one is missing
        raise BadRequest(_complaint(wrong[1], found, kind) if wrong else str(error)) from None
    for name in _whole_numbers(kind).intersection(found):
        if not _DIGITS.fullmatch(found[name]):
            raise BadRequest(_complaint(name, found, kind))
    return query


def milliseconds(least: int, most: int, description: str = "") -> Meta:
    """What a time may be."""
    return Meta(ge=least, le=most, extra={"unit": "ms"}, description=description or None)


def _complaint(name: str, found: dict[str, str], kind: type[msgspec.Struct]) -> str:
    (wanted,) = [field.type for field in _fields_of(kind) if field.encode_name == name]
    return f"{name} must be {_words(wanted)}, not {found[name][:_LONGEST_SHOWN]!r}"


@functools.cache
def _whole_numbers(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The names of the fields that are whole numbers: msgspec takes 1e3 and 5.0 for such, as JSON may write them."""
    fields = {field.encode_name: field.type for field in _fields_of(kind)}
    return frozenset(name for name, wanted in fields.items() if isinstance(_without_meta(wanted), inspect.IntType))


def _fields_of(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    return cast(inspect.StructType, inspect.type_info(kind)).fields


def _without_meta(wanted: inspect.Type) -> inspect.Type:
    return wanted.type if isinstance(wanted, inspect.Metadata) else wanted


def _words(wanted: inspect.Type, extra: dict[str, Any] | None = None) -> str:
    if isinstance(wanted, inspect.Metadata):
        return _words(wanted.type, wanted.extra)
    unit = f" {extra['unit']}" if extra and "unit" in extra else ""
    if isinstance(wanted, inspect.IntType | inspect.FloatType):
        number = "a whole number" if isinstance(wanted, inspect.IntType) else "a number"
        if wanted.ge is None:
            return f"{number}{unit}"
        return f"{wanted.ge} to {wanted.le}{unit}" if wanted.le is not None else f"{number} from {wanted.ge}{unit}"
    if isinstance(wanted, inspect.EnumType):
        return f"one of {', '.join(str(member.value) for member in wanted.cls)}"
    if isinstance(wanted, inspect.LiteralType):
        return f"one of {', '.join(map(str, wanted.values))}"
    if isinstance(wanted, inspect.BoolType):
        return "true or false"
    return extra["wanted"] if extra and "wanted" in extra else "text"
