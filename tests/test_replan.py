"""A session that runs goes to better peers between two steps: only for a clear gain, not often, and exactly."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.routing.replan import ALARM_S, LOOK_AHEAD, PERIOD_S, Decline, Occasions, Switch
from tests.in_process import Lab
from tests.shard_lab import left_padded, prompt


@pytest.mark.parametrize(
    ("switch", "is_worthwhile"),
    [
        (Switch(now_s=0.1, best_s=0.01, steps_left=100, replay_s=1.0), True),
        (Switch(now_s=0.1, best_s=0.01, steps_left=10, replay_s=1.0), False),
        (Switch(now_s=0.1, best_s=0.01, steps_left=10**9, replay_s=LOOK_AHEAD * 0.05), False),
        (Switch(now_s=0.1, best_s=0.07, steps_left=100, replay_s=0.0), False),
        (Switch(now_s=0.002, best_s=0.0005, steps_left=100, replay_s=0.0), False),
        (Switch(now_s=0.1, best_s=0.2, steps_left=100, replay_s=0.0), False),
        (Switch(now_s=0.1, best_s=0.01, steps_left=0, replay_s=0.0), False),
    ],
)
def test_only_a_clear_gain_over_the_cost_is_worth_it(switch: Switch, is_worthwhile: bool) -> None:
    assert switch.is_worthwhile is is_worthwhile


def test_the_next_look_comes_sooner_when_a_hop_has_become_slow_but_never_at_once() -> None:
    occasions = Occasions(100.0)
    assert not occasions.is_due(True, 100.0 + 0.9 * ALARM_S)
    assert occasions.is_due(True, 100.0 + ALARM_S)
    assert not occasions.is_due(False, 100.0 + 0.9 * PERIOD_S)
    assert occasions.is_due(False, 100.0 + PERIOD_S)
    occasions.looked(106.0)
    assert not occasions.is_due(True, 106.5)


def test_a_hop_that_takes_more_than_twice_its_best_time_has_become_slow() -> None:
    decline = Decline()
    assert not decline.seen({"a": 0.010, "b": 0.0})
    assert not decline.seen({"a": 0.019, "b": 0.5})
    assert decline.seen({"a": 0.021, "b": 0.5})
    assert not decline.seen({"a": 0.005, "b": 0.5})
    assert decline.seen({"a": 0.012, "b": 0.5})


def test_less_than_two_milliseconds_more_are_noise() -> None:
    decline = Decline()
    assert not decline.seen({"a": 0.0001})
    assert not decline.seen({"a": 0.0020})
    assert decline.seen({"a": 0.0022})


def serve_pairs(lab: Lab) -> None:
    """Two peers for each of three spans; capitals are chosen first, the others are hardly worse."""
    for name, start, end in (("A", 0, 2), ("B", 2, 4), ("C", 4, 6)):
        lab.serve(name, start, end)
        lab.serve(name.lower(), start, end, cost=0.002)


def slow(lab: Lab, *names: str) -> None:
    """From the fourth call on, these peers take 1.4 s for each step."""

    async def act() -> None:
        for name in names:
            lab.peers[name].executor.slow_s = 1.4

    lab.before_call[4] = act


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["A", "B", "C"])
@pytest.mark.parametrize(
    "way",
    [{"input_ids": prompt()}, left_padded(), {"input_ids": prompt(), "num_beams": 3}],
    ids=["plain", "batch", "beams"],
)
def test_a_session_leaves_a_peer_that_has_become_slow(victim: str, way: Any) -> None:
    with Lab() as lab:
        serve_pairs(lab)
        slow(lab, victim)
        lab.check_exact(**way, max_new_tokens=60)
        assert lab.stats.replans >= 1
        assert lab.stats.failovers == 0
        assert lab.stats.replayed_tokens > 0
        spent = {name: peer.service.load.computed_tokens for name, peer in lab.peers.items()}
        assert spent[victim] < spent["A" if victim != "A" else "B"]


@pytest.mark.slow
def test_a_peer_that_says_itself_that_it_has_become_slow_is_left_as_soon() -> None:
    with Lab() as lab:
        serve_pairs(lab)

        async def get_slow() -> None:
            lab.peers["B"].executor.slow_s = 1.4
            lab.peers["B"].cost = 0.7
            await lab.shared.navigator.refresh()

        lab.before_call[4] = get_slow
        lab.check_exact(input_ids=prompt(), max_new_tokens=40)
        assert lab.stats.replans == 1
        spent = {name: lab.peers[name].service.load.computed_tokens for name in "AB"}
        assert spent["A"] - spent["B"] > 40 - 4 - 2, "at most two steps more"


@pytest.mark.slow
def test_two_peers_that_become_slow_are_left_one_after_the_other() -> None:
    with Lab() as lab:
        serve_pairs(lab)
        slow(lab, "A", "C")
        lab.check_exact(input_ids=prompt(), max_new_tokens=40)
        assert lab.stats.replans == 2
        assert lab.stats.failovers == 0


@pytest.mark.slow
def test_a_chain_of_one_peer_is_built_anew() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        lab.serve("a", 0, 6, cost=0.01)
        slow(lab, "A")
        lab.check_exact(input_ids=prompt(), max_new_tokens=24)
        assert (lab.stats.replans, lab.stats.failovers) == (1, 0)


@pytest.mark.slow
def test_nobody_moves_where_all_are_slow_or_nobody_else_is_there() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("a", 0, 3, cost=0.25)
        lab.serve("B", 3, 6)
        slow(lab, "A", "B")
        lab.check_exact(input_ids=prompt(), max_new_tokens=24)
        assert lab.stats.replans == 0


@pytest.mark.slow
def test_a_peer_that_has_become_much_better_gets_a_running_session() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6, cost=0.2)
        lab.peers["B"].executor.slow_s = 0.6

        async def improve() -> None:
            lab.peers["b"].cost = 0.001
            await lab.shared.navigator.refresh()

        lab.serve("b", 3, 6, cost=5.0)
        lab.before_call[4] = improve
        lab.check_exact(input_ids=prompt(), max_new_tokens=30)
        assert (lab.stats.replans, lab.stats.failovers) == (1, 0)
        assert lab.loop.time() - 1000.0 > PERIOD_S
