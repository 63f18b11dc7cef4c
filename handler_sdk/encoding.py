"""Values of the handler as JSON bytes."""

import dataclasses
import json
import math
from typing import Any

import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


class NotJsonError(ValueError):
    """The value, or something in it, has no form in JSON. The message names its type."""


def to_json(value: Any) -> bytes:
    """The value as JSON. Dataclasses, dates, UUIDs, enums and arrays (NumPy, PyTorch) have their usual forms.

    A NaN or an infinity becomes null. Raises NotJsonError.
    """
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except TypeError as error:
        return _to_json_slowly(value, error)


def _to_json_slowly(value: Any, refusal: TypeError) -> bytes:
    """What orjson refuses and JSON has: integers beyond 64 bits, nesting deeper than 254, lone surrogates."""
    try:
        text = json.dumps(value, default=_default, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise NotJsonError("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        cause = refusal if "not JSON serializable" in str(refusal) else error
        raise NotJsonError(str(cause)) from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=_default, allow_nan=False).encode()


def _default(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def split_string(text: str, limit: int) -> list[bytes]:
    """The string as JSON strings of at most `limit` bytes each, cut between characters."""
    encoded = to_json(text)
    if len(encoded) <= limit or len(text) == 1:
        return [encoded]
    step = math.ceil(len(text) / math.ceil(len(encoded) / limit))
    if step == len(text):
        step = math.ceil(step / 2)
    return [piece for at in range(0, len(text), step) for piece in split_string(text[at : at + step], limit)]
