"""Whether two series differ by more than chance."""

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

LEAST_SECONDS = 10
"""Of fewer, nothing is known about how alike those are that follow each other."""


def p_value(one: Sequence[float], two: Sequence[float], alike: float = 0.0) -> float:
    """Of the two-sided Mann-Whitney U test, by the normal approximation with the correction for ties; 1 without values.

    Mann, H. B. and Whitney, D. R., Annals of Mathematical Statistics 18 (1947) 50-60.

    Args:
        alike: the correlation of each value with the next one, less than 1, where they are not independent. They count
            for less then: for as many as independent ones would make a mean as uncertain. Bayley, G. V. and Hammersley,
            J. M., Supplement to the Journal of the Royal Statistical Society 8 (1946) 184-197.
    """
    if not one or not two:
        return 1.0
    ranked = sorted([(value, True) for value in one] + [(value, False) for value in two])
    total, at, ranks, ties = len(ranked), 0, 0.0, 0
    while at < total:
        end = at
        while end < total and ranked[end][0] == ranked[at][0]:
            end += 1
        ranks += sum(is_one for _, is_one in ranked[at:end]) * (at + 1 + end) / 2
        ties += (end - at) ** 3 - (end - at)
        at = end
    product = len(one) * len(two)
    excess = ranks - len(one) * (len(one) + 1) / 2 - product / 2
    spread = math.sqrt(max(0.0, product / 12 * (total + 1 - ties / (total * (total - 1)))))
    spread *= math.sqrt((1 + alike) / (1 - alike))
    return 2 * statistics.NormalDist().cdf(-abs(excess) / spread) if spread else 1.0


def p_value_of_series(one: Sequence[float], two: Sequence[float]) -> float:
    """The same of values that follow each other, as those of the seconds of two tests; 1 when these are too few."""
    if min(len(one), len(two)) < LEAST_SECONDS:
        return 1.0
    return p_value(one, two, max(0.0, _likeness(one), _likeness(two)))


def _likeness(values: Sequence[float]) -> float:
    """The correlation of each value's rank with the next one's, less than 1; 0 when all are equal. In a short series it
    comes out too small, by what is added: Marriott, F. H. C. and Pope, J. A., Biometrika 41 (1954) 390-402."""
    order = sorted(values)
    ranks = [bisect_left(order, value) + bisect_right(order, value) for value in values]
    mean = statistics.fmean(ranks)
    around = [rank - mean for rank in ranks]
    power = sum(value * value for value in around)
    if not power:
        return 0.0
    found = sum(value * following for value, following in itertools.pairwise(around)) / power
    return min(0.99, found + (1 + 3 * found) / len(values))
