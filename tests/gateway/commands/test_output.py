"""Tables, fields and times, on a terminal and elsewhere."""

import pytest

from gateway.commands import output

from .documented import Documented
from .terminal import Terminal

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
QUEUE = {
    "queue": "inference.default", "pending": 1, "active": 2, "scheduled": 3, "retry": 4, "archived": 5, "completed": 6,
    "paused": False, "memory_usage": 7,
}  # fmt: skip


def test_columns_are_aligned_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["A", "LONGER"], [["x" * 200, None], ["", True], [3, "a  b"]])
    wide = "x" * 200
    expected = [f"{'A':200}  LONGER", f"{wide}  -", f"{'-':200}  yes", f"{'3':200}  a  b"]
    assert capsys.readouterr().out.splitlines() == expected


def test_an_empty_table_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["A", "B"], [])
    assert capsys.readouterr().out == "A  B\n"


def test_what_is_meant_for_the_terminal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.fields({"text": "a\x1b]0;title\x07b\nc", "object": {"a": [1]}, "none": None, "no": False})
    assert capsys.readouterr().out == 'text: a\\x1b]0;title\\x07b\\x0ac\nobject: {"a": [1]}\nnone: \nno: no\n'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "1970-01-01T00:00:00Z"), (1769860800.9, "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"), ("2026-01-31T14:00:00.123+02:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31 12:00:00", "2026-01-31T12:00:00Z"), ("0001-01-01T00:00:00Z", ""), (None, ""), ("soon", "soon"),
        (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_times(value: object, shown: str) -> None:
    assert output.moment(value) == shown


def shown_on_a_terminal(documented: Documented, **variables: str) -> list[str]:
    """The lines that `runlane queue list` shows."""
    documented.answer({"queues": [QUEUE]})
    return Terminal("queue", "list", "-s", documented.url, **variables).end()


def test_on_a_terminal(documented: Documented) -> None:
    header, line = shown_on_a_terminal(documented, TERM="xterm")
    assert (header[:4], header[-4:]) == (BOLD, PLAIN)
    assert header[4:-4] == "QUEUE              PENDING  ACTIVE  SCHEDULED  RETRY  ARCHI…"
    assert line == "inference.default  1        2       3          4      5    …"


def test_on_a_terminal_without_colours(documented: Documented) -> None:
    header, _ = shown_on_a_terminal(documented, NO_COLOR="1")
    assert header.startswith("QUEUE ")
