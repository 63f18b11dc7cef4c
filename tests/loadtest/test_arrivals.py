from itertools import islice, pairwise

import pytest

from loadtest.arrivals import times
from loadtest.plan import Arrivals, Plan


def plan_of(arrivals: Arrivals = "constant", rate: float = 100.0, **given: object) -> Plan:
    return Plan(url="http://h/v2/e", scenario="run", arrivals=arrivals, rate=rate, duration=10.0, **given)  # type: ignore[arg-type]


def test_constant() -> None:
    found = list(times(plan_of(warm_up=1.0)))
    assert len(found) == 1100
    assert found[:3] == [0.0, 0.01, 0.02]
    assert all(after - before == pytest.approx(0.01) for before, after in pairwise(found))


def test_poisson_has_the_rate_and_is_the_same_in_each_process() -> None:
    plan = plan_of("poisson", rate=1000.0, seed=7)
    found = list(times(plan))
    assert len(found) == pytest.approx(10_000, rel=0.05)
    assert found == sorted(found) == list(times(plan))
    gaps = [after - before for before, after in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)  # which only exponential gaps have


def test_bursts() -> None:
    found = list(times(plan_of("burst", rate=4.0, period=2.5)))
    assert found == [at for at in (0.0, 2.5, 5.0, 7.5) for _ in range(10)]
    assert set(times(plan_of("burst", rate=4.0, period=4.0, warm_up=5.0))) == {1.0, 5.0, 9.0, 13.0}
    assert next(times(plan_of("burst", rate=10.0, period=0.1, warm_up=0.3))) == 0.0


@pytest.mark.parametrize(("rate", "period"), [(50.0, 0.01), (250.0, 0.01), (0.5, 1.0), (1.4, 1.0)])
def test_bursts_have_the_rate_where_no_whole_number_makes_it(rate: float, period: float) -> None:
    found = list(times(plan_of("burst", rate=rate, period=period)))
    assert (len(found), found[0]) == (rate * 10, 0.0)


def test_a_ramp_is_one_rate_after_the_other() -> None:
    found = list(times(Plan(url="", scenario="run", ramp=(10.0, 20.0), step=2.0)))
    assert [sum(begin <= at < begin + 2 for at in found) for begin in (0, 2)] == [20, 40]


def test_the_shares_of_the_processes_are_the_whole() -> None:
    plan = plan_of("poisson", seed=3)
    shares = [list(islice(times(plan), index, None, 3)) for index in range(3)]
    assert sorted(at for share in shares for at in share) == list(times(plan))
