"""`make bench`: starts everything itself, on loopback, and prints one table of ratios; writes bench.json."""

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from . import accepting, answering, batches, draining, flatness, large, parked, relaying, storing, streaming, waiting
from .environment import HERE, NotMeasuredError, say
from .measurement import Measurement, Tree, take
from .table import Outcome, shown, write

MEASUREMENTS: list[Measurement] = [
    *accepting.MEASUREMENTS,
    *answering.MEASUREMENTS,
    *batches.MEASUREMENTS,
    *draining.MEASUREMENTS,
    *streaming.MEASUREMENTS,
    *relaying.MEASUREMENTS,
    *waiting.MEASUREMENTS,
    *parked.MEASUREMENTS,
    *storing.MEASUREMENTS,
    *flatness.MEASUREMENTS,
    *large.MEASUREMENTS,
]


def main() -> None:
    """Takes the measurements that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--base", default="", metavar="REV", help="a revision to compare with, in turn: A B A B")
    parser.add_argument("--only", default="", metavar="NAMES", help="of these alone, separated by commas")
    parser.add_argument("--rounds", type=int, help="how many of each, in place of what each says")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go")
    given = parser.parse_args()
    chosen = _chosen(given.only)
    with _trees(given.base) as trees:
        outcomes: list[Outcome] = []
        failed: list[str] = []
        try:
            for measurement in chosen:
                try:
                    outcomes += _taken(measurement, list(trees.values()), given.rounds)
                except Exception as error:
                    _say_why(measurement, error)
                    failed.append(measurement.name)
        finally:  # also when it is interrupted
            if outcomes:
                write(outcomes, list(trees), given.json)
                print(shown(outcomes))
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _chosen(names: str) -> list[Measurement]:
    by_name = {measurement.name: measurement for measurement in MEASUREMENTS}
    if unknown := set(filter(None, names.split(","))) - by_name.keys():
        raise SystemExit(f"no such measurement: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names.split(",")] if names else MEASUREMENTS


def _taken(measurement: Measurement, trees: list[Tree], rounds: int | None) -> list[Outcome]:
    began = time.monotonic()
    found = take(measurement, trees, rounds or measurement.rounds)
    say(f"{measurement.name}: {time.monotonic() - began:.0f} s")
    return [(name, [results[name] for results in found]) for name in measurement.rows]


def _say_why(measurement: Measurement, error: Exception) -> None:
    """Why it is not measured: in the error's words, or where it was raised if nobody expected it."""
    if isinstance(error, NotMeasuredError):
        say(f"{measurement.name} is not measured: {error}")
    else:
        traceback.print_exception(error)
        say(f"{measurement.name} is not measured, as said above")


@contextlib.contextmanager
def _trees(base: str) -> Iterator[dict[str, Tree]]:
    """The checkouts by the names of their revisions: this one, and that of `base` if there is one."""
    trees = {_git("describe", "--always", "--dirty"): HERE}
    if not base:
        yield trees
        return
    revision = _git("rev-parse", "--verify", f"{base}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="runlane-base-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), revision)
        try:
            # Its worker runs this one's handlers, with what they import.
            shutil.rmtree(tree / "loadtest", ignore_errors=True)
            (tree / "loadtest").symlink_to(HERE / "loadtest")
            yield {**trees, revision: tree}
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout.strip()


if __name__ == "__main__":
    main()
