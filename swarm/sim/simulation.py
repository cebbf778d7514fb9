"""One story played through by one policy, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from swarm.routing.throughput import best_tokens_per_s
from swarm.sim.agenda import Agenda
from swarm.sim.bound import relaxed
from swarm.sim.callers import Callers
from swarm.sim.lives import Lives
from swarm.sim.outcome import Outcome, Sample, Tally, recovery
from swarm.sim.policy import Policy
from swarm.sim.population import PeerTraits, Population
from swarm.sim.records import Records
from swarm.sim.routed import Place, Roads
from swarm.sim.scenario import Event, Scenario
from swarm.sim.world import SimPeer, World

SAMPLE_S = 10.0
PROBES = 3
PROBE_CALLERS = 8
PROBE_LOAD = 0.7  # of the best possible, at which times per token are looked at
ROUTED_CALLERS = 100  # for the look at what routing reaches, at least; 3 for every 10 peers
ROUTED_LOAD = 0.9


@dataclass(frozen=True, slots=True)
class Run:
    """What is simulated; `seed` decides everything that is drawn.

    `routed`: whether to look at what routing reaches of the capacity, which takes hundreds of searches, and to ask
    the solver whether the bound is right.
    """

    scenario: Scenario
    policy: str
    peers: int
    seed: int
    routed: bool = False


class Simulation:
    """See above. Peers and callers are the same for every policy: each kind of chance has its own source."""

    def __init__(self, run: Run, policy: Policy) -> None:
        self._run, self._story = run, run.scenario
        fate, demand, places, choice, leases = _chances(run.seed, 5)
        self._fate, self._demand, self._where = fate, demand, places
        self._population = Population(run.scenario, run.seed)
        self._agenda, self._world = Agenda(), World(run.scenario.n_layers)
        self._records = Records(self._agenda, self._world, leases)
        self._lives = Lives(self._agenda, self._world, self._records, policy, choice)
        self._callers = Callers(run.scenario.requests)
        self._wanted = 0.0
        self._tally = Tally()
        self._samples: list[Sample] = []
        self._token_s: list[float] = []
        self._routed: float | None = None
        self._bound_error = 0.0

    def play(self) -> Outcome:
        """The whole story."""
        traits = self._population.first(self._run.peers)
        present = max(1, round(len(traits) * self._story.at_start))
        for one in traits[:present]:
            self._lives.begin(one)
        best = best_tokens_per_s(
            [one.speed for one in traits], [one.capacity for one in traits], self._story.n_layers
        )
        self._wanted = self._story.requests.load * best
        self._plan(traits[present:])
        self._agenda.run(self._story.duration_s, self._pass)
        return self._outcome()

    def _plan(self, waiting: Sequence[PeerTraits]) -> None:
        """Put everything on the agenda that does not come of itself."""
        agenda, story = self._agenda, self._story
        for event in story.events:
            agenda.at(event.at_s, self._happening(event, waiting))
        agenda.every(SAMPLE_S, self._sample)
        steady_s = story.duration_s - story.steady_from_s
        for n in range(PROBES):
            agenda.at(story.steady_from_s + (n + 0.5) / PROBES * steady_s, self._probe)
        if self._run.routed:
            agenda.at(story.steady_from_s + steady_s / 2, self._route)
        self._call_later()
        if story.peers.replaced and story.peers.lifetime_s is not None:
            self._come_later(story.peers.lifetime_s / self._run.peers)

    def _pass(self, to: float) -> None:
        """Let time pass up to the next event: callers are served."""
        seconds, steady = to - self._agenda.now, to > self._story.steady_from_s
        if seconds <= 0:
            return
        before, capacity = self._callers.tokens, self._world.capacity
        self._callers.advance(seconds, capacity)
        if steady:
            best = min(self._world.best, self._wanted)
            self._tally.add(seconds, self._callers.tokens - before, best * seconds, self._world)

    def _sample(self) -> None:
        world = self._world
        served = self._callers.served(world.capacity)
        self._samples.append(Sample(self._agenda.now, served, world.capacity, world.best, len(world.peers)))
        if self._agenda.now <= self._story.steady_from_s:
            self._tally.moves_before = self._lives.moves

    def _probe(self) -> None:
        """Look at the time per token of a few callers."""
        world = self._world
        if world.covered:
            roads = Roads(world.serving(), world.n_layers)
            busy = PROBE_LOAD * world.best / world.capacity
            self._token_s += roads.token_s(self._places(PROBE_CALLERS), busy)

    def _route(self) -> None:
        """Look at what many callers get, and ask the solver for the bound as well."""
        world, count = self._world, max(ROUTED_CALLERS, 3 * self._run.peers // 10)
        present = world.present()
        solved = relaxed(
            [peer.speed for peer in present], [peer.traits.capacity for peer in present], world.n_layers
        )
        self._bound_error = abs(world.best / solved - 1) if solved else world.best
        if world.covered:
            roads, wanted = Roads(world.serving(), world.n_layers), ROUTED_LOAD * world.best
            self._routed = roads.served(self._places(count), wanted) / wanted
        else:
            self._routed = 0.0

    def _places(self, count: int) -> list[Place]:
        return [self._population.position(self._where) for _ in range(count)]

    def _call_later(self) -> None:
        requests = self._story.requests
        self._agenda.after(float(self._demand.exponential(requests.mean_tokens / self._wanted)), self._call)

    def _call(self) -> None:
        self._callers.call(self._story.requests.draw(self._demand), self._world.capacity)
        self._call_later()

    def _come_later(self, mean_s: float) -> None:
        def come() -> None:
            self._lives.come(self._population.draw())
            self._come_later(mean_s)

        self._agenda.after(float(self._fate.exponential(mean_s)), come)

    def _happening(self, event: Event, waiting: Sequence[PeerTraits]) -> Callable[[], None]:
        def happen() -> None:
            if event.kind == "join":
                self._join(event, waiting)
            elif event.kind == "leave":
                self._leave(event)
            elif event.kind == "lose":
                self._lose(event)
            else:
                self._slow(event)
            if event.repeat_s is not None:
                self._agenda.after(event.repeat_s, happen)

        return happen

    def _join(self, event: Event, waiting: Sequence[PeerTraits]) -> None:
        for one in waiting[: round(event.share * len(waiting))]:
            self._agenda.after(self._moment(event), partial(self._lives.come, one))

    def _leave(self, event: Event) -> None:
        for peer in self._some(event):
            crashed = bool(self._fate.random() < self._story.peers.crash_share)
            self._agenda.after(
                self._moment(event),
                partial(self._lives.leave, peer, crashed=crashed),
            )

    def _lose(self, event: Event) -> None:
        """All peers nearest to the middle of a region, at once and without a word."""
        regions = self._story.regions
        region = regions[int(self._fate.integers(len(regions)))]
        peers = sorted(self._present(), key=lambda peer: peer.traits.away_ms(region.x_ms, region.y_ms))
        for peer in peers[: round(event.share * len(peers))]:
            self._lives.leave(peer, crashed=True)

    def _slow(self, event: Event) -> None:
        for peer in self._some(event):
            self._lives.slow(peer, event.factor)
            self._agenda.after(event.lasting_s, partial(self._lives.slow, peer, 1.0))

    def _moment(self, event: Event) -> float:
        return float(self._fate.uniform(0.0, event.within_s))

    def _some(self, event: Event) -> list[SimPeer]:
        present = self._present()
        count = round(event.share * len(present))
        return [present[i] for i in self._fate.permutation(len(present))[:count]]

    def _present(self) -> list[SimPeer]:
        """Everybody that events may hit, in the same order for every policy."""
        lasting = self._story.peers.giant is not None
        peers = sorted(self._world.peers.values(), key=lambda peer: peer.peer_id)
        return peers[1:] if lasting else peers

    def _outcome(self) -> Outcome:
        tally, run, lost_at_s = self._tally, self._run, self._story.loss_at_s
        calls = self._callers.admitted + self._callers.refused
        return Outcome(
            scenario=run.scenario.name,
            policy=run.policy,
            peers=run.peers,
            seed=run.seed,
            covered=tally.covered_s / tally.seconds,
            served_tokens_per_s=tally.served / tally.seconds,
            best_tokens_per_s=tally.best / tally.seconds,
            recovery=None if lost_at_s is None else recovery(self._samples, lost_at_s),
            moves=self._lives.moves - tally.moves_before,
            peer_hours=tally.peer_s / 3600,
            refused=self._callers.refused / max(calls, 1),
            routed=self._routed,
            bound_error=self._bound_error,
            token_s=tuple(self._token_s),
            samples=tuple(self._samples),
        )


def _chances(seed: int, count: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, 1_000_000 + n)) for n in range(count)]
