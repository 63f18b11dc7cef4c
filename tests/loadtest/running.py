"""Runs `runlane-load` as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway.children import die_with_parent
from loadtest import results
from loadtest.key import VARIABLES
from loadtest.results import Results

KEY = "rl-load-key-0123456789"


def start(*arguments: object, key: str | None = KEY, **options: Any) -> "subprocess.Popen[str]":
    """Starts it; no variable but RUNLANE_API_KEY says a key."""
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if key is not None:
        variables["RUNLANE_API_KEY"] = key
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", *map(str, arguments)], env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent(signal.SIGKILL), **options,
    )  # fmt: skip


def run(*arguments: object, key: str | None = KEY) -> "subprocess.CompletedProcess[str]":
    """Runs it to its end. It never shows the key, nor where in its code something broke."""
    process = start(*arguments, key=key)
    out, err = process.communicate(timeout=60)
    assert KEY not in out + err
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def measure(folder: Path, *arguments: object, status: int = 0) -> Results:
    """Runs a test that ends with this status: its results."""
    file = folder / "results.json"
    done = run(*arguments, "--json", file)
    assert done.returncode == status, done.stderr
    assert KEY not in file.read_text()
    return results.read(file)
