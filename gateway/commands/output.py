"""What commands print: tables and fields for people, JSON for programs."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

GAP = "  "
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def echo_json(value: Any) -> None:
    """Prints it as it came, indented."""
    click.echo(json.dumps(value, indent=2))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints aligned columns; on a terminal with a bold header, and cut at its right edge."""
    lines = [list(header), *([text(value) or "-" for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    is_terminal = sys.stdout.isatty()
    most = shutil.get_terminal_size().columns if is_terminal else None
    for number, cells in enumerate(lines):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        line = GAP.join(padded).rstrip()
        if most is not None and len(line) > most:
            line = f"{line[: most - 1]}…"
        bold = number == 0 and is_terminal and not os.environ.get("NO_COLOR")  # https://no-color.org
        click.echo(click.style(line, bold=True) if bold else line)


def fields(values: Mapping[str, Any]) -> None:
    """Prints a line for each."""
    for name, value in values.items():
        click.echo(f"{name}: {text(value)}")


def text(value: Any) -> str:
    """A value on one line. Control characters, which could be meant for the terminal, are shown as escapes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = value if isinstance(value, str) else json.dumps(value)
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)


def moment(value: Any) -> str:
    """A time in seconds since the epoch, or in RFC 3339, as all commands show times: in UTC, to the second. Go's zero
    time is no time. Anything else is shown as it is."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
        else:
            at = datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return text(value)
    return "" if at.year == 1 else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def more(answer: Mapping[str, Any]) -> None:
    """Says how to get the next page of a list, if there is one."""
    if answer.get("next"):
        warn(f"there is more: --cursor {answer['next']}")


def warn(message: str) -> None:
    """Says something besides what was asked for."""
    click.echo(f"runlane: {text(message)}", err=True)
