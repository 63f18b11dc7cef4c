"""The options of the commands, and how what is given becomes a plan."""

import functools
import math
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from yarl import URL

from gateway.durations import parse_duration

from . import ramp
from .plan import WEIGHTS, Plan
from .thresholds import Threshold, parse

DEFAULT_RATE = 10.0
RATE_OF_A_PROCESS = 3000
CONNECTIONS_OF_A_PROCESS = 32
BURST_OF_A_PROCESS = 100

Command = Callable[..., Any]


class Seconds(click.ParamType[float]):
    """A duration as Go writes it, in seconds. `whole`: a whole number of them; `least`: the shortest."""

    name = "duration"

    def __init__(self, whole: bool = False, least: float = 0.0) -> None:
        self._whole = whole
        self._least = least

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value) / 1000
        except ValueError:
            self.fail(f"{value!r} is no duration such as 30s or 5m", parameter, context)
        if self._whole and seconds % 1:
            self.fail(f"{value!r} is no whole number of seconds", parameter, context)
        if seconds < self._least:
            self.fail(f"{value!r} is shorter than {self._least:g}s", parameter, context)
        return seconds


class Rate(click.ParamType[float]):
    """Operations per second."""

    name = "rate"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            rate = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number", parameter, context)
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is no rate, which is more than 0", parameter, context)
        return rate


class Range(click.ParamType[tuple[float, float]]):
    """Two rates, the lower one first."""

    name = "from:to"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            lowest, highest = (float(part) for part in value.split(":"))
        except ValueError:
            self.fail(f"{value!r} is no pair of rates such as 100:5000", parameter, context)
        if not 0 < lowest < highest < math.inf:
            self.fail(f"{value!r}: the rates are more than 0, the lower one first", parameter, context)
        return lowest, highest


class Weights(click.ParamType[dict[str, float]]):
    """Operations of a mixture and how often each is drawn."""

    name = "weights"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        try:
            pairs = [part.split("=") for part in value.split(",")]
            weights = {name.strip(): float(weight) for name, weight in pairs}
        except ValueError:
            self.fail(f"{value!r} is not like run=6,runsync=2", parameter, context)
        for name, weight in weights.items():
            if name not in WEIGHTS:
                self.fail(f"there is no {name!r} to mix, but {', '.join(WEIGHTS)}", parameter, context)
            if not 0 < weight < math.inf:
                self.fail(f"the weight of {name!r} is not more than 0", parameter, context)
        return weights


class Condition(click.ParamType[Threshold]):
    """A threshold."""

    name = "condition"

    def __init__(self, may_change: bool = False) -> None:
        self._may_change = may_change

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Threshold:
        if isinstance(value, Threshold):
            return value
        try:
            return parse(value, self._may_change)
        except ValueError as error:
            self.fail(str(error), parameter, context)


class OutputFile(click.Path):
    """A file to be written, in a folder that is there."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        folder = Path(value).parent
        if not os.fspath(value):
            self.fail("the name of the file is empty", parameter, context)
        if not Path(value).exists() and not os.access(folder, os.W_OK):
            self.fail(f"{folder} is no folder that can be written to", parameter, context)
        return super().convert(value, parameter, context)


def endpoint_url(_: click.Context, parameter: click.Parameter, value: str) -> str:
    """An endpoint's URL, without a slash at its end."""
    try:
        parts = URL(value)
    except ValueError as error:
        raise click.BadParameter(f"it is no URL: {error}", param=parameter) from None
    if parts.scheme not in ("http", "https") or not parts.host or parts.query_string or parts.fragment:
        raise click.BadParameter("it is not like https://HOST/v2/ENDPOINT", param=parameter)
    if parts.user is not None or parts.password is not None:
        raise click.BadParameter("it has a password in it; a key is given by RUNLANE_API_KEY or --key-file",
                                 param=parameter)  # fmt: skip
    return value.rstrip("/")


html_option = click.option("--html", type=OutputFile(), metavar="FILE", help="Write a page with plots.")

COMMON = (
    click.argument("url", metavar="URL", callback=endpoint_url),
    click.option("--input", "given_input", metavar="JSON|@FILE",
                 help="The job's input, or @FILE with it; of @FILE.jsonl each line in turn."),
    click.option("--duration", type=Seconds(whole=True, least=1), default="30s", show_default=True,
                 help="How long operations are sent, after the warm-up."),
    click.option("--warm-up", type=Seconds(), default="0s", show_default=True, help="Sent before, and not counted."),
    click.option("--timeout", type=Seconds(least=0.001), default="60s", show_default=True,
                 help="For one operation, with its job if that is followed."),
    click.option("--processes", type=click.IntRange(1), help="Processes that send.  [default: by load and processors]"),
    click.option("--most-open", type=click.IntRange(1), default=5000, show_default=True,
                 help="Unfinished operations at once; what is due beyond that is not sent, which is an error."),
    click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE",
                 help="A file with the key.  [else RUNLANE_API_KEY, RUNQY_API_KEY, RUNPOD_API_KEY]"),
    click.option("--json", "json_file", type=OutputFile(), metavar="FILE", help="Write all results."),
    html_option,
    click.option("--fail-if", type=Condition(), multiple=True, metavar="CONDITION",
                 help="Exit with 1 then, as 'p99 > 200ms', 'errors > 1%', 'throughput < 500'; repeatable."),
    click.option("--quiet", is_flag=True, help="A plain line a second instead of a display."),
)  # fmt: skip

RATE = (
    click.option("--rate", type=Rate(), metavar="N",
                 help=f"Open loop: so many operations a second.  [default: {DEFAULT_RATE:g}]"),
)  # fmt: skip

ARRIVALS = (
    click.option("--arrivals", type=click.Choice(["constant", "poisson"]), default="constant", show_default=True,
                 help="How the operations of an open loop follow each other."),
)  # fmt: skip

LOADS = (
    *RATE,
    *ARRIVALS,
    click.option("--connections", type=click.IntRange(1), metavar="N",
                 help="Closed loop: so many clients, each of which waits for its answer. With a rate: so many "
                 "operations at once; what is due waits for one of them to end, and that counts in its latency."),
    click.option("--ramp", "ramp_range", type=Range(), metavar="FROM:TO",
                 help="Open loop whose rate rises in steps, until answers keep up no more."),
    click.option("--steps", type=click.IntRange(2), default=10, show_default=True, help="Steps of a ramp."),
    click.option("--step", type=Seconds(whole=True, least=1), default="10s", show_default=True,
                 help="Length of a step."),
    click.option("--knee-p99", type=Seconds(least=0.001),
                 help=f"Bound for a ramp's p99.  [default: {ramp.TIMES_FIRST_STEP} times that of its first step]"),
)  # fmt: skip

FOLLOW = (
    click.option("--follow/--no-follow", default=True, show_default=True,
                 help="Follow jobs by /status until they are final."),
)  # fmt: skip


def weights_option(**weights: float) -> Command:
    """The operations that are mixed."""
    default = ",".join(f"{name}={weight:g}" for name, weight in weights.items())
    return click.option("--weights", type=Weights(), default=default, show_default=True, help="What is sent how often.")


def with_options(*options: Command) -> Callable[[Command], Command]:
    """Gives a command these options, in their order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def make_plan(
    scenario: str,
    ramp_range: tuple[float, float] | None = None,
    steps: int = 2,
    processes: int | None = None,
    **given: Any,
) -> Plan:
    """The plan for what was given.

    Raises:
        click.UsageError: it does not go together.
    """
    _check_use(given, ramp_range is not None)
    if ramp_range is not None:
        given["ramp"] = ramp.rates(*ramp_range, steps)
    elif given.get("rate") is None and given.get("connections") is None:
        given["rate"] = DEFAULT_RATE
    plan = Plan(scenario=scenario, seed=random.randrange(2**32), **given)
    most = min(plan.most_open, plan.connections or plan.most_open)
    return msgspec.structs.replace(plan, duration=plan.measured, processes=min(most, processes or _processes(plan)))


def _check_use(given: Mapping[str, Any], is_ramp: bool) -> None:
    """Raises UsageError when an option was given that would do nothing."""
    weights = given.get("weights")
    is_closed = not is_ramp and given.get("rate") is None and given.get("connections") is not None
    useless = {
        "rate": "a --ramp has its own rates" if is_ramp else "",
        "duration": "a --ramp takes as long as its --steps" if is_ramp else "",
        "steps": "" if is_ramp else "it is for a --ramp",
        "step": "" if is_ramp else "it is for a --ramp",
        "knee_p99": "" if is_ramp else "it is for a --ramp",
        "arrivals": "a closed loop has none: give a --rate" if is_closed else "",
        "most_open": "a closed loop has no more than its --connections" if is_closed else "",
        "follow": "only `run` is followed, which is not in the mixture" if weights and "run" not in weights else "",
    }
    context = click.get_current_context(silent=True)
    for name, why in useless.items():
        if why and context and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')}: {why}")


def _processes(plan: Plan) -> int:
    """So many as the load needs, at most one for each processor."""
    if plan.is_closed:
        load = (plan.connections or 0) / CONNECTIONS_OF_A_PROCESS
    elif plan.arrivals == "burst":
        load = plan.highest_rate * plan.period / BURST_OF_A_PROCESS
    else:
        load = plan.highest_rate / RATE_OF_A_PROCESS
    return min(os.cpu_count() or 1, max(1, math.ceil(load)))
