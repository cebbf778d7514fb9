"""Who decides where simulated peers go: the shipped policy, and others to compare it with."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from swarm.core.span import Span
from swarm.routing.balance import EPOCH_S, Goal, Move, decide, is_urgent, plan_moves, review_delay_s
from swarm.routing.decision import Action
from swarm.routing.placement import Newcomer, claim, place
from swarm.routing.seats import Board
from swarm.sim.petals import Petals

POLICIES = ("ours", "petals", "random")


class Policy(Protocol):
    """Decides for one peer at a time, from what is published."""

    def join_delay_s(self, rng: np.random.Generator) -> float:
        """How long a newcomer waits before it chooses."""

    def join(self, board: Board, newcomer: Newcomer, rng: np.random.Generator) -> Span:
        """Where a newcomer goes."""

    def settle(self, board: Board, peer_id: str) -> Span:
        """Where it loads, now that its choice and those of others are published."""

    def is_urgent(self, board: Board) -> bool:
        """Whether serving peers ask at once, instead of when their time has come."""

    def review_delay_s(self, rng: np.random.Generator, *, hasty: bool = False) -> float:
        """How long until a serving peer asks again whether to move."""

    def review(self, board: Board, peer_id: str, now: float, rng: np.random.Generator) -> Span:
        """Where a serving peer should be; where it is, to stay."""


class Ours:
    """The shipped policy. Plans are the same for all peers that see the same, so each is computed once."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._planned: tuple[Board | None, int] = (None, 0)
        self._plan: tuple[Move, ...] = ()

    def join_delay_s(self, rng: np.random.Generator) -> float:
        return 0.0

    def join(self, board: Board, newcomer: Newcomer, rng: np.random.Generator) -> Span:
        return place(board, newcomer, replicas=self._goal.replicas).span

    def settle(self, board: Board, peer_id: str) -> Span:
        return place(*claim(board, peer_id), replicas=self._goal.replicas).span

    def is_urgent(self, board: Board) -> bool:
        return is_urgent(board, self._goal)

    def review_delay_s(self, rng: np.random.Generator, *, hasty: bool = False) -> float:
        return review_delay_s(float(rng.random()), hasty=hasty)

    def review(self, board: Board, peer_id: str, now: float, rng: np.random.Generator) -> Span:
        epoch = int(now // EPOCH_S)
        if self._planned[0] is not board or self._planned[1] != epoch:
            self._planned, self._plan = (board, epoch), plan_moves(board, self._goal, now)
        if not self._plan:
            own = board.find(peer_id)
            assert own is not None
            return own.span
        decision = decide(board, peer_id, self._plan)
        assert decision.action is not Action.JOIN
        return decision.span


class Anywhere:
    """Places peers at random, and leaves them there."""

    def join_delay_s(self, rng: np.random.Generator) -> float:
        return 0.0

    def join(self, board: Board, newcomer: Newcomer, rng: np.random.Generator) -> Span:
        start = int(rng.integers(board.n_layers - newcomer.capacity + 1))
        return Span(start, start + newcomer.capacity)

    def settle(self, board: Board, peer_id: str) -> Span:
        own = board.find(peer_id)
        assert own is not None
        return own.span

    def is_urgent(self, board: Board) -> bool:
        return False

    def review_delay_s(self, rng: np.random.Generator, *, hasty: bool = False) -> float:
        return float("inf")

    def review(self, board: Board, peer_id: str, now: float, rng: np.random.Generator) -> Span:
        return self.settle(board, peer_id)


def make_policy(name: str, goal: Goal) -> Policy:
    """One of `POLICIES`; `goal` is for the shipped one."""
    if name == "ours":
        return Ours(goal)
    return Petals() if name == "petals" else Anywhere()
