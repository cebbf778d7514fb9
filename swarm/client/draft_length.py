"""How many tokens to draft: the length that promises the most accepted tokens per second. Pure arithmetic."""

from __future__ import annotations

LONGEST = 24
MEMORY = 0.9
FIRST_ACCEPTANCE = 0.5
TRY_EVERY = 16


class DraftLength:
    """Learns how often drafted tokens are accepted, and what a step costs by its length.

    With acceptance a, a draft of k tokens yields (1 - a^(k+1)) / (1 - a) tokens on average (Leviathan et al., 2023,
    section 3.1); a step of n tokens takes base + n x slope seconds, fitted to the recent ones.
    """

    def __init__(self) -> None:
        self._accepted: dict[int, float] = {}
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        self._since_draft = 0

    def observe(self, basis: int, drafted: int, matched: int) -> None:
        """A draft on the basis of `basis` last tokens: `matched` of its `drafted` tokens were right."""
        if drafted:
            tried = min(matched + 1, drafted)
            share = matched / tried
            self._accepted[basis] = (
                MEMORY * self._accepted.get(basis, FIRST_ACCEPTANCE) + (1 - MEMORY) * share
            )

    def observe_cost(self, tokens: int, seconds: float) -> None:
        """A step of `tokens` tokens took `seconds`."""
        self._weight = MEMORY * self._weight + 1
        self._n = MEMORY * self._n + tokens
        self._t = MEMORY * self._t + seconds
        self._nn = MEMORY * self._nn + tokens * tokens
        self._nt = MEMORY * self._nt + tokens * seconds

    def choose(self, basis: int) -> int:
        """Tokens to draft on the basis of `basis` last tokens; 0 where drafting does not pay.

        A basis that does not pay is tried again from time to time with a short draft.
        """
        acceptance = min(self._accepted.get(basis, FIRST_ACCEPTANCE), 0.99)
        best = max(range(LONGEST + 1), key=lambda k: self._tokens_per_s(acceptance, k))
        self._since_draft = 0 if best else self._since_draft + 1
        return best if self._since_draft < TRY_EVERY else self._try()

    def _try(self) -> int:
        self._since_draft = 0
        return 2

    def _tokens_per_s(self, acceptance: float, drafted: int) -> float:
        expected = (1 - acceptance ** (drafted + 1)) / (1 - acceptance)
        return expected / self._cost_s(drafted + 1)

    def _cost_s(self, tokens: int) -> float:
        """Seconds of a step, in units of its base while only one length has been seen."""
        if not self._weight:
            return 1.0 + 0.05 * tokens
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean_n**2
        slope = 0.05 * mean_t
        if spread > 0.1:
            slope = max((self._nt / self._weight - mean_n * mean_t) / spread, 0.0)
        return max(mean_t + slope * (tokens - mean_n), 0.1 * mean_t)
