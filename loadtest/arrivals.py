"""When the operations of an open loop are to be sent."""

import math
import random
from collections.abc import Iterator

from .plan import Plan

ROUNDING = 1e-9
"""More than what is lost in computing with fractions."""


def times(plan: Plan) -> Iterator[float]:
    """Seconds from the begin, in order. All processes make the same sequence, and each takes its share of it."""
    begin = 0.0
    generator = random.Random(plan.seed)
    for rate, seconds in plan.phases:
        end = begin + seconds
        if plan.arrivals == "poisson":
            yield from _poisson(generator, rate, begin, end)
        elif plan.arrivals == "burst":
            yield from _bursts(rate, plan.period, plan.warm_up, end)
        else:
            yield from _constant(rate, begin, end)
        begin = end


def _constant(rate: float, begin: float, end: float) -> Iterator[float]:
    number = 0
    while (at := begin + number / rate) < end:
        yield at
        number += 1


def _poisson(generator: random.Random, rate: float, begin: float, end: float) -> Iterator[float]:
    at = begin
    while (at := at + generator.expovariate(rate)) < end:
        yield at


def _bursts(rate: float, period: float, warm_up: float, end: float) -> Iterator[float]:
    """One comes when the warm-up ends. Where no whole number makes the rate, some have one operation more."""

    def before(number: int) -> int:
        return math.ceil(number * rate * period - ROUNDING)

    number = -math.floor(warm_up / period + ROUNDING)
    while (at := warm_up + number * period) < end:
        yield from [max(0.0, at)] * (before(number + 1) - before(number))
        number += 1
