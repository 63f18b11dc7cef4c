"""Checks payloads by the input schema of a queue, as Runqy does for its queue files: unknown fields pass, and what is
wrong is said in Runqy's words, which name the types as Go does."""

import math
from collections.abc import Sequence

import msgspec

from .engine.queue_config import Parameter
from .errors import BadRequest

_TYPES = {'"': "string", "{": "object", "[": "array", "t": "bool", "f": "bool", "n": "<nil>"}
_NOT_WHOLE_AT_SIGHT = frozenset(b".eE")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_number = msgspec.json.Decoder(float).decode


class Schema:
    """The fields that a payload of one queue has."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters

    def apply(self, payload: bytes) -> bytes:
        """Returns the payload that the worker gets: the same bytes, unless a default is filled in, or a number such as
        `5.0` is made whole for a field of integers.

        Raises:
            BadRequest: it is no object, lacks a field, or has one of a wrong type.
        """
        if not self._parameters:
            return payload
        try:
            fields = _decode_fields(payload)
        except msgspec.ValidationError:
            raise BadRequest(
                f"invalid data payload: json: cannot unmarshal {_type_of(payload)} into Go value of type "
                "map[string]interface {}"
            ) from None
        is_changed = False
        for parameter in self._parameters:
            value = fields.get(parameter.name)
            found = _absent(parameter) if value is None else _checked(parameter, bytes(value))
            if found is not None:
                fields[parameter.name] = msgspec.Raw(found)
                is_changed = True
        return msgspec.json.encode(fields) if is_changed else payload


def _absent(parameter: Parameter) -> bytes | None:
    """What stands for a field that is not there."""
    if parameter.required:
        raise BadRequest(f"{parameter.name} is required")
    return None if parameter.default is None else msgspec.json.encode(parameter.default)


def _checked(parameter: Parameter, value: bytes) -> bytes | None:
    """What stands for a value instead of it, if anything does."""
    kind = _type_of(value)
    allowed = parameter.type
    if kind == "number":
        is_written_whole = _NOT_WHOLE_AT_SIGHT.isdisjoint(value)
        if "float" in allowed or ("int" in allowed and is_written_whole):
            return None
        if "int" in allowed:
            number = _number(value)
            if number.is_integer():
                return b"%d" % int(number)
    elif kind in allowed:
        return None
    raise BadRequest(f"field '{parameter.name}' has type {kind}, expected one of: {', '.join(allowed)}")


def _number(value: bytes) -> float:
    try:
        return _decode_number(value)
    except msgspec.ValidationError:  # more than a float can be
        return math.inf


def _type_of(value: bytes) -> str:
    return _TYPES.get(value.lstrip()[:1].decode(), "number")
