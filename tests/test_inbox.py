"""Which answer goes to whom, and which failures count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from swarm.client.hop import RemoteHop
from swarm.client.inbox import Answer, Expectation, Inbox
from swarm.core.errors import (
    NextUnreachable,
    PeerBusy,
    PeerIncompatible,
    PeerUnreachable,
    RequestError,
    SwarmError,
)
from swarm.core.span import Span
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.messages import Ping
from swarm.wire.step_messages import Output, Replayed, StepFailed
from swarm.wire.tensors import pack
from tests.memory_links import Meadow
from tests.virtual_time import run


class Scene:
    """A client with two hops, `A` and `B`, and a link to a stranger."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.links: dict[str, Link] = {}
        self.hops: list[RemoteHop] = []

    async def enter(self, meadow: Meadow) -> None:
        client = meadow.add("cLient", self.inbox.handle)
        for name in ("A", "B", "Stranger"):
            meadow.add(name, _ignore)
            self.links[name] = await client.connect(name)
        self.hops = [RemoteHop(self.links["A"], Span(0, 3), ""), RemoteHop(self.links["B"], Span(3, 6), "")]

    def expect(self, number: int | None = 5, start: int | None = 20) -> Expectation:
        return self.inbox.expect(self.hops[1], number, self.hops, start)

    async def hear(self, sender: str, message: Message, payload: Any = ()) -> None:
        self.inbox.handle(self.links[sender], message, memoryview(bytearray(b"".join(payload))))

    def failed(
        self, hop: int = 1, number: int = 5, kind: Any = "busy", peer: str | None = None
    ) -> StepFailed:
        session = self.hops[hop].session
        return StepFailed(session=session, number=number, kind=kind, message="full", peer=peer)

    def output(self, number: int = 5, start: int = 20, hop: int = 1) -> tuple[Output, list[memoryview]]:
        metas, payload = pack({"hidden": torch.ones(1, 1, 4)})
        session = self.hops[hop].session
        return Output(session=session, number=number, start=start, tensors=metas), payload


def play(script: Callable[[Scene], Awaitable[None]]) -> None:
    async def scenario() -> None:
        scene = Scene()
        async with asyncio.TaskGroup() as tasks:
            meadow = Meadow(tasks)
            await scene.enter(meadow)
            await script(scene)
            await meadow.close()

    run(scenario())


async def _ignore(link: Link, message: Message, payload: memoryview) -> None:
    """Peers that only exist."""


def test_an_answer_goes_to_whoever_waits_for_that_piece_of_that_step() -> None:
    async def script(scene: Scene) -> None:
        first, second = scene.expect(start=20), scene.expect(start=24)
        await scene.hear("B", *scene.output(start=24))
        assert (first.future.done(), second.future.done()) == (False, True)
        await scene.hear("B", *scene.output(start=20))
        answer = first.future.result()
        assert isinstance(answer, Answer)
        assert answer.tensors["hidden"].tolist() == [[[1.0] * 4]]

    play(script)


def test_answers_of_other_steps_other_pieces_and_other_senders_are_dropped() -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect()
        await scene.hear("B", *scene.output(number=4))
        await scene.hear("B", *scene.output(start=0))
        await scene.hear("B", *scene.output(hop=0))
        await scene.hear("Stranger", *scene.output())
        await scene.hear("B", Replayed(session=scene.hops[1].session, length=3, step=5))
        assert not waiting.future.done()
        scene.inbox.forget(waiting)
        await scene.hear("B", *scene.output())
        assert not waiting.future.done()

    play(script)


def test_the_end_of_a_replay_is_awaited_apart_from_outputs() -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect(None, None)
        await scene.hear("B", *scene.output())
        assert not waiting.future.done()
        report = Replayed(session=scene.hops[1].session, length=3, step=5)
        await scene.hear("B", report)
        assert waiting.future.result() == report

    play(script)


@pytest.mark.parametrize(
    ("sender", "hop", "kind", "peer", "error", "guilty"),
    [
        ("A", 0, "busy", None, PeerBusy, "A"),
        ("B", 1, "request", None, RequestError, None),
        ("A", 0, "next_unreachable", "B", NextUnreachable, "B"),
        ("A", 0, "busy", "B", PeerBusy, "B"),
    ],
)
def test_a_failure_names_its_cause(
    sender: str, hop: int, kind: str, peer: str | None, error: type[SwarmError], guilty: str | None
) -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect()
        await scene.hear(sender, scene.failed(hop, kind=kind, peer=peer))
        found = waiting.future.exception()
        assert type(found) is error
        assert getattr(found, "peer_id", None) == guilty
        scene.inbox.forget(waiting)

    play(script)


def test_failures_of_others_of_older_steps_and_of_former_neighbours_are_dropped() -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect()
        await scene.hear("Stranger", scene.failed())
        await scene.hear("A", scene.failed(hop=1))
        await scene.hear("B", scene.failed(number=4))
        await scene.hear("A", scene.failed(hop=0, kind="next_unreachable", peer="former"))
        await scene.hear("B", scene.failed(kind="behind"))
        assert not waiting.future.done()
        scene.inbox.forget(waiting)

    play(script)


def test_a_link_that_ends_fails_whoever_waits_for_its_peer_now_or_later() -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect()
        await scene.links["A"].close("gone")
        assert isinstance(waiting.future.exception(), PeerUnreachable)
        scene.inbox.forget(waiting)
        later = scene.expect()
        assert isinstance(later.future.exception(), PeerUnreachable)
        scene.inbox.forget(later)

    play(script)


def test_an_output_whose_bytes_do_not_add_up_is_its_senders_fault() -> None:
    async def script(scene: Scene) -> None:
        waiting = scene.expect()
        output, _ = scene.output()
        await scene.hear("B", output, [b"abc"])
        error = waiting.future.exception()
        assert isinstance(error, PeerIncompatible)
        assert error.peer_id == "B"
        scene.inbox.forget(waiting)

    play(script)


def test_what_no_client_is_told_is_refused() -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(RequestError, match="a client expects no Ping"):
            await scene.hear("A", Ping(nonce=1))

    play(script)


def test_what_comes_while_an_answer_is_overdue_counts() -> None:
    async def script(scene: Scene) -> None:
        answered, failed, silent = scene.expect(start=20), scene.expect(start=24), scene.expect(start=28)
        for waiting in (answered, failed, silent):
            waiting.late()
            with pytest.raises(TimeoutError):
                await waiting.future
        await scene.hear("B", *scene.output(start=20))
        failed.fail(PeerBusy("full"))
        for waiting in (answered, failed, silent):
            waiting.renew()
        assert isinstance(answered.future.result(), Answer)
        with pytest.raises(PeerBusy):
            failed.future.result()
        assert not silent.future.done()

    play(script)
