"""Speculative decoding over the chain: drafts that one pass through all hops verifies.

Greedy output stays what it was; sampled output keeps its distribution: the verifying pass samples every token from the
model itself, and a draft only counts where it agrees (transformers' assisted decoding).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.generation.candidate_generator import CandidateGenerator

from swarm.client.draft_length import LONGEST, DraftLength
from swarm.client.ngram import NgramIndex
from swarm.client.stats import ClientStats
from swarm.core.errors import ConfigError

WORDS = ("off", "auto", "ngram")


class NgramDrafts(CandidateGenerator):
    """Candidates out of the sequence itself, as many as promise to pay.

    Args:
        length: learns across generations of a model.
        max_length: positions after which generation stops.
        end_tokens: drafts stop before these.
    """

    def __init__(
        self, length: DraftLength, stats: ClientStats, max_length: int, end_tokens: set[int]
    ) -> None:
        self._length = length
        self._stats = stats
        self._max_length = max_length
        self._end_tokens = end_tokens
        self._index = NgramIndex()
        self._basis = 0
        self._drafted = 0
        self._sent_s = 0.0
        self._steps = 0

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """The sequence `[1, S]` with drafted tokens behind it, `[1, S + k]`."""
        self._index.update(input_ids[0].tolist())
        room = self._max_length - input_ids.shape[1] - 1
        draft, self._basis = self._index.propose(LONGEST) if room > 0 else ([], 0)
        length = min(self._length.choose(self._basis), room) if draft else 0
        draft = self._before_end(draft[:length])
        self._drafted = len(draft)
        self._sent_s = time.perf_counter()
        if not draft:
            return input_ids, None
        new = torch.tensor([draft], dtype=input_ids.dtype, device=input_ids.device)
        return torch.cat([input_ids, new], dim=1), None

    def _before_end(self, draft: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(draft) if token in self._end_tokens), len(draft))
        return draft[:end]

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: Any) -> None:
        """Learn from the verified draft."""
        matched = int(num_matches)
        self._length.observe(self._basis, self._drafted, min(matched, self._drafted))
        self._steps += 1
        if self._steps > 1:  # the first step brings the prompt
            self._length.observe_cost(self._drafted + 1, time.perf_counter() - self._sent_s)
        self._stats.drafted_tokens += self._drafted
        self._stats.accepted_tokens += min(matched, self._drafted)


class Speculation:
    """Turns the `speculate` option of `generate` into what transformers understands; usable from several threads.

    `off` drafts nothing. `ngram` drafts from the text itself. `auto` does so where that is possible: one row, no beams,
    a model that can roll back. Anything else is an assistant model of transformers.

    Args:
        length: how many tokens to draft.

    Attributes:
        can_roll_back: whether the model can take drafts back.
    """

    def __init__(self, stats: ClientStats, can_roll_back: bool, length: DraftLength | None = None) -> None:
        self._stats = stats
        self.can_roll_back = can_roll_back
        self._length = length or DraftLength()
        self._thread = threading.local()

    @property
    def drafts_ngrams(self) -> bool:
        """Whether the generation of this thread drafts from its own text."""
        return bool(getattr(self._thread, "ngrams", False))

    @contextmanager
    def arranged(self, speculate: Any, arguments: dict[str, Any], rows: int) -> Iterator[dict[str, Any]]:
        """The arguments for transformers' `generate`.

        Raises:
            ConfigError: if `speculate` is no option, or the model or the other arguments do not allow it.
        """
        if not isinstance(speculate, str):
            yield arguments | {"assistant_model": speculate}
            return
        if speculate not in WORDS:
            raise ConfigError(
                f"speculate={speculate!r}: use one of {', '.join(WORDS)}, or an assistant model"
            )
        obstacle = self._obstacle(arguments, rows)
        if speculate == "ngram" and obstacle:
            raise ConfigError(f"speculate='ngram' does not work with {obstacle}")
        if speculate == "off" or obstacle:
            yield arguments
            return
        self._thread.ngrams = True
        try:
            yield arguments | {"prompt_lookup_num_tokens": LONGEST}
        finally:
            self._thread.ngrams = False

    def _obstacle(self, arguments: dict[str, Any], rows: int) -> str:
        config = arguments.get("generation_config")

        def option(name: str, default: Any) -> Any:
            value = arguments.get(name)
            return value if value is not None else getattr(config, name, None) or default

        if not self.can_roll_back:
            return "a model that cannot roll back"
        if rows > 1 or option("num_return_sequences", 1) > 1:
            return "several rows"
        if option("num_beams", 1) > 1:
            return "beams"
        if arguments.get("use_cache") is False:
            return "use_cache=False"
        given = ("assistant_model", "prompt_lookup_num_tokens", "penalty_alpha", "custom_generate")
        return next((name for name in given if arguments.get(name) is not None), "")

    def drafts(self, max_length: int, end_tokens: Tensor | None) -> NgramDrafts:
        """The drafting side of one generation."""
        ends = set() if end_tokens is None else set(end_tokens.flatten().tolist())
        return NgramDrafts(self._length, self._stats, max_length, ends)
