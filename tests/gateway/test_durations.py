"""Durations: what Go's own examples and errors say, and ours."""

import pytest

from gateway.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        (0, 0),
        ("-0", 0),
        ("0s", 0),
        ("-0s", 0),
        ("90s", 90_000),
        ("+5m", 300_000),
        ("24h", 86_400_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        (".5s", 500),
        ("5.s", 5_000),
        ("1h15m30.918s", 4_530_918),
        ("250ms", 250),
        ("1µs", 1),
        ("1μs", 1),
        ("1ns", 1),
        ("1000001ns", 2),
        ("0.1000000000000000000000h", 360_000),
        ("2562047h", 9_223_369_200_000),
    ],
)
def test_duration_in_ms(text: str | int, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("+-5s", 'time: invalid duration "+-5s"'),
        ("5", 'time: missing unit in duration "5"'),
        (5, 'time: missing unit in duration "5"'),
        ("1.5", 'time: missing unit in duration "1.5"'),
        ("3d", 'time: unknown unit "d" in duration "3d"'),
        ("1h 5m", 'time: unknown unit "h " in duration "1h 5m"'),
        ("5S", 'time: unknown unit "S" in duration "5S"'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("9" * 5000 + "h", f'time: invalid duration "{"9" * 80}"'),
        ("-5s", 'duration "-5s" must not be negative'),
        ('"', 'time: invalid duration "\\""'),
    ],
)
def test_what_is_no_duration(text: str | int, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_duration(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (1_500, "1.5s"),
        (60_000, "1m0s"),
        (61_001, "1m1.001s"),
        (600_000, "10m0s"),
        (3_600_000, "1h0m0s"),
        (86_400_000, "24h0m0s"),
    ],
)
def test_duration_as_go_shows_it(ms: int, text: str) -> None:
    assert format_duration(ms) == text
    assert parse_duration(text) == ms
