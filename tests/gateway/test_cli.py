"""The commands together."""

import re
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner

from gateway.cli import COMMANDS, main

from .processes import run

README = Path(__file__).parents[2] / "README.md"


def test_the_commands() -> None:
    result = CliRunner().invoke(main, ["-h"])
    for command in COMMANDS:
        assert f"\n  {command.name} " in result.stdout
    for flag in ("--version", "-v"):
        assert CliRunner().invoke(main, [flag]).stdout.startswith("runlane, version ")


def test_the_commands_are_in_the_readme() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    for command in COMMANDS:
        words = {command.name, *(command.commands if isinstance(command, click.Group) else ())}
        assert any(words <= set(re.findall(r"[a-z-]+", row.split(" | ")[0])) for row in rows), words


def test_it_is_python_m_gateway_too() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.split()[0], result.stderr) == (0, "runlane,", "")


def test_help_imports_nothing_that_takes_time() -> None:
    script = "import sys, gateway.cli; print([name for name in ('httpx', 'redis', 'starlette') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
