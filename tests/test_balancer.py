"""The loop that moves a peer: claims first, gives way to others, and tears nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from swarm.core.config import BalanceConfig
from swarm.core.errors import NodeError
from swarm.core.span import Span
from swarm.peer.balancer import REST_S, Balancer
from swarm.routing.balance import objection
from swarm.routing.decision import Decision
from swarm.routing.placement import precedence
from swarm.routing.seats import Board, Seat
from tests.virtual_time import run

FRONT, BACK = Span(0, 4), Span(4, 8)


class Sheet:
    """What a swarm of 8 layers announces; every peer reads it at once."""

    def __init__(self, *seats: Seat) -> None:
        self.seats = {seat.peer_id: seat for seat in seats}

    def board(self) -> Board:
        return Board(8, tuple(self.seats[name] for name in sorted(self.seats)))


class Mover:
    """A peer whose moves take `load_s` and change nothing but the sheet."""

    def __init__(self, sheet: Sheet, name: str, *, load_s: float = 1.0) -> None:
        self.sheet = sheet
        self.peer_id = name
        self.span = sheet.seats[name].span
        self.moves: list[tuple[float, Span]] = []
        self.claims: list[Span] = []
        self.returned = 0
        self.fails = 0
        self.cannot_serve = False
        self.on_claim: Callable[[], None] = lambda: None
        self._load_s = load_s

    async def board(self) -> tuple[Board, float]:
        if self.fails:
            self.fails -= 1
            raise NodeError("the DHT does not answer")
        return self.sheet.board(), asyncio.get_running_loop().time()

    def _sit(self, span: Span, *, ready: bool) -> None:
        self.sheet.seats[self.peer_id] = replace(self.sheet.seats[self.peer_id], span=span, ready=ready)

    async def claim(self, span: Span) -> None:
        self.claims.append(span)
        self._sit(span, ready=False)
        self.on_claim()

    async def take_back(self) -> None:
        self.returned += 1
        self._sit(self.span, ready=True)

    async def move(self, decision: Decision) -> None:
        await asyncio.sleep(self._load_s)
        if not self.cannot_serve:
            self.span = decision.span
        self._sit(self.span, ready=True)
        self.moves.append((asyncio.get_running_loop().time(), decision.span))


def seat(name: str, span: Span, **more: bool) -> Seat:
    return Seat(name, span, 40.0, **more)


async def balance(*movers: Mover, for_s: float) -> None:
    """Let the loops of these peers run for so long."""
    config = BalanceConfig()
    tasks = [
        asyncio.create_task(Balancer(mover, config, dice=Random(number)).run())
        for number, mover in enumerate(movers)
    ]
    await asyncio.sleep(for_s)
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    await asyncio.wait(tasks)


def test_one_of_two_peers_closes_a_hole_within_seconds() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT), seat("b", FRONT), seat("y", BACK), seat("z", BACK))
        movers = [Mover(sheet, "a"), Mover(sheet, "b")]
        running = asyncio.create_task(balance(*movers, for_s=400.0))
        await asyncio.sleep(120.0)
        assert [mover.claims for mover in movers] == [[], []], "nothing is to be gained while all is well"
        lost_s = asyncio.get_running_loop().time()
        del sheet.seats["y"], sheet.seats["z"]
        await running
        [(moved_s, span)] = [move for mover in movers for move in mover.moves]
        assert span == BACK
        assert moved_s - lost_s < 12.0
        assert sheet.board().counts(ready=True).tolist() == [1] * 8

    run(scenario())


def test_a_peer_that_had_to_go_back_does_not_try_again_soon() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT), seat("b", FRONT, pinned=True))
        mover = Mover(sheet, "a")
        mover.cannot_serve = True
        await balance(mover, for_s=800.0)
        tries = [at_s for at_s, _ in mover.moves]
        assert len(tries) == 2
        assert tries[1] - tries[0] > REST_S

    run(scenario())


def test_the_last_peer_of_some_layers_stays() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT))
        only = Mover(sheet, "a")
        await balance(only, for_s=300.0)
        assert (only.claims, only.moves) == ([], [])

    run(scenario())


def test_a_pinned_peer_stays() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT, pinned=True), seat("b", FRONT, pinned=True))
        movers = [Mover(sheet, "a"), Mover(sheet, "b")]
        await balance(*movers, for_s=300.0)
        assert [mover.claims for mover in movers] == [[], []]

    run(scenario())


def test_a_claim_is_taken_back_when_those_left_behind_are_gone() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT), seat("b", FRONT, pinned=True))
        mover = Mover(sheet, "a")

        def lose() -> None:
            sheet.seats.pop("b", None)

        mover.on_claim = lose
        await balance(mover, for_s=60.0)
        assert mover.claims
        assert mover.returned == len(mover.claims)
        assert mover.moves == []
        assert sheet.board().find("a") == seat("a", FRONT)

    run(scenario())


def test_a_swarm_that_cannot_be_read_is_looked_at_again() -> None:
    async def scenario() -> None:
        sheet = Sheet(seat("a", FRONT), seat("b", FRONT, pinned=True))
        mover = Mover(sheet, "a")
        mover.fails = 3
        await balance(mover, for_s=120.0)
        assert [span for _, span in mover.moves] == [BACK]

    run(scenario())


@pytest.mark.parametrize("rival", ["p", "q", "r", "s"])
def test_of_two_claims_for_one_place_the_first_in_precedence_holds(rival: str) -> None:
    board = Board(8, (seat("me", BACK, ready=False), seat(rival, BACK, ready=False), seat("z", FRONT)))
    goes_first = precedence(rival) < precedence("me")
    assert (objection(board, "me", FRONT) is None) is not goes_first
    assert (objection(board, rival, FRONT) is None) is goes_first


def test_a_claim_that_nobody_knows_yet_is_not_acted_upon() -> None:
    board = Board(8, (seat("me", FRONT), seat("z", FRONT)))
    assert objection(board, "me", FRONT) == "its claim is not known yet"
    assert objection(Board(8, (seat("z", FRONT),)), "me", FRONT) == "its claim is not known yet"
