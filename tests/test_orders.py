"""A peer goes where a file says, once for each order, and stays where it is when an order cannot be carried out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarm.core.span import Span
from swarm.peer.orders import LOOK_S, Orders
from tests.virtual_time import run

LAYERS = 8


class Traveller:
    """A peer that notes where it is sent; it comes back from layers in `bad`."""

    def __init__(self, span: Span, bad: frozenset[Span] = frozenset()) -> None:
        self.span = span
        self.deeds: list[str] = []
        self._bad = bad

    async def claim(self, span: Span) -> None:
        self.deeds.append(f"claim {span}")

    async def go(self, span: Span) -> None:
        self.deeds.append(f"go {span}")
        if span not in self._bad:
            self.span = span


def deeds(path: Path, peer: Traveller, *texts: str) -> list[str]:
    """What the peer does while these texts stand in the file, one after the other."""

    async def scenario() -> None:
        following = asyncio.create_task(Orders(path, peer, LAYERS).run())
        await asyncio.sleep(2 * LOOK_S)
        for text in texts:
            path.write_text(text, encoding="utf-8")
            await asyncio.sleep(4 * LOOK_S)
        assert not following.done()
        following.cancel()
        await asyncio.wait([following])

    run(scenario())
    return peer.deeds


def test_an_order_is_carried_out_once(tmp_path: Path) -> None:
    peer = Traveller(Span(0, 4))
    assert deeds(tmp_path / "layers", peer, "4:8\n", "0:4") == ["claim 4:8", "go 4:8", "claim 0:4", "go 0:4"]


def test_where_it_came_back_from_it_does_not_go_again_by_itself(tmp_path: Path) -> None:
    peer = Traveller(Span(0, 4), bad=frozenset({Span(1, 5)}))
    assert deeds(tmp_path / "layers", peer, "1:5") == ["claim 1:5", "go 1:5"]
    assert peer.span == Span(0, 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("six", "START:END"),
        ("4:4", "needs 0 <= start < end"),
        ("5:9", "only layers 0:8"),
        ("3:8", "room was made for 4"),
    ],
)
def test_an_order_that_makes_no_sense_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, complaint: str
) -> None:
    assert deeds(tmp_path / "layers", Traveller(Span(0, 4)), text) == []
    (record,) = caplog.records
    assert complaint in record.message
    assert record.message.endswith("stays at 0:4")


def test_no_file_and_an_empty_one_order_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert deeds(tmp_path / "layers", Traveller(Span(0, 4))) == []
    assert deeds(tmp_path / "layers", Traveller(Span(0, 4)), "", "0:4") == []
    assert not caplog.records
