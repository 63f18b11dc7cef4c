"""What came of a load test: the JSON file that `--json` writes. README.md describes it; a change that readers of older
files would stumble over has another `schema_version`."""

from pathlib import Path

import msgspec

from .errors import NotUsable
from .histogram import Histogram, Percentiles
from .plan import Plan

SCHEMA_VERSION = 1


class Timing(Percentiles, frozen=True, kw_only=True):
    """All times of one kind. `histogram`: HdrHistogram's V2, compressed, in base64, in us."""

    histogram: str

    @classmethod
    def of(cls, histogram: Histogram) -> "Timing":
        """Of a histogram."""
        return cls(histogram=histogram.encode(), **msgspec.structs.asdict(histogram.percentiles()))


class ErrorClass(msgspec.Struct, frozen=True, kw_only=True):
    """Operations that failed in one way. `example`: what the server said to one of them."""

    count: int
    example: str = ""


class Second(msgspec.Struct, kw_only=True):
    """A second of the test, from the end of the warm-up on; those behind `duration`, if any, only wait for what is
    unfinished.
    An operation counts in `offered` by its intended time, and in the rest by its end."""

    second: int
    offered: int = 0
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    open: int = 0
    errors: dict[str, int] = {}
    counts: dict[str, int] = {}
    timings: dict[str, Percentiles] = {}


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums. Rates are per second; `throughput` is of operations that succeeded within `seconds`, `counted_rates` of
    jobs, chunks and tokens; `error_share` is of all that ended, 0 to 1; `retry_after_seconds`: the longest that a 429
    said to wait."""

    seconds: float
    offered: int
    sent: int
    succeeded: int
    failed: int
    abandoned: int
    offered_rate: float
    throughput: float
    error_share: float
    counts: dict[str, int]
    counted_rates: dict[str, float]
    retry_after_seconds: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a test: a step of a ramp, or a quarter. Rates are per second, times in ms."""

    begin: int
    seconds: float
    offered_rate: float
    throughput: float
    error_share: float
    p50: float
    p99: float


class Step(Part, frozen=True, kw_only=True):
    """Of a ramp. `trouble`: why answers did not keep up, or ""."""

    trouble: str


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """`knee`: the highest rate at which answers kept up; None when they did at none. `reached`: whether a step came at
    which they did not. `p99_bound` is in ms."""

    steps: list[Step]
    knee: float | None
    reached: bool
    p99_bound: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The first and the last quarter of a soak."""

    first: Part
    last: Part


class Generator(msgspec.Struct, frozen=True, kw_only=True):
    """The tool itself. `bottleneck`: why it was one, or []; `busy`: the processor's share that its busiest process had,
    0 to 1; `processors`: of the machine; `lost`: how many of its processes have ended before their time."""

    version: str
    processors: int
    busy: float
    bottleneck: list[str]
    lost: int = 0


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said before the test. `workers`: by state."""

    url: str
    workers: dict[str, int] = {}


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    schema_version: int = SCHEMA_VERSION
    started_at: str
    interrupted: bool
    parameters: Plan
    server: Server
    totals: Totals
    timings: dict[str, Timing]
    errors: dict[str, ErrorClass]
    series: list[Second]
    ramp: Ramp | None = None
    drift: Drift | None = None
    generator: Generator


class _Versioned(msgspec.Struct):
    schema_version: int


def read(path: Path) -> Results:
    """Results that were written.

    Raises:
        NotUsable: the file cannot be read, or is none of ours.
    """
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise NotUsable(f"{path} has the schema {version}; this version of the tool reads {SCHEMA_VERSION}")
        results = msgspec.json.decode(content, type=Results)
        for timing in results.timings.values():
            Histogram.decode(timing.histogram)
    except OSError as error:
        raise NotUsable(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # msgspec's errors are such, too
        raise NotUsable(f"{path} is not what --json writes: {error}") from None
    return results


def write(results: Results, path: Path) -> None:
    """Writes them.

    Raises:
        NotUsable: it cannot.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    except OSError as error:
        raise NotUsable(f"cannot write {path}: {error.strerror}") from None
