"""Durations as Go writes them (`90s`, `1h30m`, `1.5h`, `0`), which is how Runqy's settings and queue files give them:
https://pkg.go.dev/time#ParseDuration"""

import re

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MOST_NANOSECONDS = 2**63 - 1
_PART = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>[^0-9.]*)")


def parse_duration(text: str | int) -> int:
    """A duration in ms; what is not a whole number of them is rounded up, so that only 0 is none.

    Args:
        text: as Go takes it. A number that YAML or JSON had without quotes counts as if it had them.

    Raises:
        ValueError: it is no duration, in Go's words, or a negative one.
    """
    text = str(text)
    rest = text.removeprefix("-" if text.startswith("-") else "+")
    if rest == "0":
        return 0
    total = 0
    while True:
        part = _PART.match(rest)
        if part is None or not (part["whole"] or part["fraction"]):
            raise ValueError(f"time: invalid duration {_quoted(text)}")
        total += _nanoseconds(text, part["whole"], part["fraction"] or "", part["unit"])
        if total > _MOST_NANOSECONDS:
            raise ValueError(f"time: invalid duration {_quoted(text)}")
        rest = rest[part.end() :]
        if not rest:
            break
    if total and text.startswith("-"):
        raise ValueError(f"duration {_quoted(text)} must not be negative")
    return -(-total // 10**6)


def format_duration(ms: int) -> str:
    """A duration as Go shows it: `10m0s`, `1h0m0s`, `1.5s`, `250ms`, `0s`.

    Args:
        ms: not negative.
    """
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, left = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{left / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _nanoseconds(text: str, whole: str, fraction: str, unit: str) -> int:
    if not unit:
        raise ValueError(f"time: missing unit in duration {_quoted(text)}")
    if unit not in _NANOSECONDS:
        raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {_quoted(text)}")
    if len(whole) > 19:
        raise ValueError(f"time: invalid duration {_quoted(text)}")
    fraction = fraction[:19]
    scale = int("1" + "0" * len(fraction))
    return (int(whole or "0") * scale + int(fraction or "0")) * _NANOSECONDS[unit] // scale


def _quoted(text: str) -> str:
    return '"' + text[:80].replace('"', '\\"') + '"'
