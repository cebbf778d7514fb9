"""The client's side of a chain: a cache that lives elsewhere, and the one layer that stands for all of them.

Shapes: B rows, n new tokens, S tokens including the cached ones, H hidden size.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from swarm.core.errors import RequestError
from swarm.shards.step import Step, StepTensors
from swarm.shards.traits import ModelTraits

DEFAULT_MAX_TOKENS = 512


class RemoteSession(Protocol):
    """One session on a chain of hops."""

    def step(self, step: Step, *, keep_last: int) -> Tensor:
        """Hidden state `[B, n, H]` after the last layer; only the last `keep_last` positions count (0: all)."""
        ...

    def close(self) -> None:
        """End the session on every hop; may be called again."""
        ...


class RemoteRunner(Protocol):
    """Opens sessions on chains."""

    def open(self, *, max_tokens: int, rollback: bool) -> RemoteSession:
        """A new session for about `max_tokens` positions per row."""
        ...


class _RemoteCacheLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """What transformers' mask builders and `generate` ask of the client's only layer."""

    is_croppable = True
    is_sliding = False

    def __init__(self, length: list[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._length = length
        self.is_initialized = True

    def lazy_initialization(self, *args: Any) -> None:
        """Nothing is stored here."""

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RequestError("the layers of this model run elsewhere; their cache cannot be written here")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._length[0] + query_length, 0

    def get_seq_length(self) -> int:
        return self._length[0]

    def get_max_length(self) -> int:
        return -1


class RemoteCache(Cache):
    """A `past_key_values` whose tensors live on the hops of one session.

    The session is opened at the first forward and closed with the cache. Roll-back and row selection are sent with
    the next step.

    Attributes:
        drafted: whether the generation that goes on verifies drafts.
    """

    def __init__(
        self,
        runner: RemoteRunner,
        traits: ModelTraits,
        *,
        max_tokens: int | None = None,
        rollback: bool = True,
    ) -> None:
        self._length = [0]  # shared with the layer, which must not refer back: no reference cycle
        super().__init__(layers=[_RemoteCacheLayer(self._length)])
        self._runner = runner
        self._traits = traits
        self._max_tokens = max_tokens
        self._rollback = rollback
        self._session: RemoteSession | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._select: tuple[int, ...] | None = None
        self._failed: Step | None = None
        self._number = 0
        self._rows = 0
        self.drafted = False

    @property
    def length(self) -> int:
        """Tokens per row in the cache."""
        return self._length[0]

    def step(self, tensors: StepTensors, *, keep_last: int) -> Tensor:
        """Run new tokens through the chain; hidden state `[B, n, H]` after the last layer.

        Raises:
            RequestError: if the step can never work.
            SwarmUnavailable: if the chain cannot be completed in time; the same call may be repeated later.
        """
        step = self._next_step(tensors)
        session = self._opened(tensors.tokens)
        self._failed = step
        hidden = session.step(step, keep_last=keep_last)
        self._failed = None
        self._number = step.number + 1
        self._length[0] += tensors.tokens
        self._select = None
        self._rows = tensors.rows
        return hidden

    def close(self) -> None:
        """End the session; the cache is empty afterwards and may be used again."""
        if self._finalizer is not None:
            self._finalizer()
        self._session = self._finalizer = self._select = self._failed = None
        self._length[0] = self._number = self._rows = 0

    def pretend(self, length: int) -> None:
        """Be as long as a cache of `length` tokens, for trials that open no session."""
        assert self._session is None
        self._length[0] = length

    def _next_step(self, tensors: StepTensors) -> Step:
        """The step for these tensors; a repetition of a failed one keeps its number."""
        step = Step(self._number, self.length, tensors, self._select)
        failed = self._failed
        if failed is None or _same(failed, step):
            return step
        if failed.select_rows is not None:
            raise RequestError(
                "the last step failed while rows were reordered: repeat it, or begin a new cache"
            )
        self._number = failed.number + 1  # hops that did the failed step roll it back
        return Step(self._number, self.length, tensors, self._select)

    def _opened(self, new_tokens: int) -> RemoteSession:
        if self._session is None:
            expected = self._max_tokens or max(DEFAULT_MAX_TOKENS, 2 * new_tokens)
            session = self._runner.open(max_tokens=max(expected, new_tokens), rollback=self._rollback)
            self._session = session
            self._finalizer = weakref.finalize(self, session.close)
            self._finalizer.atexit = False  # at exit the links end anyway; nothing must wait for a peer then
        return self._session

    # what transformers asks for

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens per row in the cache."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """`(kv_length, kv_offset)` for the next `query_length` tokens."""
        return self.length + query_length, 0

    def has_previous_state(self, *args: Any, **kwargs: Any) -> bool:
        """Whether anything is cached."""
        return self.length > 0

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` can put the cache back as it was."""
        return self._traits.croppable

    def activate_past_recording(self) -> None:
        """Ask for roll-back; too late for sliding windows once the session is open without."""
        self._rollback = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the count may be given with either sign, as in transformers.

        Raises:
            RequestError: if the model cannot roll back, or there are fewer tokens.
        """
        removed = abs(tokens_to_remove)
        if removed == 0:
            return
        if not self._traits.croppable:
            raise RequestError(
                "this model keeps a recurrent state and cannot roll back to an earlier position"
            )
        if removed > self.length:
            raise RequestError(f"cannot remove {removed} of {self.length} cached tokens")
        self._length[0] -= removed

    def reset(self) -> None:
        """Forget everything."""
        self.close()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row `i` continues what row `beam_idx[i]` was."""
        self._compose(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows named by `indices` (numbers, or one bool per row)."""
        self._compose(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Put every row `repeats` times, one after the other."""
        self._compose(torch.arange(self._current_rows()).repeat_interleave(repeats))

    def _current_rows(self) -> int:
        return self._rows if self._select is None else len(self._select)

    def _compose(self, rows: Tensor) -> None:
        if self.length == 0:
            return
        chosen = tuple(int(row) for row in rows.flatten().tolist())
        if self._select is not None:
            chosen = tuple(self._select[row] for row in chosen)
        self._select = None if chosen == tuple(range(self._rows)) else chosen

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise RequestError(
            "a cache that lives on other machines cannot be copied; generate again from the tokens"
        )

    def __reduce__(self) -> NoReturn:
        raise RequestError("a cache that lives on other machines cannot be pickled")


def _same(a: Step, b: Step) -> bool:
    if (a.start, a.select_rows) != (b.start, b.select_rows):
        return False
    left, right = a.tensors.named(), b.tensors.named()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class CallContext(threading.local):
    """What the current thread's forward call was given; the remote layer needs it beside the hidden state."""

    def __init__(self) -> None:
        self.outer_mask: Tensor | None = None
        self.keep_last = 0
        self.arguments: dict[str, Any] = {}
        self.per_layer: Tensor | None = None
        self.cache: RemoteCache | None = None
        self.answer: Callable[[Tensor], Tensor] | None = None  # in place of the layers'

    def clear(self) -> None:
        """The call is over."""
        self.arguments, self.cache, self.per_layer = {}, None, None
        self.outer_mask, self.keep_last = None, 0  # a call of the stack alone has no outer model
