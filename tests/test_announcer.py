"""A peer's record on the DHT: renewed in time, replaced in order, and never given up. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from swarm.peer.announcer import SETTLE_S, Announcer
from swarm.routing.announcement import decode
from swarm.routing.records import PeerRecord, PeerState
from tests.records import make_record
from tests.virtual_time import run

LEASE_S = 30.0


@dataclass
class FakeDirectory:
    """Takes records like a DHT: only one that expires later replaces another."""

    answers: list[bool | Exception] = field(default_factory=list)
    taken: list[tuple[float, PeerRecord]] = field(default_factory=list)
    newest: float = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def publish(self, keys: Sequence[str], value: bytes, expires_at: float) -> bool:
        record = decode(value)
        assert record.expires_at == expires_at
        assert self.newest < expires_at, "the DHT would keep the older record"
        self.newest = expires_at
        await asyncio.sleep(0.01)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.taken.append((self.now() - 1000.0, record))
        return answer

    @property
    def states(self) -> list[str]:
        return [record.state.value for _, record in self.taken]


def describe(state: PeerState, now: float, expires_at: float) -> PeerRecord:
    return make_record(state=state, issued_at=now, expires_at=expires_at)


def renewing(
    directory: FakeDirectory, script: Callable[[Announcer], Awaitable[None]], for_s: float = 0.0
) -> None:
    """Announce, then renew while `script` runs, and for some time after that."""

    async def scenario() -> None:
        announcer = Announcer(directory, describe, LEASE_S)
        await announcer.announce(PeerState.ONLINE)
        renewal = asyncio.create_task(announcer.renew())
        await script(announcer)
        await asyncio.sleep(for_s)
        assert not renewal.done()
        renewal.cancel()

    run(scenario())


async def nothing(announcer: Announcer) -> None:
    """Let time pass."""


def test_a_record_is_renewed_at_a_third_of_its_lease() -> None:
    directory = FakeDirectory()
    renewing(directory, nothing, for_s=95.0)
    times = [at for at, _ in directory.taken]
    assert times == pytest.approx([0.01 + 10.01 * i for i in range(10)], abs=0.02)
    for (_, old), (at, _) in zip(directory.taken, directory.taken[1:], strict=False):
        assert old.expires_at - 1000.0 > at + LEASE_S / 3, "there is time for another try"


def test_changes_are_announced_soon_and_many_of_them_together() -> None:
    directory = FakeDirectory()

    async def script(announcer: Announcer) -> None:
        await asyncio.sleep(3.0)
        for _ in range(100):
            announcer.touch()
            await asyncio.sleep(0.005)

    renewing(directory, script, for_s=3.0)
    assert [at for at, _ in directory.taken] == pytest.approx([0.01, 3.0 + SETTLE_S + 0.02], abs=0.03)


@pytest.mark.parametrize(
    "failure", [False, RuntimeError("the network process is gone")], ids=["refused", "raised"]
)
def test_a_record_that_was_not_taken_is_tried_again_soon(failure: bool | Exception) -> None:
    directory = FakeDirectory(answers=[True, failure, failure, True])
    renewing(directory, nothing, for_s=14.0)
    assert [round(at) for at, _ in directory.taken] == [0, 12]


def test_leaving_replaces_the_record_at_once_and_later_renewals_keep_it() -> None:
    directory = FakeDirectory()

    async def script(announcer: Announcer) -> None:
        await announcer.announce(PeerState.DRAINING)
        await announcer.withdraw()

    renewing(directory, script, for_s=12.0)
    assert directory.states == ["online", "draining", "left", "left"]


def test_announcements_in_the_same_instant_replace_each_other() -> None:
    directory = FakeDirectory()

    async def script(announcer: Announcer) -> None:
        await asyncio.gather(*(announcer.announce(PeerState.ONLINE) for _ in range(20)))

    renewing(directory, script)
    assert len(directory.taken) == 21
