"""Options of `swarm bench`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from swarm.bench.plan import Plan, WanNetwork
from swarm.cli.setting_types import Count, Counts, DelayMs, File, Shown, Text
from swarm.cli.settings import Settings

BENCHMARKS = (
    "decode", "long", "prefill", "concurrency", "batching", "fairness", "prefix", "failover", "wan", "wire",
    "start", "memory",
)  # fmt: skip
_PLAN = Plan()


class BenchSettings(Settings):
    """`swarm bench WHICH`."""

    which: Annotated[
        Literal[
            "decode",
            "long",
            "prefill",
            "concurrency",
            "batching",
            "fairness",
            "prefix",
            "failover",
            "wan",
            "wire",
            "start",
            "memory",
            "profile",
            "all",
        ],
        Shown("WHICH", positional=True),
        Field(
            description=f"What to measure: {', '.join(BENCHMARKS)} or all of these; or profile, which needs py-spy."
        ),
    ]
    size: Annotated[
        Literal["tiny", "A", "B"] | None,
        Shown(default="A"),
        Field(
            description="Random model: A has hidden size 256 and 8 layers, B 1024 and 16; tiny is for trying."
        ),
    ] = None
    model: Annotated[Text | None, Field(description="Another model instead: demo or a local folder.")] = None
    peer_count: Annotated[Count, Shown("N", flag="--peers"), Field(description="Most peers in a chain.")] = (
        _PLAN.peers
    )
    swarms: Annotated[
        Count,
        Field(
            description="How often the peers are started anew (decode, prefill), each time for all rounds."
        ),
    ] = _PLAN.swarms
    rounds: Annotated[
        Count, Field(description="How often everything takes its turn, after one round that warms up.")
    ] = _PLAN.rounds
    tokens: Annotated[Count, Field(description="New tokens of one generation, at least 4.", ge=4)] = (
        _PLAN.tokens
    )
    prompt: Annotated[
        Count | None,
        Shown(metavar="N", default="16 to 4096, as suits WHICH"),
        Field(description="Tokens of the prompt."),
    ] = None
    sessions: Annotated[
        Counts,
        Shown("N,N,...", default="1,4,16"),
        Field(description="How many sessions run at once (concurrency)."),
    ] = _PLAN.sessions
    delay_ms: Annotated[DelayMs, Field(description="Delay between any two nodes, one way (wan).")] = 25.0
    network: Annotated[
        WanNetwork,
        Field(
            description="How that delay is made: netem needs root and the kernel's tc netem, relay nothing."
        ),
    ] = _PLAN.network
    json_file: Annotated[
        File | None, Shown("FILE", flag="--json"), Field(description="Write the results as JSON.")
    ] = None
    plot: Annotated[
        File | None,
        Shown("FILE"),
        Field(description="Draw the results into a PNG, SVG or PDF file (needs matplotlib)."),
    ] = None

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.size is not None and self.model is not None:
            raise ValueError(f"--size {self.size} contradicts --model {self.model}: give one of them")
        return self

    @property
    def model_name(self) -> str:
        """A size or a model."""
        return self.model or self.size or "A"

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """What to run, in order."""
        return BENCHMARKS if self.which == "all" else (self.which,)

    def plan(self) -> Plan:
        return Plan(
            peers=self.peer_count,
            swarms=self.swarms,
            rounds=self.rounds,
            tokens=self.tokens,
            prompt=self.prompt,
            sessions=self.sessions,
            delay_s=self.delay_ms / 1000,
            network=self.network,
        )
