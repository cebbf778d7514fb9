"""The tool `swarm_simulate`: what a swarm of many peers would serve, in virtual time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from swarm.mcp_server.failure import told
from swarm.sim.bound import check_solver
from swarm.sim.matrix import Matrix, in_order, play
from swarm.sim.outcome import Outcome
from swarm.sim.policy import POLICIES
from swarm.sim.scenario import load_scenario
from swarm.sim.summary import reports

ScenarioName = Annotated[
    Literal["flash_crowd", "slow_decay", "regional_loss", "stragglers", "heavy_tail", "giant"],
    Field(description="What happens to the peers."),
]
PeerCount = Annotated[int, Field(ge=2, le=500, description="Size of the swarm.")]
Seeds = Annotated[int, Field(ge=1, le=5, description="Runs, with other draws each.")]
PolicyName = Annotated[
    Literal["ours", "petals", "random", "all"], Field(description="Who decides where peers go.")
]
Replicas = Annotated[int, Field(ge=1, le=8, description="Peers that our policy wants on every layer.")]


class SimulationResult(BaseModel):
    """One row for each policy, and what its columns mean."""

    peers: int
    rows: list[dict[str, Any]]
    notes: list[str]


class Simulations:
    """The tool; one call at a time, in a process of its own, so that answers do not wait for it."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def swarm_simulate(
        self,
        scenario: ScenarioName,
        peers: PeerCount = 50,
        seeds: Seeds = 1,
        policy: PolicyName = "ours",
        replicas: Replicas = 1,
    ) -> SimulationResult:
        """Play a scenario with many simulated peers, placed and moved by the policy that real ones use.

        Nothing is sent and no model is loaded. The same arguments give the same numbers.
        """
        async with told(), self._turn:
            check_solver()
            policies = POLICIES if policy == "all" else (policy,)
            matrix = Matrix((load_scenario(scenario),), (peers,), seeds, policies, replicas)
            [report] = reports(in_order(await _play(matrix), matrix))
            return SimulationResult(
                peers=peers, rows=[dict(row) for row in report.rows], notes=[*report.notes]
            )


async def _play(matrix: Matrix) -> list[Outcome]:
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))  # threads here forbid to fork
    try:
        runs = [loop.run_in_executor(pool, play, run, matrix.replicas) for run in matrix.runs()]
        return list(await asyncio.gather(*runs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
