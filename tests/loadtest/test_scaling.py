"""The model of how the work spreads over processes; what it is fed with is measured, and not here."""

import pytest

from loadtest.bench.scaling import Costs, Processes, best, busiest_share, limit

MANY = [f"e{number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("processes", "processors", "most"),
    [
        (Processes(1, 2, 4), 100, 0.5),  # the gateway
        (Processes(4, 1, 4), 100, 1.0),  # the store
        (Processes(4, 2, 1), 100, 0.25),  # the worker
        (Processes(4, 4, 16), 2, 0.25),  # they share two processors with what sends
    ],
)
def test_what_there_is_least_of_is_the_limit(processes: Processes, processors: int, most: float) -> None:
    costs = Costs(gateway=2, store=1, worker=4)
    assert limit(costs, 1, processes, processors, MANY) == pytest.approx(most, rel=0.1)


def test_without_workers_they_are_no_limit() -> None:
    assert limit(Costs(1, 1, 0), 0, Processes(1, 1, 0), 100, MANY) == 1


def test_an_endpoint_is_on_one_node() -> None:
    assert busiest_share(["one"], 3) == 1
    assert busiest_share(MANY, 1) == 1
    assert 1 / 3 < busiest_share(MANY, 3) < 0.4


def test_more_nodes_than_endpoints_keep_busy_are_not_chosen() -> None:
    assert best(Costs(2, 1, 1), 4, ["one"]) == (1, Processes(2, 1, 1))
    assert best(Costs(2, 1, 1), 40, ["one"])[0] == 1


def test_a_larger_machine_serves_more() -> None:
    rate, processes = best(Costs(2, 1, 1), 16, MANY)
    assert sum(processes) == 16
    assert 3 < rate <= 4
    assert best(Costs(2, 1, 1), 32, MANY)[0] > 1.8 * rate
