"""What is shown on a terminal, while a test runs and at its end."""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

import rich.box
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from gateway.commands.output import text

from .plan import Plan
from .results import Results, Second
from .tables import Table, headline, of_results, remarks
from .timings import DELAY, LATENCY

WIDTH_OF_A_FILE = 160
"""Where there is no terminal whose width would count."""


class Progress(Protocol):
    """Is given each second of a test when it is over; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
    def show(self, second: Second) -> None: ...


class Lines:
    """A line for each second."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def show(self, second: Second) -> None:
        """Prints it."""
        values = ", ".join(f"{name} {value}" for name, value in _figures(second).items())
        self._console.print(f"{second.second + 1} s: {values}", markup=False, highlight=False, soft_wrap=True)


class Display:
    """A table that is drawn anew each second."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._plan = plan
        self._end = plan.measured
        self._live = Live(
            Text("warming up …" if plan.warm_up else "beginning …"), console=console, transient=True, auto_refresh=False
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def show(self, second: Second) -> None:
        """Draws it."""
        drawn = RichTable(box=rich.box.SIMPLE, title=f"{self._plan.scenario} at {text(self._plan.url)}")
        figures = {"elapsed": f"{second.second + 1} of {self._end:.0f} s"} | _figures(second)
        figures["errors"] = f"{second.failed:,}/s"
        for name in figures:
            drawn.add_column(name, justify="right")
        drawn.add_row(*map(Text, figures.values()))
        self._live.update(drawn, refresh=True)


def progress(plan: Plan, quiet: bool) -> Progress:
    """What suits standard error."""
    console = Console(stderr=True)
    return Lines(console) if quiet or not console.is_terminal else Display(console, plan)


def summarize(results: Results) -> None:
    """Prints what came of a test."""
    console = _console()
    console.print(Text(text(headline(results)), style="bold"))
    print_tables(of_results(results), console)
    for remark in remarks(results):
        console.print(Text(text(remark), style="yellow"))


def print_tables(tables: Iterable[Table], console: Console | None = None) -> None:
    """Prints them one below the other."""
    console = console or _console()
    for table in tables:
        console.print()
        console.print(_drawn(table))
    console.print()


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_A_FILE)


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(
        title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD, show_edge=False, title_style="bold"
    )
    last = len(table.header) - 1
    for number, name in enumerate(table.header):
        is_text = table.last_is_text and number == last
        drawn.add_column(name, justify="left" if is_text or number == 0 else "right", no_wrap=not is_text)
    for number, row in enumerate(table.rows):
        cells = (Text(text(cell), no_wrap=True, overflow="ellipsis") for cell in row)
        drawn.add_row(*cells, style="bold" if number in table.marked else None)
    return drawn


def _figures(second: Second) -> dict[str, str]:
    latency, delay = second.timings.get(LATENCY), second.timings.get(DELAY)
    errors = ", ".join(f"{kind} {count:,}" for kind, count in second.errors.items())
    return {
        "offered": f"{second.offered:,}/s",
        "succeeded": f"{second.succeeded:,}/s",
        "p50": f"{latency.p50:,.1f} ms" if latency else "-",
        "p99": f"{latency.p99:,.1f} ms" if latency else "-",
        "delay p50": f"{delay.p50:,.0f} ms" if delay else "-",
        "open": f"{second.open:,}",
        "errors": errors or "0",
    }
