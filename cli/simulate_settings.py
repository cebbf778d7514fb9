"""Options of `swarm simulate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swarm.cli.setting_types import Count, Counts, File, Shown, Text, WholeNumber
from swarm.cli.settings import Settings
from swarm.sim.matrix import Matrix
from swarm.sim.policy import POLICIES
from swarm.sim.scenario import SCENARIOS, load_scenario


class SimulateSettings(Settings):
    """`swarm simulate SCENARIO`."""

    scenario: Annotated[
        Text,
        Shown("SCENARIO", positional=True),
        Field(description=f"What happens: {', '.join(SCENARIOS)}, all, or a YAML file."),
    ]
    peer_counts: Annotated[
        Counts, Shown("N,N,...", flag="--peers", default="50,500"), Field(description="Sizes of the swarm.")
    ] = (50, 500)
    seeds: Annotated[Count, Field(description="Runs of each kind, with other draws each.")] = 10
    policy: Annotated[
        Literal["all", "ours", "petals", "random"], Field(description="Who decides where peers go.")
    ] = "all"
    replicas: Annotated[Count, Field(description="Peers that our policy wants on every layer.")] = 1
    routed: Annotated[
        WholeNumber,
        Field(description="Runs of each kind in which many callers' chains are searched as well."),
    ] = 1
    jobs: Annotated[Count, Field(description="Runs at the same time.")] = 2
    json_file: Annotated[
        File | None, Shown("FILE", flag="--json"), Field(description="Write the results as JSON.")
    ] = None
    plot: Annotated[
        File | None,
        Shown("FILE"),
        Field(description="Draw the results into a PNG, SVG or PDF file (needs matplotlib)."),
    ] = None

    def matrix(self) -> Matrix:
        """What is simulated.

        Raises:
            ConfigError: a scenario cannot be read.
        """
        names = SCENARIOS if self.scenario == "all" else (self.scenario,)
        return Matrix(
            tuple(load_scenario(name) for name in names),
            self.peer_counts,
            self.seeds,
            POLICIES if self.policy == "all" else (self.policy,),
            self.replicas,
            self.routed,
        )
