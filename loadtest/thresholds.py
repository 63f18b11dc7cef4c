"""What `--fail-if` says, such as `p99 > 200ms`, `errors > 1%`, `throughput < 500`, `first_token.p90 > 1s`.

In a comparison a value with a sign is a change: `p99 > +10%`.
"""

import operator
import re
from collections.abc import Callable

import msgspec

from .errors import MEANINGS
from .results import Results
from .timings import LATENCY, TIMINGS

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
STATISTICS = ("count", "mean", "p50", "p90", "p99", "p99.9", "max")
TOTALS = ("errors", "throughput", "offered", "knee")
MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}

_FORM = re.compile(
    r"\s*(?P<metric>[a-z_0-9.]+)\s*(?P<operator>[<>]=?)\s*(?P<value>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>[a-z%/]*)\s*"
)
_HTTP = re.compile(r"http_\d{3}")


class Threshold(msgspec.Struct, frozen=True):
    """A condition that fails a test. `value` is in the metric's own unit (ms, a share of 1, per second); of a change
    it is a share, too."""

    text: str
    metric: str
    operator: str
    value: float
    is_change: bool = False

    def missed(self, results: Results, before: Results | None = None) -> str | None:
        """A line that says by how much, or None. What was not measured is missed.

        Args:
            before: what a change is of.
        """
        found = measured(results, self.metric)
        if found is None:
            return f"{self.text}: there is no {self.metric}"
        if not self.is_change:
            if not OPERATORS[self.operator](found, self.value):
                return None
            return f"{self.text}: {self.metric} is {shown(self.metric, found)}{self._by(found)}"
        earlier = measured(before, self.metric) if before is not None else None
        if earlier is None:
            return f"{self.text}: there was no {self.metric} before"
        change = changed(earlier, found)
        if not OPERATORS[self.operator](change, self.value):
            return None
        return f"{self.text}: {shown(self.metric, earlier)} became {shown(self.metric, found)}, {change:+.1%}"

    def _by(self, found: float) -> str:
        if not self.value:
            return ""
        return f", {abs(found / self.value - 1):.1%} {'over' if found > self.value else 'under'}"


def parse(text: str, may_change: bool = False) -> Threshold:
    """Reads one.

    Args:
        may_change: whether there is something that a change can be of.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not like 'p99 > 200ms', 'errors > 1%' or 'throughput < 500'")
    metric, value, unit = found["metric"], float(found["value"]), found["unit"]
    kind = _kind(metric)
    if kind is None:
        raise ValueError(
            f"{text!r}: there is no {metric!r}; there are {', '.join((*STATISTICS, *TOTALS))}, errors.CLASS, "
            f"and TIMING.p99 with TIMING one of {', '.join(TIMINGS)}"
        )
    is_change = found["value"][0] in "+-"
    if is_change:
        if not may_change or unit != "%":
            raise ValueError(f"{text!r}: a value with a sign is a change in %, for `compare`")
        return Threshold(text, metric, found["operator"], value / 100, is_change=True)
    units = {"time": MS, "share": {"%": 0.01, "": 1.0}, "rate": {"": 1.0, "/s": 1.0}, "number": {"": 1.0}}[kind]
    if unit not in units:
        raise ValueError(f"{text!r}: {metric} needs a unit, {' or '.join(filter(None, units))}" if kind == "time" else
                         f"{text!r}: {metric} is not in {unit!r}")  # fmt: skip
    value *= units[unit]
    if kind == "share" and (value > 1 or (value == 1 and found["operator"] == ">")):
        raise ValueError(f"{text!r}: {metric} is a share of the operations, such as 5% or 0.05")
    return Threshold(text, metric, found["operator"], value)


def _kind(metric: str) -> str | None:
    name, _, rest = metric.partition(".")
    if name == "errors":
        known = not rest or rest in MEANINGS or _HTTP.fullmatch(rest)
        return "share" if known else None
    if metric in TOTALS:
        return "rate"
    timing, statistic = _split(metric)
    if timing not in TIMINGS or statistic not in STATISTICS:
        return None
    return "number" if statistic == "count" else "time"


def _split(metric: str) -> tuple[str, str]:
    if metric in STATISTICS:
        return LATENCY, metric
    timing, _, statistic = metric.partition(".")
    return timing, statistic


def measured(results: Results, metric: str) -> float | None:
    """A metric in its own unit, or None where there are no values."""
    totals = results.totals
    name, _, rest = metric.partition(".")
    if name == "errors":
        ended = totals.succeeded + totals.failed
        count = totals.failed if not rest else results.errors[rest].count if rest in results.errors else 0
        return count / ended if ended else None
    if metric == "throughput":
        return totals.throughput
    if metric == "offered":
        return totals.offered_rate
    if metric == "knee":
        return results.ramp.knee if results.ramp is not None else None
    timing, statistic = _split(metric)
    found = results.timings.get(timing)
    if found is None or not found.count:
        return None
    return float(getattr(found, statistic.replace(".", "_")))


def changed(before: float, after: float) -> float:
    """The change as a share of what was before; infinite when that was nothing."""
    if before:
        return after / before - 1
    return 0.0 if not after else float("inf")


def shown(metric: str, value: float) -> str:
    """With its unit."""
    return {
        "time": f"{value:,.1f} ms" if value >= 10 else f"{value:,.2f} ms",
        "share": f"{value:.2%}",
        "rate": f"{value:,.1f}/s",
    }.get(_kind(metric) or "", f"{value:,.0f}")
