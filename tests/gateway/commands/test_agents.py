from ..processes import run


def test_an_agent_has_the_options_of_the_sdk() -> None:
    shown = run("agent", "--help")
    assert shown.returncode == 0
    assert "--follow-interval TIME" in shown.stdout


def test_an_agent_ends_with_the_status_of_the_sdk() -> None:
    refused = run("agent", "--queue", "no/queue", "--server", "http://127.0.0.1:1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "runlane: 'no/queue' cannot be the name of a queue\n"


def test_options_of_other_commands_are_not_for_an_agent() -> None:
    misused = run("-s", "http://127.0.0.1:1", "agent", "--queue", "q")
    assert misused.returncode == 2
    assert "an agent has --server and --key of its own" in misused.stderr
