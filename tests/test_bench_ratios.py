"""Statistics of measurements that took turns."""

from __future__ import annotations

import pytest

from swarm.bench.fairness import gaps
from swarm.bench.ratios import divergences, per_hop, percentile, ratio, stall
from swarm.bench.timed import Timed
from swarm.bench.turns import Turns


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    found = ratio([10.0, 2.0, 30.0], [20.0, 1.0, 10.0])
    assert found.rounds == (0.5, 2.0, 3.0)
    assert found.median == 2.0
    assert found.spread == "0.50-3.00"


def test_rounds_that_are_not_pairs_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_what_a_hop_adds_is_shared_among_the_hops_after_the_first() -> None:
    assert per_hop([1.0, 5.0, 2.0], [3.0, 6.0, 8.0], hops=3) == (1.0, 0.5, 3.0)


def test_a_stall_is_the_longest_gap_less_the_usual_one() -> None:
    assert stall([0.0, 0.1, 0.2, 1.3, 1.4]) == pytest.approx(1.0)


def test_only_the_first_flip_of_a_sequence_counts() -> None:
    assert divergences([[1, 2, 3], [1, 9, 9], [7, 8, 9]], [(1, 2, 3), (1, 2, 3), (7, 8, 0)]) == 2


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([5.0, 1.0, 3.0, 4.0, 2.0], 60) == 3.0
    assert percentile(list(range(1, 201)), 99) == 198
    assert percentile([7.0], 99) == 7.0


def test_gaps_count_while_the_disturbance_lasts() -> None:
    runs = [Timed(100.0, (1, 2, 3), (1.0, 2.0, 4.0)), Timed(101.0, (1, 2), (1.0, 1.5))]
    assert gaps(runs) == [1.0, 2.0, 0.5]
    assert gaps(runs, until=101.5) == [1.0]


def test_each_swarm_has_its_own_median() -> None:
    assert Turns((), swarms=2, problems=()).by_swarm([1.0, 2.0, 9.0, 5.0, 4.0, 6.0]) == [2.0, 5.0]
