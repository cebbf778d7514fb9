"""Simulated swarms: the same seed plays the same story, and nobody serves more than is possible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import ConfigError
from swarm.core.span import Span
from swarm.routing.balance import Goal
from swarm.routing.seats import Board, Seat
from swarm.sim.agenda import Agenda
from swarm.sim.callers import Callers
from swarm.sim.matrix import Matrix, in_order, outcomes
from swarm.sim.outcome import Outcome
from swarm.sim.petals import Petals, best_start
from swarm.sim.policy import POLICIES, make_policy
from swarm.sim.population import Population
from swarm.sim.scenario import SCENARIOS, Requests, Scenario, load_scenario
from swarm.sim.simulation import Run, Simulation
from swarm.sim.summary import reports

SMALL = {"n_layers": 16, "duration_s": 900.0, "steady_from_s": 200.0}


def small(name: str) -> Scenario:
    """A built-in scenario with fewer layers, played for a quarter of an hour."""
    story = load_scenario(name)
    events = tuple(
        event.model_copy(update={"at_s": event.at_s / 4, "within_s": event.within_s / 4})
        for event in story.events
    )
    return story.model_copy(update=SMALL | {"events": events})


def play(scenario: Scenario, policy: str, *, peers: int = 12, seed: int = 0, routed: bool = False) -> Outcome:
    return Simulation(Run(scenario, policy, peers, seed, routed), make_policy(policy, Goal())).play()


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_plays_the_same_story(policy: str) -> None:
    story = small("heavy_tail")
    assert play(story, policy, routed=True) == play(story, policy, routed=True)
    assert play(story, policy) != play(story, policy, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_serves_more_than_is_possible(name: str, policy: str) -> None:
    found = play(small(name), policy, seed=3, routed=True)
    assert found.samples
    for sample in found.samples:
        assert 0 <= sample.served <= sample.capacity * (1 + 1e-9)
        assert sample.capacity <= sample.best * (1 + 1e-9)
    assert found.ratio <= 1 + 1e-9
    assert found.bound_error < 1e-6
    assert 0 <= found.covered <= 1
    assert found.routed is None or 0 <= found.routed <= 1 + 1e-9


@pytest.mark.slow
def test_every_policy_meets_the_same_peers() -> None:
    story = small("slow_decay")
    ours, theirs, anywhere = (play(story, policy) for policy in POLICIES)
    for one, other in ((ours, theirs), (theirs, anywhere)):
        assert [s.peers for s in one.samples] == [s.peers for s in other.samples]


@pytest.mark.slow
def test_a_lost_region_is_healed() -> None:
    found = play(small("regional_loss"), "ours", peers=30)
    peers = [sample.peers for sample in found.samples]
    assert min(peers) <= 0.75 * max(peers)
    assert found.recovery is not None
    assert found.recovery > 0.9


@pytest.mark.slow
def test_a_swarm_that_loses_peers_moves_and_a_random_one_does_not() -> None:
    story = load_scenario("slow_decay")
    assert play(story, "ours", peers=40).moves > 0
    assert play(story, "random", peers=40).moves == 0


@pytest.mark.slow
def test_runs_on_several_cores_come_out_like_runs_on_one() -> None:
    matrix = Matrix((small("giant"), small("stragglers")), (8,), 2, ("ours", "random"))
    alone = in_order(list(outcomes(matrix, 1)), matrix)
    assert alone == in_order(list(outcomes(matrix, 2)), matrix)
    (report,) = reports(alone)
    assert [(row["scenario"], row["policy"], row["seeds"]) for row in report.rows] == [
        ("giant", "ours", 2),
        ("giant", "random", 2),
        ("stragglers", "ours", 2),
        ("stragglers", "random", 2),
    ]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from((0.0, 0.5, 1.0, 3.0)), min_size=1, max_size=9), st.integers(1, 9))
def test_petals_takes_the_lexicographically_smallest_window(rates: list[float], length: int) -> None:
    length = min(length, len(rates))
    windows = [sorted(rates[start : start + length]) for start in range(len(rates) - length + 1)]
    assert best_start(np.array(rates), length) == windows.index(min(windows))


@pytest.mark.parametrize(("front", "back", "span"), [(3, 1, Span(4, 8)), (5, 4, Span(0, 4))])
def test_petals_moves_only_if_the_weakest_layer_gains_a_third(front: int, back: int, span: Span) -> None:
    spans = [Span(0, 4)] * front + [Span(4, 8)] * back
    board = Board(8, tuple(Seat(f"p{n}", here, 10.0) for n, here in enumerate(spans)))
    assert Petals().review(board, "p0", 0.0, np.random.default_rng(0)) == span


def test_callers_share_what_is_served() -> None:
    callers = Callers(Requests(most_tokens_per_s=5.0, least_tokens_per_s=1.0))
    assert all(callers.call(tokens, 10.0) for tokens in (10.0, 20.0, 30.0))
    assert callers.served(10.0) == 10.0
    callers.advance(3.0, 10.0)
    assert (callers.sessions, callers.finished, round(callers.tokens, 6)) == (2, 1, 30.0)
    callers.advance(100.0, 1000.0)
    assert (callers.sessions, callers.finished, round(callers.tokens, 6)) == (0, 3, 60.0)


def test_callers_that_would_slow_all_others_down_are_refused() -> None:
    callers = Callers(Requests(least_tokens_per_s=1.0))
    assert [callers.call(10.0, 2.0) for _ in range(4)] == [True, True, False, False]
    assert callers.refused == 2


def test_events_happen_in_the_order_of_time_and_then_of_making() -> None:
    agenda, seen, passed = Agenda(), list[str](), list[float]()
    agenda.at(2.0, lambda: seen.append("late"))
    agenda.at(1.0, lambda: seen.append("first"))
    agenda.at(1.0, lambda: agenda.after(0.0, lambda: seen.append("third")))
    agenda.at(1.0, lambda: seen.append("second"))
    agenda.every(3.0, lambda: seen.append("again"))
    agenda.run(7.0, passed.append)
    assert seen == ["first", "second", "third", "late", "again", "again"]
    assert (agenda.now, passed[-1]) == (7.0, 7.0)


def test_a_peer_is_the_same_whatever_was_drawn_between() -> None:
    one, other = (Population(small("heavy_tail"), 5) for _ in range(2))
    other.position(np.random.default_rng(1))
    assert [one.draw() for _ in range(5)] == [other.draw() for _ in range(5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "description: Field required"),
        ("{name: x, description: y, peers: {layers: [5, 2]}}", r"peers: .*\[smallest, largest\]"),
        ("{name: x, description: y, rain: 1}", "rain: Extra inputs"),
        ("{name: [", "not YAML"),
        ("- 1", "the file: "),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "story.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_scenario(str(path))


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="neither a readable file nor one of flash_crowd, slow_decay"):
        load_scenario("rain")


@pytest.mark.parametrize("name", SCENARIOS)
def test_built_in_scenarios_bear_their_names(name: str) -> None:
    assert load_scenario(name).name == name
