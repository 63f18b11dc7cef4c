"""What an agent is told."""

from pathlib import Path

import pytest

from handler_sdk.agent.assignment import Assignment, read
from handler_sdk.agent.configuration import Configuration
from handler_sdk.agent.errors import ConfigurationError, RegistrationError

HERE = ["--server", "http://gateway:8000/", "--queue", "q"]


def test_stands_in_the_variables_of_runqys_worker() -> None:
    found = Configuration.of(
        [],
        {
            "RUNQY_SERVER_URL": "http://gateway:8000",
            "RUNQY_QUEUES": "one,two.high,one",
            "RUNQY_API_KEY": "key",
            "RUNQY_CONCURRENCY": "4",
            "RUNQY_SHUTDOWN_TIMEOUT": "1m30s",
            "RUNQY_BOOTSTRAP_RETRIES": "0",
            "RUNQY_BOOTSTRAP_RETRY_DELAY": "250ms",
            "RUNQY_GIT_SSH_KEY": "/key",
            "RUNQY_GIT_TOKEN": "token",
            "RUNQY_DEPLOYMENT_DIR": "/deployments",
            "RUNQY_USE_SYSTEM_SITE_PACKAGES": "false",
        },
    )
    assert found == Configuration(
        "http://gateway:8000", ("one", "two.high"), "key", 4, 90.0, 5.0, 0, 0.25, "/key", "token",
        Path("/deployments"), sees_system=False,
    )  # fmt: skip
    assert "key" not in repr(found).replace("key=", "")
    assert "token" not in repr(found)


def test_flags_win_over_variables_and_ours_over_runqys() -> None:
    variables = {"RUNQY_QUEUES": "other", "RUNQY_API_KEY": "other", "RUNLANE_WORKER_KEY": "ours", "RUNLANE_FOLLOW": "1"}
    found = Configuration.of([*HERE, "--queue", "r", "--shutdown-timeout", "2.5"], variables)
    assert found == Configuration("http://gateway:8000", ("q", "r"), "ours", follows=True, shutdown_seconds=2.5)
    assert not Configuration.of([*HERE, "--follow", "no"], variables).follows


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, "say where the gateway is"),
        (["--server", "http://x"], {}, "say which queue to work for"),
        (["--server", "http://x", "--queue", "../x"], {}, "cannot be the name of a queue"),
        (HERE, {"RUNLANE_LINK": "pigeon"}, "RUNLANE_LINK must be"),
        ([*HERE, "--queue", "r"], {"RUNLANE_WORKER_ID": "w"}, "RUNLANE_WORKER_ID is for one worker"),
    ],
)
def test_what_makes_no_sense_is_told(arguments: list[str], variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Configuration.of(arguments, variables)


@pytest.mark.parametrize("given", [("--concurrency", "many"), ("--shutdown-timeout", "soon"), ("--follow=perhaps",)])
def test_values_of_the_wrong_kind_are_refused(given: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Configuration.of([*HERE, *given], {})
    assert ended.value.code == 2
    assert "usage: runlane agent" in capsys.readouterr().err


def test_an_answer_with_the_least_there_can_be_is_understood() -> None:
    body = b'{"deployment": {"git_url": "u", "startup_cmd": "c"}, "runlane": {"endpoint": "e"}}'
    assert read(body, "q") == Assignment("q", "e", "u", "main", "c")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "makes no sense"),
        (b"[]", "makes no sense"),
        (b'{"deployment": {"git_url": "u", "startup_cmd": "c"}}', "is not one of runlane"),
        (b'{"runlane": {"endpoint": "e"}}', "queue q has no deployment"),
        (b'{"runlane": {"endpoint": 1}, "deployment": {"git_url": "u", "startup_cmd": "c"}}', "makes no sense"),
        (
            b'{"runlane": {"endpoint": "e"}, "deployment": {"git_url": "u", "startup_cmd": "c", "mode": "x"}}',
            "mode 'x'",
        ),
    ],
)
def test_another_answer_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(RegistrationError, match=said):
        read(body, "q")
