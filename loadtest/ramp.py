"""A ramp's knee: the highest rate at which answers keep up."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from .arrivals import times
from .collector import Tally
from .plan import Plan
from .results import Ramp, Step

KEEPS_UP = 0.95
"""A step at which answers keep up has so much of the offered rate, at least."""

TIMES_FIRST_STEP = 10
"""The bound for p99 is so many times that of the first step, unless another was given."""


def rates(lowest: float, highest: float, steps: int) -> tuple[float, ...]:
    """From the lowest to the highest, in equal steps. `steps`: 2 or more."""
    return tuple(lowest + number * (highest - lowest) / (steps - 1) for number in range(steps))


def parts(plan: Plan) -> list[range]:
    """The seconds of each step."""
    seconds = round(plan.step)
    return [range(number * seconds, (number + 1) * seconds) for number in range(len(plan.ramp))]


def due(plan: Plan) -> list[float]:
    """How many operations are due per second in each step: at random, these are not quite the rates."""
    if plan.arrivals == "constant":
        return list(plan.ramp)
    steps = Counter(int((at - plan.warm_up) // plan.step) for at in times(plan))
    return [steps[number] / plan.step for number in range(len(plan.ramp))]


def judge(plan: Plan, tallies: Mapping[range, Tally], due: Sequence[float], told: int) -> Ramp:
    """What the ramp has shown so far. `due`: as of `due`; `told`: seconds of which all is known."""
    steps: list[Step] = []
    bound = plan.knee_p99 * 1000 if plan.knee_p99 else 0.0
    for rate, due_rate, (seconds, tally) in zip(plan.ramp, due, tallies.items(), strict=True):
        if seconds.stop > told:
            break
        part = tally.part(seconds.start, plan.step)
        bound = bound or part.p99 * TIMES_FIRST_STEP
        fields = msgspec.structs.asdict(part) | {"offered_rate": rate}
        steps.append(Step(trouble=_trouble(due_rate, part.throughput, part.p99, bound), **fields))
        if steps[-1].trouble:
            break
    kept_up = [step.offered_rate for step in steps if not step.trouble]
    reached = any(step.trouble for step in steps)
    return Ramp(steps=steps, knee=kept_up[-1] if kept_up else None, reached=reached, p99_bound=bound)


def _trouble(due_rate: float, throughput: float, p99: float, bound: float) -> str:
    if throughput < KEEPS_UP * due_rate:
        return f"only {throughput / due_rate:.1%} of what was due were answered well"
    if p99 > bound:
        return f"p99 was {p99:,.1f} ms, the bound is {bound:,.1f} ms"
    return ""
