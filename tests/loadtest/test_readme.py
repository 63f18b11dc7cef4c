"""The manual names all that there is."""

import re
from pathlib import Path

import click
import msgspec
import pytest

from loadtest import results
from loadtest.cli import main
from loadtest.errors import MEANINGS
from loadtest.results import Results
from loadtest.thresholds import STATISTICS, TOTALS
from loadtest.timings import TIMINGS

README = (Path(__file__).parents[2] / "loadtest" / "README.md").read_text()
WORDS = set(re.findall(r"[\w.-]+", README))


@pytest.mark.parametrize("command", sorted(main.commands))
def test_commands_and_their_options(command: str) -> None:
    assert f"runlane-load {command} " in README
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{name}" in README or f"/{name}`" in README, name


@pytest.mark.parametrize(
    "names", [TIMINGS, MEANINGS, STATISTICS, TOTALS], ids=["times", "errors", "statistics", "totals"]
)
def test_names(names: object) -> None:
    assert isinstance(names, dict | tuple)
    assert [name for name in names if f"`{name}`" not in README] == []


def test_the_fields_of_the_results() -> None:
    structs = [
        value for value in vars(results).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)
    ]
    fields = {field.name for struct in structs for field in msgspec.structs.fields(struct)}
    assert {field.name for field in msgspec.structs.fields(Results)} < fields
    assert sorted(fields - WORDS) == []
