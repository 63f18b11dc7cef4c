"""Calls commands in this process, and says how they failed."""

from collections.abc import Callable

from click.testing import Result

Command = Callable[..., Result]

NOBODY = "http://127.0.0.1:1"
"""Nothing listens at a port so low."""


def check_failed(result: Result, *says: str) -> None:
    """It ended with one clear line."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("runlane: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in says), result.stderr


def check_misused(result: Result, says: str) -> None:
    """It was not called as it is to be."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"\n\nError: {says}\n"), result.stderr
