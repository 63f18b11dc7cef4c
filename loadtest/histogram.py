"""Histograms of times: HdrHistogram with three significant digits, from 1 us to an hour.

Encoded ones are what HdrHistogram calls V2, compressed, in base64, which its libraries in other languages read.
"""

from collections.abc import Iterator

import msgspec
from hdrh.histogram import HdrHistogram

LONGEST_US = 3_600_000_000
DIGITS = 3
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """How times are distributed. All but `count` are in ms, and 0 where there are none."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p99_9: float = 0.0
    max: float = 0.0


class Histogram:
    """Times in seconds. One that is longer than an hour counts as an hour, a negative one as 0."""

    def __init__(self) -> None:
        self._values = HdrHistogram(1, LONGEST_US, DIGITS)

    @classmethod
    def decode(cls, encoded: str) -> "Histogram":
        """One that was encoded.

        Raises:
            ValueError: it was not.
        """
        histogram = cls()
        histogram.add(encoded)
        return histogram

    @property
    def count(self) -> int:
        """How many times there are."""
        return int(self._values.get_total_count())

    def record(self, seconds: float) -> None:
        """Adds a time."""
        self._values.record_value(round(min(LONGEST_US, max(0.0, seconds * 1e6))))

    def merge(self, other: "Histogram") -> None:
        """Adds those of another one."""
        self._values.add(other._values)

    def add(self, encoded: str) -> None:
        """Adds those of an encoded histogram.

        Raises:
            ValueError: it is none.
        """
        try:
            self._values.decode_and_add(encoded)
        except Exception as error:  # the library has no exceptions of its own
            raise ValueError(f"no histogram: {error}") from error

    def encode(self) -> str:
        """All of it, as text."""
        return str(self._values.encode(), "ascii")

    def percentiles(self) -> Percentiles:
        """Its percentiles, in ms."""
        if not self.count:
            return Percentiles()
        values = self._values.get_percentile_to_value_dict(list(PERCENTILES))
        p50, p90, p99, p99_9 = (_ms(values[percentile]) for percentile in PERCENTILES)
        return Percentiles(
            count=self.count, mean=_ms(self._mean()), p50=p50, p90=p90, p99=p99, p99_9=p99_9,
            max=_ms(self._values.get_max_value()),
        )  # fmt: skip

    def _mean(self) -> float:
        """In us. The library's own looks at each of its 23,552 counts, for 30 ms; most of them are 0."""
        values = self._values
        total = 0.0
        for index, count in enumerate(values.counts[:]):
            if count:
                lowest = values.get_value_from_index(index)
                total += count * (lowest + values.get_highest_equivalent_value(lowest)) / 2
        return total / self.count

    def curve(self) -> Iterator[tuple[float, float]]:
        """(percentile, ms) from the median to the longest, closer together towards the end."""
        for step in self._values.get_percentile_iterator(5):
            if step.percentile_level_iterated_to >= 50:
                yield step.percentile_level_iterated_to, _ms(step.value_iterated_to)


def _ms(microseconds: float) -> float:
    return round(microseconds / 1000, 3)
