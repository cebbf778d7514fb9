"""What a layer takes on peers now, as the steps of this node's own sessions show it.

A peer that is much slower than it announces is a straggler. What was seen counts in full at first and fades back to
what the peer announces, so that one that recovers is tried again; one that is found slow again waits twice as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.routing.records import PeerRecord

SMOOTHING = 0.25
CLIP = 4.0  # times the usual is what a step of a peer in good standing counts at most: one makes no straggler
WORSE = 2.0
LEAST_EXCESS_S = 0.002  # for a step through the whole span; less than that is noise
HOLD_S = 2.0
FIRST_FADE_S = 10.0
LONGEST_FADE_S = 80.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """`layer_s` as it was at `seen_s`; after `HOLD_S` it fades over `fade_s`. `slow_s`: when it was last too slow."""

    layer_s: float
    seen_s: float
    fade_s: float
    slow_s: float | None

    def at(self, announced_s: float, now: float) -> float:
        weight = min(max(1.0 - (now - self.seen_s - HOLD_S) / self.fade_s, 0.0), 1.0)
        return announced_s + (self.layer_s - announced_s) * weight


class ObservedPaces:
    """Smoothed seconds per layer and token of peers that were used; times are of any clock that does not go back."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def observe(self, record: PeerRecord, layers: int, tokens: int, took_s: float, now: float) -> None:
        """Take in one step of `tokens` token rows through `layers` layers of this peer, queueing included.

        Queueing that the peer announces is not counted. Tokens that come together are cheaper each, so that a step of
        several can only show that a peer is slower than known.
        """
        announced_s, known = record.seconds_per_layer, self._seen.get(record.peer_id)
        sample_s = max(took_s - record.queue_s, 0.0) / layers / tokens
        base_s = (announced_s or sample_s) if known is None else known.at(announced_s, now)
        if tokens > 1 and sample_s < base_s:
            return
        if not _is_worse(record, base_s):
            sample_s = min(sample_s, CLIP * max(base_s, announced_s) + LEAST_EXCESS_S / layers)
        layer_s = base_s + SMOOTHING * (sample_s - base_s)
        self._seen[record.peer_id] = self._judged(record, layer_s, known, now)

    def _judged(self, record: PeerRecord, layer_s: float, known: _Seen | None, now: float) -> _Seen:
        fade_s, slow_s = (FIRST_FADE_S, None) if known is None else (known.fade_s, known.slow_s)
        if slow_s is not None and now - slow_s > HOLD_S + 2 * fade_s:
            fade_s, slow_s = FIRST_FADE_S, None
        if _is_worse(record, layer_s):
            was_tried_again = slow_s is not None and now - slow_s > HOLD_S and not self.is_slow(record, now)
            if was_tried_again:
                fade_s = min(2 * fade_s, LONGEST_FADE_S)
            slow_s = now
        return _Seen(layer_s, now, fade_s, slow_s)

    def layer_s(self, record: PeerRecord, now: float) -> float:
        """Seconds per layer and token, as far as anybody knows; 0 if nobody does."""
        seen = self._seen.get(record.peer_id)
        return record.seconds_per_layer if seen is None else seen.at(record.seconds_per_layer, now)

    def is_slow(self, record: PeerRecord, now: float) -> bool:
        """Whether this peer is a straggler now."""
        seen = self._seen.get(record.peer_id)
        return seen is not None and _is_worse(record, seen.at(record.seconds_per_layer, now))

    def stragglers(self, records: Mapping[str, PeerRecord], now: float) -> dict[str, float]:
        """The stragglers among `records` (by peer id), with the seconds per layer to expect of them."""
        return {
            peer_id: seen.at(records[peer_id].seconds_per_layer, now)
            for peer_id, seen in self._seen.items()
            if peer_id in records and self.is_slow(records[peer_id], now)
        }

    def retain(self, records: Mapping[str, PeerRecord]) -> None:
        """Forget peers that are not among `records`."""
        self._seen = {peer_id: seen for peer_id, seen in self._seen.items() if peer_id in records}


def is_much_slower(step_s: float, usual_s: float) -> bool:
    """Whether a step through one peer takes so much longer than usual that it is no noise."""
    return step_s - usual_s > max((WORSE - 1) * usual_s, LEAST_EXCESS_S)


def _is_worse(record: PeerRecord, layer_s: float) -> bool:
    layers = len(record.span)
    return is_much_slower(layer_s * layers, record.seconds_per_layer * layers)
