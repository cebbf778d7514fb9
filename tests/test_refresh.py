"""The refresher: one read for all who ask, and nothing is lost or kept too long when reads fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from swarm.core.errors import PeerTimeout
from swarm.routing.announcement import encode
from swarm.routing.records import PeerRecord, keys_of
from swarm.routing.refresh import Refresher, readable
from tests.records import MODEL, NOW, make_record


class FakeDirectory:
    """Holds bodies under keys; fails on demand; answers once `gate` is open."""

    def __init__(self) -> None:
        self.time = NOW
        self.reads = 0
        self.failing = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._bodies: dict[tuple[str, str], bytes] = {}

    def put(self, *records: PeerRecord) -> None:
        for record in records:
            for key in keys_of(record):
                self._bodies[key, record.peer_id] = encode(record)

    def lose_everything(self) -> None:
        self._bodies.clear()

    def now(self) -> float:
        return self.time

    async def fetch(self, keys: Sequence[str], /) -> list[bytes]:
        self.reads += 1
        await self.gate.wait()
        if self.failing:
            raise PeerTimeout("the DHT does not answer")
        return [body for (key, _), body in self._bodies.items() if key in keys]


def make_refresher(directory: FakeDirectory) -> Refresher:
    return Refresher(directory, MODEL, protocol=1)


def ids(refresher: Refresher) -> list[str]:
    return [record.peer_id for record in refresher.view().peers]


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(scenario)


def test_a_refresh_finds_the_peers_of_its_model_in_every_bucket() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(*(make_record(f"p{n}") for n in range(30)), make_record("x", model_uid="another-model"))
        refresher = make_refresher(directory)
        assert ids(refresher) == []
        assert await refresher.refresh() == refresher.view()
        assert sorted(ids(refresher)) == sorted(f"p{n}" for n in range(30))

    run(scenario())


def test_a_read_that_brings_nothing_keeps_peers_until_their_lease_ends() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(make_record("a"))
        refresher = make_refresher(directory)
        await refresher.refresh()
        directory.lose_everything()
        directory.time = NOW + 29
        await refresher.refresh()
        assert ids(refresher) == ["a"]
        directory.time = NOW + 30
        assert ids(refresher) == []

    run(scenario())


def test_a_peer_that_says_it_left_is_gone_and_stays_gone() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(make_record("a"))
        refresher = make_refresher(directory)
        await refresher.refresh()
        directory.put(make_record("a", state="left", issued_at=NOW + 1))
        await refresher.refresh()
        assert ids(refresher) == []
        directory.put(make_record("a"))  # a replay of the older record
        await refresher.refresh()
        assert ids(refresher) == []

    run(scenario())


def test_callers_at_the_same_time_share_one_read() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(make_record("a"))
        refresher = make_refresher(directory)
        views = await asyncio.gather(*(refresher.refresh() for _ in range(5)))
        assert directory.reads == 1
        assert all(view == views[0] for view in views)
        await refresher.refresh()
        assert directory.reads == 2

    run(scenario())


def test_a_caller_that_gives_up_does_not_spoil_the_read_of_others() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(make_record("a"))
        directory.gate.clear()
        refresher = make_refresher(directory)
        impatient, patient = (
            asyncio.create_task(refresher.refresh()),
            asyncio.create_task(refresher.refresh()),
        )
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        directory.gate.set()
        assert [r.peer_id for r in (await patient).peers] == ["a"]

    run(scenario())


def test_a_failed_read_is_the_callers_error_and_keeps_what_is_known() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.put(make_record("a"))
        refresher = make_refresher(directory)
        await refresher.refresh()
        directory.failing = True
        with pytest.raises(PeerTimeout):
            await refresher.refresh()
        assert ids(refresher) == ["a"]

    run(scenario())


def test_the_loop_refreshes_every_period_and_survives_failures() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            directory.failing = len(pauses) == 1
            directory.put(make_record(f"p{len(pauses)}"))
            if len(pauses) == 3:
                raise asyncio.CancelledError

        refresher = Refresher(directory, MODEL, protocol=1, period_s=7.0, sleep=sleep)
        with pytest.raises(asyncio.CancelledError):
            await refresher.run()
        assert pauses == [7.0, 7.0, 7.0]
        assert directory.reads == 3
        assert ids(refresher) == ["p1", "p2"]

    run(scenario())


def test_closing_ends_a_hanging_read() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        directory.gate.clear()
        refresher = make_refresher(directory)
        reader = asyncio.create_task(refresher.refresh())
        await asyncio.sleep(0)
        await refresher.close()
        await asyncio.wait([reader])
        assert reader.cancelled()
        await refresher.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_unreadable_bodies_are_left_out() -> None:
    record = make_record("a")
    assert readable([b"junk", encode(record), b""]) == [record]


def test_records_that_are_renewed_often_are_read_often_but_nobody_sets_a_frantic_pace() -> None:
    async def scenario() -> None:
        directory = FakeDirectory()
        refresher = make_refresher(directory)
        assert refresher.pause_s == 5.0
        for lease_s, pause_s in ((30.0, 5.0), (9.0, 3.0), (0.01, 1.0)):
            directory.put(make_record("a", issued_at=directory.time, expires_at=directory.time + lease_s))
            await refresher.refresh()
            assert refresher.pause_s == pytest.approx(pause_s)
            directory.time += 0.001

    run(scenario())
