"""A client's forward for one token, past what the model's own code does around it.

For the layers' sake that code makes masks and rotary positions, which here nobody needs, and checks its arguments more
than once: a millisecond of every token. In most models all that counts is that embeddings go into the layers, and that
the final norm and the head make logits of what comes out. When a model is loaded, its own code is run with layers that
answer at random; where the lean forward gives the very same numbers, it is taken for single tokens from then on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from swarm.shards.foreign_code import CANNOT_TRY
from swarm.shards.remote import CallContext, RemoteCache
from swarm.shards.remote_layers import RemoteLayers
from swarm.shards.stack import text_config

_LENGTHS = (5, 9)  # of the pasts that it is tried with
_USUAL = ("return_dict", "use_cache")  # True, also where nothing is said
_TAKEN = ("attention_mask", "input_ids", "position_ids")


class LeanForward:
    """The way of one token through a client's model. Safe for several threads, as the model is.

    Args:
        norm: what lies between the layers and the head.
        form: the class of what the model returns.
        cache_name: the argument under which it takes its cache.
    """

    def __init__(self, model: Any, norm: nn.Module, form: type, cache_name: str) -> None:
        self._remote: RemoteLayers = model.remote_layers
        self._context: CallContext = self._remote.__dict__["context"]
        self._stack: nn.Module = model.remote_stack
        self._hooks = _hooks_of(self._stack)
        self._embeddings: nn.Module = model.get_input_embeddings()
        self._head: nn.Module = model.get_output_embeddings()
        self._norm = norm
        self._form = form
        self._cache_name = cache_name
        self._known = {*_TAKEN, *_USUAL, "logits_to_keep", cache_name}  # one token has no others' logits
        self._limit: int | None = self._remote.__dict__["traits"].position_limit

    def takes(self, given: dict[str, Any]) -> bool:
        """Whether the model is called for one token of one row after others, and for nothing besides its logits."""
        ids, cache = given.get("input_ids"), given.get(self._cache_name)
        if not isinstance(ids, Tensor) or ids.shape != (1, 1):
            return False
        if not isinstance(cache, RemoteCache) or not cache.length:
            return False
        if torch.is_grad_enabled() or _hooks_of(self._stack) != self._hooks:
            return False
        if self._limit is not None and cache.length >= self._limit:
            return False
        is_usual = all(given.get(name) in (None, True) for name in _USUAL)
        others = (value for name, value in given.items() if name not in self._known)
        return is_usual and not any(value is not None and value is not False for value in others)

    def run(self, given: dict[str, Any]) -> Any:
        """What the model would return for arguments that this `takes`."""
        cache, context = given[self._cache_name], self._context
        context.arguments, context.cache = given, cache
        try:
            hidden = self._remote.forward(self._embeddings(given["input_ids"]))
        finally:
            context.clear()
        return self._form(**{"logits": self._head(self._norm(hidden)), self._cache_name: cache})


def with_lean_forward(cls: type) -> Callable[..., Any]:
    """The forward of `cls`, for instances that may have a lean one."""
    forward: Callable[..., Any] = cls.forward  # type: ignore[attr-defined]

    @functools.wraps(forward)  # generate() looks at the signature
    def forwarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        lean: LeanForward | None = self.__dict__.get("lean_forward")
        if lean is not None and not args and lean.takes(kwargs):
            return lean.run(kwargs)
        return forward(self, *args, **kwargs)

    return forwarded


@torch.no_grad()
def find_lean_forward(model: Any, cache_name: str) -> LeanForward | None:
    """That of a model without one, if there is any: found by trying."""
    config = text_config(model.config)
    is_usual = all(getattr(config, name, True) for name in _USUAL)
    if not is_usual or model.remote_layers.__dict__["traits"].per_layer_width:
        return None
    if model.get_output_embeddings() is None:
        return None
    try:
        trials = [_Trial(model, cache_name, length) for length in _LENGTHS]
    except CANNOT_TRY:
        return None
    for norm in _norms(model):
        lean = LeanForward(model, norm, type(trials[0].output), cache_name)
        if all(trial.agrees(lean) for trial in trials):
            return lean
    return None


def _norms(model: Any) -> Iterator[nn.Module]:
    """What may be the norm before the head."""
    layers = {id(module) for module in (model.remote_layers, model.get_input_embeddings())}
    for child in model.remote_stack.children():
        if id(child) not in layers and not isinstance(child, nn.ModuleList):
            yield child
    yield nn.Identity()


class _Trial:
    """One token through the model's own code, after a past of `length`, with layers that answer at random."""

    def __init__(self, model: Any, cache_name: str, length: int) -> None:
        self._model = model
        self._context: CallContext = model.remote_layers.__dict__["context"]
        dice = torch.Generator().manual_seed(length)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        self._ids = torch.randint(vocabulary, (1, 1), generator=dice).to(model.device)
        self._cache_name = cache_name
        self._length = length
        self._answer: Tensor | None = None
        self._dice = dice
        self._entering: list[Tensor] = []
        self.output = self._called(lambda given: model(**given, return_dict=True, use_cache=True))
        (self._entered,) = self._entering

    def agrees(self, lean: LeanForward) -> bool:
        """Whether the lean forward sends the same into the layers, and returns the same."""
        try:
            found, expected = dict(self._called(lean.run)), dict(self.output)
        except CANNOT_TRY:
            return False
        if not found.keys() == expected.keys() == {"logits", self._cache_name}:
            return False
        return _same(self._entering[-1], self._entered) and _same(expected["logits"], found["logits"])

    def _called(self, call: Callable[[dict[str, Any]], Any]) -> Any:
        cache = self._model.remote_layers.new_cache()
        cache.pretend(self._length)
        given = {
            "input_ids": self._ids,
            self._cache_name: cache,
            "attention_mask": None,
            "position_ids": None,
        }
        self._context.answer = self._answered
        try:
            return call(given)
        finally:
            self._context.answer = None

    def _answered(self, hidden: Tensor) -> Tensor:
        self._entering.append(hidden.clone())
        if self._answer is None:
            self._answer = torch.randn(hidden.shape, generator=self._dice).to(hidden)
        return self._answer.clone()


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def _hooks_of(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)
