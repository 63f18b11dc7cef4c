"""Whether two samples differ by more than chance."""

import math
import statistics
from collections.abc import Sequence


def p_value(one: Sequence[float], two: Sequence[float]) -> float:
    """Of the two-sided Mann-Whitney U test, by the normal approximation with the correction for ties; 1 without values.

    Mann, H. B. and Whitney, D. R., Annals of Mathematical Statistics 18 (1947) 50-60.
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
    return 2 * statistics.NormalDist().cdf(-abs(excess) / spread) if spread else 1.0
