"""Completion and version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import handler_sdk

from .invoking import Command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_that_the_shell_takes(runlane: Command, shell: str) -> None:
    script = runlane("completion", shell).stdout
    assert "_RUNLANE_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "completed"),
    [("que", "queue"), ("queue pau", "pause"), ("task list q --state arch", "archived"), ("worker lo", "logs"),
     ("config create --mode one", "one_shot"), ("queue list --serv", "--server")],
)  # fmt: skip
def test_bash_completes(runlane: Command, line: str, completed: str) -> None:
    """As bash does it: the script sets the words, the function that it registers asks the `runlane` of the path."""
    words = ["runlane", *line.split()]
    script = "\n".join(
        [
            runlane("completion", "bash").stdout,
            f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}",
            '_runlane_completion runlane; echo "${COMPREPLY[@]}"',
        ]
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, text=True, check=True, capture_output=True
    )
    assert done.stdout.split() == [completed]


def test_version(runlane: Command) -> None:
    assert runlane("version").stdout == f"runlane {handler_sdk.__version__}\n"
