"""How many tokens of prompts run at once, so that sessions that decode do not wait long for each other's next token.

What a decode step takes and what a token of a prompt adds are measured; a batch beside decoding sessions may take
`STRETCH` times what their decode step takes alone. But when more sessions wait with short prompts than decode, as when
many begin at once, the prompts go first, so many together as take `JOINT_S`: then the next hop begins with the first of
them while this one computes the others. Even while nobody decodes, a batch takes no more than about `WHOLE_S`, lest a
session that comes meanwhile waits for long at every hop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from swarm.peer.scheduler import LEAST_PORTION

STRETCH = 1.4
JOINT_S = 0.15
WHOLE_S = 1.0
LEAST_WHOLE = 64  # token rows: products of fewer read the weights more often than need be
RECENTLY_S = 1.0  # who decoded within this time will decode again, or longer ago if hops held them up:
HOPS = 2  # each with a batch of prompts that it had begun, as long as batches take lately
LATELY_S = 10.0  # what steps took before that says little of what they would take now
LONG_TOKENS = 32  # of shorter prompts, what they take has little to do with their tokens
_MEMORY = 0.9


class PrefillShare:
    """Times in seconds, by one clock of the caller's. `whole` is the greatest budget, in token rows."""

    def __init__(self, whole: int) -> None:
        self._whole = whole
        self._decoded_s: dict[bytes, float] = {}
        self._begun_s: dict[bytes, float] = {}
        self.decode_s: float | None = None
        self.token_s: float | None = None
        self.prefill_s: float | None = None
        self._longest_s = 0.0
        self._last_decode_s = 0.0
        self._last_prefill_s = 0.0

    def ran(
        self,
        tokens: int,
        decoded: Collection[bytes],
        short: bool,
        took_s: float,
        now_s: float,
        begun: Collection[bytes] = (),
    ) -> None:
        """A batch of so many token rows has run in `took_s`: steps of sessions that `decoded`; `short` if no others.

        The prompts of `begun` were in it, and so short that these sessions decode next.
        """
        self._longest_s = max(took_s, _MEMORY * self._longest_s)
        for session in decoded:
            self._decoded_s[session] = now_s
        for session in begun:
            self._begun_s[session] = now_s
        if short:
            self.decode_s = _average(self.decode_s, took_s)
            self._last_decode_s = now_s
            return
        if tokens >= LONG_TOKENS:
            self.prefill_s = _average(self.prefill_s, took_s / tokens)
            self._last_prefill_s = now_s
        if self.decode_s is not None:
            self.token_s = _average(self.token_s, max(took_s - self.decode_s, 0.0) / tokens)

    def decode_lately_s(self, now_s: float) -> float | None:
        """`decode_s`, if a decode step ran lately."""
        return self.decode_s if now_s - self._last_decode_s < LATELY_S else None

    def prefill_lately_s(self, now_s: float) -> float | None:
        """What each token of a long prompt takes, if such a prompt ran lately."""
        return self.prefill_s if now_s - self._last_prefill_s < LATELY_S else None

    def forget(self, session: bytes) -> None:
        """This session has ended."""
        self._decoded_s.pop(session, None)
        self._begun_s.pop(session, None)

    def budget(self, long: bytes, now_s: float, prompts: Sequence[int] = (), here: int = 0) -> int:
        """Token rows of prompts that may run now, the first of them of session `long`.

        `prompts` is how many token rows each session that waits with one has left, the first of them first; `here` how
        many sessions wait with a decode step.
        """
        after_s = now_s - RECENTLY_S - HOPS * self._longest_s
        decoding = max(_later(self._decoded_s, after_s, long), here)
        joint = self._rows_in(JOINT_S)
        if prompts and prompts[0] <= joint and sum(tokens <= joint for tokens in prompts) > max(decoding, 1):
            return joint
        if self.decode_s is None or not (decoding or _later(self._begun_s, after_s, long)):
            return max(self._rows_in(WHOLE_S), min(LEAST_WHOLE, self._whole))
        if not self.token_s:
            return LEAST_PORTION
        return min(max(int((STRETCH - 1) * self.decode_s / self.token_s), LEAST_PORTION), self._whole)

    def _rows_in(self, seconds: float) -> int:
        """How many token rows of prompts take so long, as far as that is known."""
        if not self.prefill_s:
            return self._whole
        return min(max(int(seconds / self.prefill_s), LEAST_PORTION), self._whole)


def _later(moments_s: Mapping[bytes, float], after_s: float, other_than: bytes) -> int:
    return sum(at > after_s for key, at in moments_s.items() if key != other_than)


def _average(before: float | None, new: float) -> float:
    return new if before is None else _MEMORY * before + (1 - _MEMORY) * new
