"""`runlane webhook-secret`"""

import json

import pytest
from click.testing import Result

from .invoking import Command, check_failed


@pytest.fixture
def command(at_gateway: Command) -> Command:
    """Runs `runlane webhook-secret …` against the shared gateway."""

    def call(*arguments: str, **given: str) -> Result:
        return at_gateway("webhook-secret", *arguments, **given)

    return call


def test_list_and_rotate(command: Command) -> None:
    command("rotate", "--overlap", "0s")
    (old,) = json.loads(command("list", "--json").stdout)["secrets"]
    assert command("list").stdout.splitlines()[1].split() == [old["id"], old["secret"], "never"]

    rotated = [line.split() for line in command("rotate", "--overlap", "1h").stdout.splitlines()[1:]]

    assert rotated[0][1].startswith("whsec_")
    assert rotated[0][2] == "never"
    assert rotated[1][:2] == [old["id"], old["secret"]]
    assert rotated[1][2].startswith("20")


def test_refusals(command: Command) -> None:
    check_failed(command("rotate", "--overlap", "999d"), "overlapSeconds")
    check_failed(command("list", key="wrong"), "RUNLANE_API_KEY")
