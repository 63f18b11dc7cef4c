"""Queries, read into types."""

import enum
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from gateway.errors import BadRequest
from gateway.queries import Cursor, PageLimit, milliseconds, parse_query


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Asked(msgspec.Struct):
    limit: PageLimit = 100
    wait: Annotated[int, milliseconds(10, 20)] | UnsetType = UNSET
    least: Annotated[int, Meta(ge=1)] = 1
    any: int = 0
    colour: Colour | UnsetType = UNSET
    size: Literal["small", "large"] = "small"
    cursor: Cursor | UnsetType = UNSET
    force: bool = False
    start: int = msgspec.field(name="from", default=0)


class Needed(msgspec.Struct):
    id: str


def test_what_is_not_said_is_as_the_type_has_it() -> None:
    assert parse_query({}, Asked) == parse_query({"other": "x"}, Asked) == Asked()


def test_what_is_said_is_of_its_type() -> None:
    found = {
        "limit": "7",
        "size": "large",
        "wait": "10",
        "colour": "blue",
        "cursor": "1.0",
        "force": "true",
        "from": "-3",
    }
    assert parse_query(found, Asked) == Asked(
        limit=7, size="large", wait=10, colour=Colour.BLUE, cursor="1.0", force=True, start=-3
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("limit", "0", "limit must be 1 to 1000, not '0'"), ("limit", "1001", "limit must be 1 to 1000, not '1001'"),
     ("wait", "1e1", "wait must be 10 to 20 ms, not '1e1'"), ("wait", "10.0", "wait must be 10 to 20 ms, not '10.0'"),
     ("wait", "", "wait must be 10 to 20 ms, not ''"), ("least", "0", "least must be a whole number from 1, not '0'"),
     ("any", "²", "any must be a whole number, not '²'"), ("any", "null", "any must be a whole number, not 'null'"),
     ("colour", "x" * 90, f"colour must be one of red, blue, not '{'x' * 40}'"),
     ("size", "Large", "size must be one of large, small, not 'Large'"),
     ("cursor", "1.02", "cursor must be what an earlier page gave as next, not '1.02'"),
     ("force", "2", "force must be true or false, not '2'"), ("from", "x", "from must be a whole number, not 'x'")],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_name(name: str, value: str, words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_query({name: value}, Asked)
    assert raised.value.message == words


def test_what_is_missing_is_named() -> None:
    for _ in range(2):
        with pytest.raises(BadRequest, match="required field `id`"):
            parse_query({}, Needed)
