"""Parts that need no server."""

import io
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from loadtest import bottleneck, compare, conduct, inputs, key, page, ramp
from loadtest.arrivals import times
from loadtest.collector import Collector
from loadtest.endpoint import Job
from loadtest.errors import LONGEST_EXAMPLE, Failed, NotUsable
from loadtest.figures import Figure
from loadtest.histogram import Histogram, Percentiles
from loadtest.options import make_plan
from loadtest.recorder import Window
from loadtest.results import Generator, Results, Second, Server, Timing, Totals
from loadtest.scenarios import mixed
from loadtest.significance import p_value, p_value_of_series
from loadtest.tables import Table
from loadtest.terminal import Display
from loadtest.thresholds import parse

RUNPOD = "https://api.runpod.ai/v2/e"
OURS = "http://gpu.example/v2/e"


def histogram_of(*milliseconds: float) -> Histogram:
    histogram = Histogram()
    for value in milliseconds:
        histogram.record(value / 1000)
    return histogram


def results_of(histogram: Histogram, throughput: float = 10.0, seconds: int = 20) -> Results:
    totals = Totals(
        seconds=seconds, offered=200, sent=200, succeeded=190, failed=10, abandoned=0, offered_rate=10.0,
        throughput=throughput, error_share=0.05, counts={}, counted_rates={}, retry_after_seconds=0.0,
    )  # fmt: skip
    found = histogram.percentiles()
    generator = random.Random(1)
    series = [
        Second(second=number, succeeded=round(throughput), timings={"latency": Percentiles(
            count=10, p50=found.p50 + generator.random(), p99=found.p99 + generator.random())})
        for number in range(seconds)
    ]  # fmt: skip
    return Results(
        started_at="", interrupted=False, parameters=make_plan("run", url=OURS), server=Server(url=OURS), totals=totals,
        timings={"latency": Timing.of(histogram)}, errors={}, series=series,
        generator=Generator(version="", processors=1, busy=0.0, bottleneck=[]),
    )  # fmt: skip


def test_histograms_are_exact_to_a_thousandth_and_merge() -> None:
    histogram = Histogram.decode(histogram_of(*range(1, 501)).encode())
    histogram.add(histogram_of(*range(501, 1001)).encode())
    found = histogram.percentiles()
    assert found.count == 1000
    assert (found.p50, found.p90, found.p99, found.max) == pytest.approx((500, 900, 990, 1000), rel=0.001)
    assert found.mean == pytest.approx(500.5, rel=0.001)
    curve = list(histogram.curve())
    assert curve == sorted(curve)
    assert curve[-1][0] == 100
    with pytest.raises(ValueError, match="no histogram"):
        Histogram.decode("nonsense")


def test_times_out_of_range_count_as_the_nearest() -> None:
    found = histogram_of(-5, 1e9, 1.7e308).percentiles()
    assert (found.count, found.p50) == (3, pytest.approx(3_600_000, rel=0.001))
    assert found.max == pytest.approx(3_600_000, rel=0.001)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("knee < 5", "knee < 5: there is no knee"),
        ("p99 > 150ms", "p99 > 150ms: p99 is 200.1 ms, 33.4% over"),
        ("latency.p50 >= 0.1s", "latency.p50 >= 0.1s: latency.p50 is 100.0 ms, 0.0% over"),
        ("p99 > 0.3s", None),
        ("errors > 4%", "errors > 4%: errors is 5.00%, 25.0% over"),
        ("errors > 0.06", None),
        ("throughput < 20/s", "throughput < 20/s: throughput is 10.0/s, 50.0% under"),
        ("errors.http_429 > 0", None),
        ("job.p99 > 1s", "job.p99 > 1s: there is no job"),
    ],
)
def test_thresholds(text: str, says: str | None) -> None:
    found = parse(text).missed(results_of(histogram_of(100, 100, 200)))
    assert (found is None) == (says is None)
    assert says is None or (found is not None and found.startswith(says))


def test_changes_are_of_what_was_before() -> None:
    before, after = results_of(histogram_of(100)), results_of(histogram_of(125))
    missed = parse("p99 > +10%", may_change=True).missed(after, before)
    assert missed is not None
    assert missed.endswith("100.0 ms became 125.1 ms, +25.0%")
    assert parse("p99 > +10%", may_change=True).missed(before, after) is None
    assert parse("p99 < -10%", may_change=True).missed(before, after) is not None


def test_what_differs_by_more_than_chance_comes_first() -> None:
    before, after = results_of(histogram_of(100), 10.0), results_of(histogram_of(120), 10.0)
    lines = compare.compare(before, after)
    significant = [line.metric for line in lines if line.is_significant]
    assert significant == [line.metric for line in lines[: len(significant)]] == ["latency.p50", "latency.p99"]
    assert not any(line.is_significant for line in compare.compare(before, before))


def test_mann_whitney() -> None:
    assert p_value([1, 2, 3], []) == 1.0
    assert p_value([5, 5, 5], [5, 5, 5]) == 1.0
    assert p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(
        0.00902, abs=1e-5
    )  # as scipy's asymptotic method
    assert p_value([1, 4, 5], [2, 3, 6]) > 0.5


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9])
def test_seconds_that_are_alike_do_not_differ_by_that(likeness: float) -> None:
    """Each value has so much of the one before: of pairs from one such process, one in a hundred seems to differ."""
    generator = random.Random(5)

    def series() -> list[float]:
        values = [generator.gauss()]
        while len(values) < 60:
            values.append(likeness * values[-1] + (1 - likeness**2) ** 0.5 * generator.gauss())
        return values

    assert sum(p_value_of_series(series(), series()) < 0.01 for _ in range(200)) <= 6
    assert p_value_of_series(series(), [value + 4 for value in series()]) < 0.01
    assert p_value_of_series([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == 1.0


def test_a_perfect_server_has_no_knee_where_arrivals_are_at_random() -> None:
    """All that was due is answered in its step: in none of these is it ever less than the rate by chance."""
    knees = []
    for seed in range(30):
        plan = msgspec.structs.replace(make_plan("run", (10.0, 100.0), 10, url=OURS, arrivals="poisson"), seed=seed)
        collector = Collector(plan, ramp.parts(plan))
        for second, number in sorted(Counter(int(at) for at in times(plan)).items()):
            list(collector.add(0, Window(second=second, offered=number, sent=number, succeeded=number)))
        knees.append(ramp.judge(plan, collector.parts, ramp.due(plan), 100).knee)
    assert knees == [100.0] * 30


def test_what_a_soak_is_compared_by() -> None:
    """Of the sixteenths that were complete when it ended, the first and the last quarter."""
    plan = make_plan("soak", url=OURS, rate=1.0, duration=160.0)
    assert conduct._drift(plan, Collector(plan, conduct._parts(plan)), 0) is None
    collector = Collector(plan, conduct._parts(plan))
    for second in range(85):  # of 160: eight parts, of which two are a quarter
        list(collector.add(0, Window(second=second, succeeded=1 if second < 50 else 3)))
    drift = conduct._drift(plan, collector, 85)
    assert drift is not None
    assert [(part.begin, part.seconds, part.throughput) for part in (drift.first, drift.last)] == [
        (0, 20, 1.0), (60, 20, 3.0)
    ]  # fmt: skip
    assert conduct._parts(make_plan("soak", url=OURS, rate=1.0, duration=1.0)) == [range(1)]


def test_a_key_is_masked_before_a_text_is_cut() -> None:
    key = "rl-0123456789-0123456789-0123456789"
    assert Failed("http_500", "x" * 180 + key).told(key).example == "x" * 180 + "***"
    assert len(Failed("http_500", "x" * 1000).told(None).example) == LONGEST_EXAMPLE


def test_only_jobs_that_are_still_kept_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(mixed.time, "monotonic", lambda: now)
    known = mixed.Known(seed=1)
    assert known.draw() is None
    known.add(Job(id="old"))
    now += mixed.SECONDS_KNOWN
    known.add(Job(id="new"))
    assert {known.draw() for _ in range(50)} == {"old", "new"}
    now += 1
    assert {known.draw() for _ in range(50)} == {"new"}


@pytest.mark.parametrize(
    ("url", "variables", "found"),
    [
        (OURS, {"RUNLANE_API_KEY": "a", "RUNPOD_API_KEY": "b"}, "a"),
        (OURS, {"RUNPOD_API_KEY": "b"}, "b"),
        (OURS, {}, None),
        (RUNPOD, {"RUNLANE_API_KEY": "a", "RUNPOD_API_KEY": "b"}, "b"),
        (RUNPOD, {"RUNLANE_API_KEY": "a"}, None),
    ],
)
def test_which_key_goes_where(url: str, variables: dict[str, str], found: str | None) -> None:
    assert key.find(url, None, variables) == found


def test_a_key_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("\n")
    with pytest.raises(NotUsable, match="is no key"):
        key.find(OURS, file, {})
    with pytest.raises(NotUsable, match="RUNLANE_API_KEY is no key") as found:
        key.find(OURS, None, {"RUNLANE_API_KEY": "secret\n"})
    assert "secret" not in str(found.value)


def test_inputs_come_in_turn_or_alone(tmp_path: Path) -> None:
    lines, whole = tmp_path / "x.jsonl", tmp_path / "x.json"
    lines.write_text('{"a": 1}\n\n"two"\n')
    whole.write_text('{\n "a": 1\n}')
    assert [bytes(input) for input in inputs.load(f"@{lines}", "run")] == [b'{"a":1}', b'"two"']
    assert [bytes(input) for input in inputs.load(f"@{whole}", "run")] == [b'{"a":1}']
    assert len(inputs.load(None, "run")) == len(inputs.load(None, "openai")) == 1
    lines.write_text("\n")
    for given, operation in ((f"@{lines}", "run"), ("3", "openai"), (f"@{tmp_path}", "run")):
        with pytest.raises(NotUsable, match="--input"):
            inputs.load(given, operation)


def test_no_process_is_without_a_connection() -> None:
    plan = make_plan("run", url=OURS, connections=2, processes=8)
    assert (plan.processes, plan.is_closed) == (2, True)
    assert make_plan("run", url=OURS).rate == 10
    assert make_plan("run", url=OURS, rate=5.0, connections=2).is_closed is False


def test_the_tool_says_when_it_was_the_bottleneck() -> None:
    calm = {"late": histogram_of(1).percentiles(), "lag": histogram_of(1).percentiles()}
    assert bottleneck.reasons(calm, 0.01) == []
    assert bottleneck.reasons(calm, 0.25) == ["in 25% of the seconds a process was more than 90% busy"]
    late = calm | {"late": histogram_of(50).percentiles()}
    assert bottleneck.reasons(late, 0.0) == ["it came late to what was due: p99 is 50.0 ms"]


def test_one_busy_second_of_many_is_no_bottleneck() -> None:
    collector = Collector(make_plan("run", url=OURS, duration=300.0))
    for second in range(900):  # most of them only wait for what is unfinished
        list(collector.add(0, Window(second=second, busy=0.95 if second == 7 else 0.5)))
    assert (collector.busiest, collector.busy_share) == (0.95, 1 / 300)


def test_the_display_shows_the_newest_second() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(console, make_plan("run", url=OURS, duration=7.0)) as display:
        display.show(Second(second=2, offered=1234, failed=5))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 of 7 s" in shown
    assert "1,234/s" in shown
    assert "5/s" in shown


def test_a_page_escapes_all_that_it_is_given() -> None:
    bad = "<script>alert(1)</script>"
    figure = Figure(bad, [{"name": f"</template>{bad}"}], {})
    text = page.page(bad, [bad], [Table(bad, [bad], [[bad]], last_is_text=True)], [figure])
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert text.count("</template>") == 1
    assert len(text) < 2_500_000
