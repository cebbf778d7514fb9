"""Texts that must follow a JSON schema: llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swarm.core.errors import RequestError
from swarm.gateway.api_error import ApiError, bad_request

MISSING = "this gateway has no constrained decoding: pip install 'layerswarm[gateway]'"
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class GrammarMatcher:
    """Follows one generation through its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, vocabulary: int) -> Tensor:
        """`[vocabulary]` bool: the tokens that may come next; once the text is complete, only its end.

        Raises:
            RequestError: the grammar has become too complex to follow.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise RequestError("the JSON schema is too complex to follow: simplify it")
        bits = np.unpackbits(packed, bitorder="little")[:vocabulary].astype(bool)
        mask = torch.zeros(vocabulary, dtype=torch.bool)
        mask[: len(bits)] = torch.from_numpy(bits)
        return mask

    def advance(self, token: int) -> None:
        """This token was chosen."""
        self._matcher.consume_token(token)


class Grammars:
    """Compiles schemas for one tokenizer.

    Args:
        tokenizer: of transformers.
        vocabulary: how many logits the model has.
        ends: tokens that end a text.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = list(ends)
        self._prepared: Any = None

    def compile(self, schema: Mapping[str, Any], param: str) -> str:
        """The grammar of JSON texts that follow `schema`.

        Raises:
            ApiError: 400 if it is no usable schema, naming `param`; 501 where llguidance is not installed.
        """
        library = _library()
        try:
            grammar = library.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_flexible": False}
            )
        except ValueError as exc:
            raise bad_request(f"not a usable JSON schema: {_line(exc)}", param) from exc
        problem = library.LLMatcher.validate_grammar(grammar, self._adapted(library))
        if problem and not problem.startswith("WARNING"):
            raise bad_request(f"not a usable JSON schema: {_line(problem)}", param)
        return str(grammar)

    def matcher(self, grammar: str) -> GrammarMatcher:
        """For one generation.

        Raises:
            RequestError: the grammar cannot be used.
        """
        library = _library()
        matcher = library.LLMatcher(self._adapted(library), grammar, log_level=0)
        if matcher.is_error():
            raise RequestError(f"not a usable JSON schema: {_line(matcher.get_error())}")
        return GrammarMatcher(matcher)

    def _adapted(self, library: Any) -> Any:
        if self._prepared is None:
            from llguidance.hf import from_tokenizer

            self._prepared = from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._ends)
        return self._prepared


def _library() -> Any:
    try:
        import llguidance
    except ImportError as exc:
        raise ApiError(400, MISSING, code="unsupported") from exc
    return llguidance


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
