"""What a signal means while a peer starts, serves and leaves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from swarm.peer.stop_signals import StopSignals


def outcome(serves_after: int, signals: int) -> tuple[bool, bool, bool]:
    """First event, second event and interruption after this many signals; serving begins after some of them."""

    async def scenario() -> tuple[bool, bool, bool]:
        stop = StopSignals()
        try:
            for number in range(signals):
                if number == serves_after:
                    stop.serving()
                os.kill(os.getpid(), (signal.SIGINT, signal.SIGTERM)[number % 2])
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            assert stop.interrupted
        finally:
            stop.uninstall()
        return stop.first.is_set(), stop.second.is_set(), stop.interrupted

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("serves_after", "signals", "expected"),
    [
        (99, 1, (False, False, True)),
        (0, 1, (True, False, False)),
        (0, 2, (True, True, False)),
        (0, 3, (True, True, True)),
    ],
    ids=["while it starts", "first", "second", "third"],
)
def test_signals_stop_a_peer_faster_and_faster(
    serves_after: int, signals: int, expected: tuple[bool, bool, bool]
) -> None:
    assert outcome(serves_after, signals) == expected


def test_signals_are_given_back() -> None:
    before: Callable[..., object] | int | None = signal.getsignal(signal.SIGTERM)
    outcome(0, 1)
    assert signal.getsignal(signal.SIGTERM) == before
