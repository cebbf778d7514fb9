"""The lives of simulated peers: come, choose a place, load, serve, ask again and again whether to move, and leave."""

from __future__ import annotations

import numpy as np

from swarm.core.span import Span
from swarm.routing.placement import Newcomer
from swarm.sim.agenda import Agenda
from swarm.sim.policy import Policy
from swarm.sim.population import PeerTraits
from swarm.sim.records import PUBLISH_S, Records
from swarm.sim.world import SimPeer, World

START_UP_S = 3.0  # of a join or a move, beside loading layers


class Lives:
    """Everybody's life. `moves` counts those of serving peers."""

    def __init__(
        self, agenda: Agenda, world: World, records: Records, policy: Policy, rng: np.random.Generator
    ) -> None:
        self._agenda, self._world, self._records, self._policy = agenda, world, records, policy
        self._rng = rng
        self.moves = 0
        records.listeners.append(self._watch)

    def begin(self, traits: PeerTraits) -> None:
        """A peer that serves when the story begins; those before it are published already."""
        span = self._policy.join(self._records.board, _newcomer(traits), self._rng)
        peer = SimPeer(traits, span, ready=True, was_ready=True, announced=traits.claimed_speed)
        self._enter(peer)
        self._records.publish()
        self._review_later(peer)

    def come(self, traits: PeerTraits) -> None:
        """A newcomer."""
        self._agenda.after(self._policy.join_delay_s(self._rng), lambda: self._choose(traits))

    def slow(self, peer: SimPeer, factor: float) -> None:
        """From now on this peer runs at this part of its speed."""
        peer.speed = peer.traits.speed * factor
        self._world.changed()

    def leave(self, peer: SimPeer, *, crashed: bool) -> None:
        """A peer goes; nothing happens if it has gone already."""
        if self._world.peers.get(peer.peer_id) is not peer:
            return
        del self._world.peers[peer.peer_id]
        peer.loads += 1
        peer.reviews += 1
        self._world.changed()
        self._records.changed()
        if crashed:
            self._records.vanished(peer)

    def _choose(self, traits: PeerTraits) -> None:
        span = self._policy.join(self._records.board, _newcomer(traits), self._rng)
        peer = SimPeer(traits, span, announced=traits.claimed_speed)
        self._enter(peer)
        self._agenda.after(PUBLISH_S, lambda: self._settle(peer))

    def _enter(self, peer: SimPeer) -> None:
        self._world.peers[peer.peer_id] = peer
        self._world.changed()
        self._records.changed()
        stay_s = peer.traits.lifetime_s
        if stay_s != float("inf"):
            self._agenda.after(stay_s, lambda: self.leave(peer, crashed=peer.traits.crashes))

    def _settle(self, peer: SimPeer) -> None:
        if peer.loads:
            return
        peer.span = self._policy.settle(self._records.board, peer.peer_id)
        self._records.changed()
        self._load(peer, len(peer.span))

    def _load(self, peer: SimPeer, layers: int) -> None:
        peer.loads += 1
        number = peer.loads
        self._agenda.after(START_UP_S + layers * peer.traits.load_s, lambda: self._loaded(peer, number))

    def _loaded(self, peer: SimPeer, number: int) -> None:
        if peer.loads != number:
            return
        peer.ready = peer.was_ready = True
        self._world.changed()
        self._records.changed()
        self._review_later(peer)

    def _watch(self) -> None:
        """Peers look at every new board, but most of the time only at whether it is urgent."""
        if self._agenda.now > 0 and self._policy.is_urgent(self._records.board):
            for peer in self._world.serving():
                self._review_later(peer, hasty=True)

    def _review_later(self, peer: SimPeer, *, hasty: bool = False) -> None:
        peer.reviews += 1
        number = peer.reviews
        wait_s = self._policy.review_delay_s(self._rng, hasty=hasty)
        if wait_s != float("inf"):
            self._agenda.after(wait_s, lambda: self._review(peer, number))

    def _review(self, peer: SimPeer, number: int) -> None:
        if peer.reviews != number or not peer.ready or self._records.board.find(peer.peer_id) is None:
            return
        span = self._policy.review(self._records.board, peer.peer_id, self._agenda.now, self._rng)
        if span == peer.span:
            self._review_later(peer)
        else:
            self._move(peer, span)

    def _move(self, peer: SimPeer, span: Span) -> None:
        new = sum(layer not in peer.span for layer in range(span.start, span.end))
        peer.span, peer.ready = span, False
        self.moves += 1
        self._world.changed()
        self._records.changed()
        self._load(peer, new)


def _newcomer(traits: PeerTraits) -> Newcomer:
    return Newcomer(traits.peer_id, traits.capacity, traits.claimed_speed)
