"""`python -m loadtest.bench.rivals`: a line for runlane and for each library, with its jobs per second."""

import argparse
import contextlib
import statistics

from loadtest.bench.environment import NotMeasuredError, tcp_store
from loadtest.bench.rivals.measuring import OURS, measure
from loadtest.bench.rivals.table import RIVALS


def main() -> None:
    """Measures all of them, in turn."""
    options = _options()
    found: dict[str, list[float]] = {name: [] for name in options.only}
    with contextlib.ExitStack() as stack:
        store = options.store or stack.enter_context(tcp_store())
        for _ in range(options.rounds):
            for name, figures in found.items():
                try:
                    figures.append(measure(name, store, options.count))
                except NotMeasuredError as error:
                    print(f"{name} failed: {error}", flush=True)
    for name, figures in found.items():
        version, setting = (RIVALS[name].version, RIVALS[name].setting) if name in RIVALS else ("", "64 at once")
        jobs = f"{statistics.median(figures):,.0f} jobs/s" if figures else "failed"
        print(f"{name:<9} {version:<7} {jobs:>14}   {setting}")
    if failed := [name for name, figures in found.items() if not figures]:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.rivals", description=__doc__)
    parser.add_argument("--store", help="URL of an empty store (default: one of its own, over TCP on loopback)")
    parser.add_argument("--count", type=int, default=20_000, help="jobs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="the median of so many is shown (default: %(default)s)")
    parser.add_argument("--only", type=_names, default=[OURS, *RIVALS], help="for example: saq,arq,runlane")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - {OURS, *RIVALS}:
        raise argparse.ArgumentTypeError(f"no such library: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
