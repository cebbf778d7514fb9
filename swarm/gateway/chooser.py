"""Chooses each next token of one generation, with dice of its own.

transformers' sampling throws the dice of the whole process, so that with several generations at once a seed would mean
nothing. Here the choice is made by a logits processor, which leaves `generate()` a single token to take. So
drafts change no choice: a drafted token holds where it is the one that is chosen here anyway.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from swarm.gateway.ask import Sampling
from swarm.gateway.events import TokenInfo
from swarm.gateway.grammar import GrammarMatcher

_DICE_BITS = 63
_COLD = 1e-4  # below, dividing by it overflows, and nothing but the likeliest token has a chance


class TokenChooser(LogitsProcessor):
    """For one row.

    Args:
        defaults: the model's generation settings.
        matcher: allows only tokens that its grammar allows.
        text_of: a token's own text, for reports of probabilities.
        index: which of several continuations with the same seed this is.

    Attributes:
        reports: of the tokens that were chosen and not yet taken from here, if probabilities are wanted.
    """

    def __init__(
        self,
        sampling: Sampling,
        defaults: Any,
        matcher: GrammarMatcher | None,
        text_of: Callable[[int], str],
        index: int,
    ) -> None:
        self._sampling = sampling
        self._matcher = matcher
        self._text_of = text_of
        given = (sampling.temperature, sampling.top_p, sampling.top_k)
        samples = bool(defaults.do_sample) or any(value is not None for value in given)
        temperature = sampling.temperature if sampling.temperature is not None else defaults.temperature
        self._temperature = (1.0 if temperature is None else float(temperature)) if samples else 0.0
        top_p = sampling.top_p if sampling.top_p is not None else defaults.top_p
        self._top_p = 1.0 if top_p is None else float(top_p)
        self._top_k = (sampling.top_k if sampling.top_k is not None else defaults.top_k) or 0
        seed = secrets.randbits(_DICE_BITS) if sampling.seed is None else sampling.seed
        self._dice = torch.Generator().manual_seed((seed + index) % (1 << _DICE_BITS))
        self._seen: Tensor | None = None
        self._next: tuple[int, int] | None = None  # length and last token of the input of the next choice
        self.reports: deque[TokenInfo] = deque()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[1, V]` that leave one token; they stay as they are behind a draft that did not hold.

        `generate()` calls for the positions of a draft in their order, and drops what follows the first wrong token.
        """
        length = input_ids.shape[1]
        if self._next is not None and (length, int(input_ids[0, -1])) != self._next:
            return scores
        logits = scores[0].to("cpu", torch.float32)
        token = self._choose(self._adjusted(logits))
        if self._sampling.top_logprobs is not None:
            self.reports.append(self._report(logits, token, self._sampling.top_logprobs))
        self._next = (length + 1, token)
        if self._matcher is not None:
            self._matcher.advance(token)
        if self._seen is not None:
            self._seen[token] += 1
        only = torch.full_like(scores, float("-inf"))
        only[0, token] = 0.0
        return only

    def _adjusted(self, logits: Tensor) -> Tensor:
        sampling = self._sampling
        if not (
            self._matcher or sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty
        ):
            return logits
        logits = logits.clone()
        for token, bias in sampling.logit_bias.items():
            logits[token] += bias
        if sampling.frequency_penalty or sampling.presence_penalty:
            if self._seen is None:
                self._seen = torch.zeros_like(logits)
            logits -= sampling.frequency_penalty * self._seen
            logits -= sampling.presence_penalty * (self._seen > 0)
        if self._matcher is not None:
            logits.masked_fill_(~self._matcher.allowed(len(logits)), float("-inf"))
        return logits

    def _choose(self, logits: Tensor) -> int:
        if self._temperature < _COLD:
            return int(logits.argmax())
        ranked, tokens = (logits / self._temperature).sort(descending=True)
        if self._top_k:
            ranked, tokens = ranked[: self._top_k], tokens[: self._top_k]
        chances = ranked.softmax(dim=0)
        if self._top_p < 1:
            before = chances.cumsum(dim=0) - chances
            outside = before >= self._top_p
            outside[0] = False  # however small top_p is, the likeliest token stays
            chances = chances.masked_fill(outside, 0.0)
        return int(tokens[torch.multinomial(chances, 1, generator=self._dice)])

    def _report(self, logits: Tensor, token: int, count: int) -> TokenInfo:
        logprobs = logits.log_softmax(dim=0)
        best = logprobs.topk(min(count, len(logprobs)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return TokenInfo(
            self._text_of(token), float(logprobs[token]), tuple((self._text_of(t), float(p)) for t, p in top)
        )
