from typing import Any

import msgspec
import orjson
import pytest

from gateway.engine.queue_config import Parameter
from gateway.errors import BadRequest
from gateway.schemas import Schema


def schema(**fields: Any) -> Schema:
    """Of fields by name, each a type, a list of types, or all that is said of it."""
    parameters = []
    for name, said in fields.items():
        said = said if isinstance(said, dict) else {"type": [said] if isinstance(said, str) else said}
        parameters.append(msgspec.convert({"name": name} | said, Parameter))
    return Schema(parameters)


def test_without_a_schema_anything_passes_as_it_is() -> None:
    for payload in (b"null", b"[1,  2]", b'"text"', b'{"a" : 1}'):
        assert Schema([]).apply(payload) is payload


VALUES = {
    "string": [b'"text"', b'""', b'"5"'],
    "bool": [b"true", b"false"],
    "int": [b"0", b"-7", b"12345678901234567890123"],
    "float": [b"0", b"1.5", b"-2e-9", b"5"],
    "array": [b"[]", b"[1,null]"],
    "object": [b"{}", b'{"a":{"b":1}}'],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in VALUES.items() for value in values])
def test_a_value_of_the_type_passes_as_the_bytes_that_it_came_in(kind: str, value: bytes) -> None:
    payload = b'{ "other":  1.50, "field" : %b }' % value
    assert schema(field=kind).apply(payload) is payload


NAMES = {"string": "string", "bool": "bool", "int": "number", "array": "array", "object": "object"}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("other", NAMES)
def test_a_value_of_another_type_is_refused_by_the_name_that_go_has_for_it(kind: str, other: str) -> None:
    if kind == other or (kind, other) == ("float", "int"):
        return
    for value in VALUES[other]:
        with pytest.raises(BadRequest) as raised:
            schema(field=kind).apply(b'{"field":%b}' % value)
        assert raised.value.message == f"field 'field' has type {NAMES[other]}, expected one of: {kind}"


def test_a_field_of_several_types() -> None:
    either = schema(field=["string", "int"])
    for payload in (b'{"field":"a"}', b'{"field":1}'):
        assert either.apply(payload) is payload
    with pytest.raises(BadRequest) as raised:
        either.apply(b'{"field":true}')
    assert raised.value.message == "field 'field' has type bool, expected one of: string, int"


@pytest.mark.parametrize("said", ["string", {"type": ["string"], "required": False, "default": "x"}])
def test_null_is_no_value_of_any_type(said: Any) -> None:
    with pytest.raises(BadRequest) as raised:
        schema(field=said).apply(b'{"field":null}')
    assert raised.value.message == "field 'field' has type <nil>, expected one of: string"


@pytest.mark.parametrize(("given", "whole"), [(b"5.0", b"5"), (b"-5.00", b"-5"), (b"2e3", b"2000"), (b"1E1", b"10")])
def test_a_number_for_integers_is_made_one_when_it_is_whole(given: bytes, whole: bytes) -> None:
    assert schema(n="int").apply(b'{"n":%b,"other":1.0}' % given) == b'{"n":%b,"other":1.0}' % whole


@pytest.mark.parametrize("given", [b"1.5", b"-0.1", b"1e-3", b"1e999", b"1e99999999999"])
def test_a_number_that_is_not_whole_is_none_for_integers(given: bytes) -> None:
    with pytest.raises(BadRequest) as raised:
        schema(n="int").apply(b'{"n":%b}' % given)
    assert raised.value.message == "field 'n' has type number, expected one of: int"


@pytest.mark.parametrize("given", [b"1.5", b"1.0", b"1"])
def test_a_number_where_integers_and_others_may_be_stays_as_it_is(given: bytes) -> None:
    payload = b'{"n":%b}' % given
    assert schema(n=["int", "float"]).apply(payload) is payload


def test_a_field_that_has_to_be_there() -> None:
    for said in ("string", {"type": ["string"], "default": "not for those that have to be there"}):
        with pytest.raises(BadRequest) as raised:
            schema(prompt=said).apply(b'{"other":1}')
        assert raised.value.message == "prompt is required"


def test_a_field_that_may_be_missing() -> None:
    payload = b'{ "other":1 }'
    assert schema(prompt={"type": ["string"], "required": False}).apply(payload) is payload


@pytest.mark.parametrize("default", ["a", 0, 1.5, False, [1, {"a": None}], {"b": []}])
def test_a_default_is_filled_in_and_the_rest_stays_as_it_came(default: Any) -> None:
    filled = schema(x={"type": ["string"], "required": False, "default": default}).apply(b'{"n": 1.50, "t": "\\u00e9"}')
    assert filled == b'{"n":1.50,"t":"\\u00e9","x":%b}' % orjson.dumps(default)


def test_the_first_thing_that_is_wrong_is_told() -> None:
    for payload, message in (
        (b"{}", "first is required"),
        (b'{"second":1}', "first is required"),
        (b'{"first":1}', "field 'first' has type number, expected one of: string"),
        (b'{"first":"a"}', "second is required"),
    ):
        with pytest.raises(BadRequest) as raised:
            schema(first="string", second="string").apply(payload)
        assert raised.value.message == message


@pytest.mark.parametrize(
    ("payload", "kind"),
    [(b"[1]", "array"), (b' "a"', "string"), (b"1", "number"), (b"true", "bool"), (b"null", "<nil>")],
)
def test_what_is_no_object(payload: bytes, kind: str) -> None:
    with pytest.raises(BadRequest) as raised:
        schema(x={"type": ["string"], "required": False}).apply(payload)
    assert raised.value.message == (
        f"invalid data payload: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    )


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    with pytest.raises(BadRequest):
        schema(x="string").apply(b'{"x":"a","x":1}')
    payload = b'{"x":1,"x":"a"}'
    assert schema(x="string").apply(payload) is payload
