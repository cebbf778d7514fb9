"""Many simulations at once: every scenario, policy and number of peers with several seeds, on several cores."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from swarm.routing.balance import Goal
from swarm.sim.outcome import Outcome
from swarm.sim.policy import POLICIES, make_policy
from swarm.sim.scenario import Scenario
from swarm.sim.simulation import Run, Simulation


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is simulated: everything with everything. Routing is looked at in runs of the first `routed_seeds` seeds."""

    scenarios: tuple[Scenario, ...]
    peers: tuple[int, ...] = (50, 500)
    seeds: int = 10
    policies: tuple[str, ...] = POLICIES
    replicas: int = 1
    routed_seeds: int = 1

    def runs(self) -> list[Run]:
        """All runs, those that take longest first, so that no core waits for the last one."""
        runs = [
            Run(scenario, policy, peers, seed, routed=seed < self.routed_seeds)
            for peers in sorted(self.peers, reverse=True)
            for seed in range(self.seeds)
            for scenario in self.scenarios
            for policy in self.policies
        ]
        return sorted(runs, key=lambda run: (-run.peers, run.policy != "petals"))


def play(run: Run, replicas: int) -> Outcome:
    """One run from its beginning to its end."""
    return Simulation(run, make_policy(run.policy, Goal(replicas=replicas))).play()


def outcomes(matrix: Matrix, jobs: int) -> Generator[Outcome, None, None]:
    """The outcomes in the order in which they are ready; closing the generator ends what still runs."""
    pool = ProcessPoolExecutor(max_workers=jobs)
    try:
        playing = [pool.submit(play, run, matrix.replicas) for run in matrix.runs()]
        for done in as_completed(playing):
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(found: Sequence[Outcome], matrix: Matrix) -> list[Outcome]:
    """As the matrix has them."""
    names = [scenario.name for scenario in matrix.scenarios]
    return sorted(
        found,
        key=lambda one: (
            one.peers,
            names.index(one.scenario),
            matrix.policies.index(one.policy),
            one.seed,
        ),
    )
