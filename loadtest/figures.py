"""Plots, as plotly's JavaScript takes them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .histogram import Histogram
from .results import Results, Second
from .timings import DELAY, EXECUTION, LATENCY, SERVICE

PERCENTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9"}
MARKS = (50, 90, 99, 99.9, 99.99, 99.999)
NEARLY_NOTHING = 1e-9

Trace = dict[str, Any]


class Figure(NamedTuple):
    """A plot. `data` and `layout`: https://plotly.com/javascript/reference/"""

    title: str
    data: list[Trace]
    layout: dict[str, Any]


def of_results(results: Results) -> list[Figure]:
    """The plots of one test for which there are values."""
    series = results.series
    figures = [
        _over_time("Throughput", "per second", [
            _trace("offered", series, lambda second: second.offered),
            _trace("succeeded", series, lambda second: second.succeeded),
            _trace("failed", series, lambda second: second.failed),
        ]),
        _over_time("Latency, from the intended time of sending", "ms", _percentiles(series, LATENCY), log=True),
        _over_time("Errors", "per second", [
            _trace(kind, series, _errors(kind), stackgroup="errors")
            for kind in results.errors
        ]),
        _over_time("Queue delay, as the server says", "ms", _percentiles(series, DELAY)),
        _over_time("Execution time, as the server says", "ms", _percentiles(series, EXECUTION)),
        _over_time("Unfinished operations", "", [_trace("open", series, lambda second: second.open)]),
        _by_percentile({"": results}),
    ]  # fmt: skip
    return [figure for figure in figures if figure.data]


def of_comparison(before: Results, after: Results) -> list[Figure]:
    """Both tests in each plot."""
    both = {"A ": before, "B ": after}
    return [
        _over_time("Throughput", "per second", [
            _trace(f"{name}succeeded", results.series, lambda second: second.succeeded)
            for name, results in both.items()
        ]),
        _over_time("p99 of the latency", "ms", [
            _trace(f"{name}p99", results.series, _percentile(LATENCY, "p99")) for name, results in both.items()
        ], log=True),
        _by_percentile(both),
    ]  # fmt: skip


def _trace(name: str, series: Iterable[Second], look: Callable[[Second], float | None], **more: Any) -> Trace:
    seconds = list(series)
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": [second.second for second in seconds],
        "y": [look(second) for second in seconds], **more,
    }  # fmt: skip


def _errors(kind: str) -> Callable[[Second], float | None]:
    return lambda second: second.errors.get(kind, 0)


def _percentile(timing: str, field: str) -> Callable[[Second], float | None]:
    def look(second: Second) -> float | None:
        found = second.timings.get(timing)
        return None if found is None else float(getattr(found, field))

    return look


def _percentiles(series: list[Second], timing: str) -> list[Trace]:
    if not any(timing in second.timings for second in series):
        return []
    return [_trace(name, series, _percentile(timing, field)) for name, field in PERCENTILES.items()]


def _over_time(title: str, unit: str, traces: list[Trace], log: bool = False) -> Figure:
    y = {"title": {"text": unit}, "type": "log"} if log else {"title": {"text": unit}, "rangemode": "tozero"}
    layout = _layout({"title": {"text": "second"}}, y)
    return Figure(title, traces, layout)


def _by_percentile(both: dict[str, Results]) -> Figure:
    traces: list[Trace] = []
    for prefix, results in both.items():
        for name in (LATENCY, SERVICE):
            if name in results.timings:
                curve = list(Histogram.decode(results.timings[name].histogram).curve())
                furthest = results.timings[name].count
                x = [min(furthest, 100 / max(NEARLY_NOTHING, 100 - percentile)) for percentile, _ in curve]
                y = [ms for _, ms in curve]
                traces.append({"type": "scatter", "mode": "lines", "name": prefix + name, "x": x, "y": y})
    ticks = {"tickvals": [100 / (100 - mark) for mark in MARKS], "ticktext": [f"{mark:g} %" for mark in MARKS]}
    layout = _layout(
        {"title": {"text": "percentile"}, "type": "log", **ticks}, {"title": {"text": "ms"}, "type": "log"}
    )
    return Figure("Latency by percentile", traces, layout)


def _layout(x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    return {
        "xaxis": x, "yaxis": y, "margin": {"l": 70, "r": 20, "t": 10, "b": 50}, "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.12},
    }  # fmt: skip
