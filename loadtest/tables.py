"""Tables, for a terminal and for a page alike."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .compare import Line
from .errors import MEANINGS
from .plan import Plan
from .results import Part, Results
from .thresholds import shown
from .timings import TIMINGS


class Table(NamedTuple):
    """Texts; the first column, and the last if `last_is_text`, are aligned to the left. `marked`: rows that matter."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]
    last_is_text: bool = False
    marked: frozenset[int] = frozenset()


def of_results(results: Results) -> Iterator[Table]:
    """What there is to say, the most important first."""
    yield _totals(results)
    if results.totals.counts:
        yield _counts(results)
    yield _timings(results)
    if results.errors:
        yield _errors(results)
    if results.ramp is not None:
        header = ("rate", "throughput", "errors", "p50", "p99", "")
        rows = [
            [shown("throughput", step.offered_rate), *_of_part(step), step.trouble or "kept up"]
            for step in results.ramp.steps
        ]
        yield Table("Steps", header, rows, last_is_text=True)
    if results.drift is not None:
        parts = {"first quarter": results.drift.first, "last quarter": results.drift.last}
        rows = [[name, *_of_part(part)] for name, part in parts.items()]
        yield Table("Drift", ("", "throughput", "errors", "p50", "p99"), rows)


def of_comparison(lines: list[Line]) -> Table:
    """A line for each metric."""
    rows = [
        [line.metric, *("-" if value is None else shown(line.metric, value) for value in (line.before, line.after)),
         "-" if line.change is None else f"{line.change:+.1%}", "*" if line.is_significant else ""]
        for line in lines
    ]  # fmt: skip
    marked = frozenset(number for number, line in enumerate(lines) if line.is_significant)
    return Table("A and B", ("metric", "A", "B", "change", ""), rows, marked=marked)


def headline(results: Results) -> str:
    """What was tested, and how, in a line."""
    plan = results.parameters
    return f"{plan.scenario} at {plan.url}: {_load(plan)}, {plan.processes} process{'es'[: 2 * (plan.processes > 1)]}"


def remarks(results: Results) -> Iterator[str]:
    """What has to be known besides the figures."""
    if results.interrupted:
        yield "interrupted: this is what came until then"
    if results.generator.lost:
        yield (
            f"{results.generator.lost} of the {results.parameters.processes} processes that generated the load ended "
            "before their time (killed, perhaps for their memory?): what they had not told is missing"
        )
    if results.ramp is not None:
        yield _knee(results)
    if results.generator.bottleneck:
        yield (
            f"this tool was the bottleneck: {'; '.join(results.generator.bottleneck)}. "
            "The server may do better than this: use more --processes, or more machines"
        )
    if results.totals.retry_after_seconds:
        yield f"429 came with a Retry-After of up to {results.totals.retry_after_seconds:,.0f} s"


def _load(plan: Plan) -> str:
    if plan.ramp:
        return f"ramp from {plan.ramp[0]:g}/s to {plan.ramp[-1]:g}/s in {len(plan.ramp)} steps of {plan.step:g} s"
    if plan.is_closed:
        return f"closed loop of {plan.connections} connections for {plan.duration:g} s"
    bursts = f" in bursts every {plan.period:g} s" if plan.arrivals == "burst" else f" ({plan.arrivals})"
    return f"open loop at {plan.rate:g}/s{bursts} for {plan.duration:g} s"


def _knee(results: Results) -> str:
    ramp = results.ramp
    assert ramp is not None
    if ramp.knee is None:
        return "knee: below the first step" if ramp.steps else "knee: unknown, no step was completed"
    if not ramp.reached:
        return f"knee: not reached; answers kept up at {ramp.knee:,.0f}/s, the highest rate that was tried"
    return f"knee: {ramp.knee:,.0f}/s; at the next step {ramp.steps[-1].trouble}"


def _totals(results: Results) -> Table:
    totals = results.totals
    row = [
        shown("offered", totals.offered_rate), shown("throughput", totals.throughput), f"{totals.offered:,}",
        f"{totals.succeeded:,}", f"{totals.failed:,}", shown("errors", totals.error_share), f"{totals.abandoned:,}",
    ]  # fmt: skip
    header = ("offered", "throughput", "operations", "succeeded", "failed", "errors", "abandoned")
    return Table("Totals", header, [row])


def _counts(results: Results) -> Table:
    totals = results.totals
    rows = [
        [name, f"{count:,}", shown("throughput", totals.counted_rates.get(name, 0.0))]
        for name, count in totals.counts.items()
    ]
    return Table("Counts", ("", "in all", "rate"), rows)


def _timings(results: Results) -> Table:
    rows = [
        [name, f"{found.count:,}", *(f"{value:,.2f}" for value in
         (found.mean, found.p50, found.p90, found.p99, found.p99_9, found.max)), meaning]
        for name, meaning in TIMINGS.items() if (found := results.timings.get(name))
    ]  # fmt: skip
    header = ("ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max", "")
    return Table("Times", header, rows, last_is_text=True)


def _errors(results: Results) -> Table:
    ended = max(1, results.totals.succeeded + results.totals.failed)
    rows = [
        [kind, f"{each.count:,}", f"{each.count / ended:.2%}", "; for example: ".join(filter(None, (
            MEANINGS.get(kind, "an answer with this status"), each.example)))]
        for kind, each in results.errors.items()
    ]  # fmt: skip
    return Table("Errors", ("class", "count", "share", ""), rows, last_is_text=True)


def _of_part(part: Part) -> list[str]:
    values = {"throughput": part.throughput, "errors": part.error_share, "p50": part.p50, "p99": part.p99}
    return [shown(metric, value) for metric, value in values.items()]
