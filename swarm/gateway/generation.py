"""One continuation: a thread runs transformers' `generate()`, the event loop reads what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from swarm.client.profile import StepProfile
from swarm.client.token_stream import TextAssembler
from swarm.core.errors import Interrupted, SwarmError
from swarm.gateway.api_error import unexpected
from swarm.gateway.ask import Ask
from swarm.gateway.chooser import TokenChooser
from swarm.gateway.events import Ending, Piece, TokenInfo
from swarm.gateway.quiet_log import log_quietly
from swarm.gateway.vocabulary import Vocabulary
from swarm.routing.chain import Chain

Outcome = Piece | Ending | SwarmError


class SessionLine(Protocol):
    """What `SwarmModel.line` returns: one generation's session."""

    arguments: Any

    @property
    def chain(self) -> Chain | None: ...

    @property
    def sessions(self) -> tuple[str, ...]: ...

    @property
    def profile(self) -> StepProfile: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class LinedModel(Protocol):
    """What of `SwarmModel` is used."""

    generation_config: Any
    config: Any

    def line(
        self, max_tokens: int, only: frozenset[str] | None = None, *, drafts: bool = False
    ) -> SessionLine: ...

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any: ...

    def encode(self, input_ids: Tensor, **cache: Any) -> Tensor: ...


class Generation:
    """One prompt's continuation. `run` belongs to a thread, everything else to the event loop.

    Args:
        index: which of the request's continuations it is, those of the first prompt first.
        tell: called on the event loop with every outcome; an `Ending` or an error is the last.
        speculates: draft tokens from the text itself, where the model can take them back.
    """

    def __init__(
        self,
        model: LinedModel,
        vocabulary: Vocabulary,
        ask: Ask,
        index: int,
        tell: Callable[[Outcome], None],
        *,
        speculates: bool = False,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._ask = ask
        place, self._index = divmod(index, ask.count)
        self._prompt = ask.prompts[place]
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._line = model.line(len(self._prompt) + ask.max_tokens, ask.only, drafts=speculates)
        self._drafting = {"speculate": "auto"} if speculates else {}
        self._interrupted = False
        self.chain: Chain | None = None
        self.sessions: tuple[str, ...] = ()

    @property
    def profile(self) -> StepProfile:
        """Where the time of its steps went."""
        return self._line.profile

    def interrupt(self) -> None:
        """Let it end at once; its session is freed."""
        self._interrupted = True
        self._line.interrupt()

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def run(self) -> None:
        """Generate to the end. Nothing is raised: the last outcome tells."""
        try:
            self._report(self._generate())
        except SwarmError as error:
            self._report(error)
        except Exception as error:
            log_quietly("a generation", error)
            self._report(unexpected())
        finally:
            self._line.close()

    def _generate(self) -> Ending:
        ask, vocabulary = self._ask, self._vocabulary
        matcher = vocabulary.grammars.matcher(ask.grammar) if ask.grammar is not None else None
        chooser = TokenChooser(
            ask.sampling, self._model.generation_config, matcher, vocabulary.text_of, self._index
        )
        assembler = TextAssembler(vocabulary.decoder(ask.tools), ask.stops)
        stream = _Stream(self, assembler, chooser, vocabulary.ends)
        ids = torch.tensor([list(self._prompt)])
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ask.max_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=StoppingCriteriaList([_Stop(self, assembler)]),
            streamer=stream,
            pad_token_id=vocabulary.padding,
            **self._drafting,
            **self._line.arguments,
        )
        if self._interrupted:
            raise Interrupted("the generation was interrupted")
        return stream.ending(ask.max_tokens)

    def came(self, piece: Piece) -> None:
        """Text came, mostly with a token; from the thread."""
        self.chain = self._line.chain or self.chain
        self.sessions = self._line.sessions or self.sessions
        self._report(piece)

    def _report(self, outcome: Outcome) -> None:
        with suppress(RuntimeError):  # the event loop has ended, and with it whoever would read this
            self._loop.call_soon_threadsafe(self._tell, outcome)


class _Stop(StoppingCriteria):
    """Ends a generation that reached a stop text, or that nobody waits for."""

    def __init__(self, generation: Generation, assembler: TextAssembler) -> None:
        self._generation = generation
        self._assembler = assembler

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ends = self._assembler.stopped or self._generation.interrupted
        return torch.full((input_ids.shape[0],), ends, device=input_ids.device)


class _Stream:
    """The streamer that `generate()` calls: first with the prompt, then with new tokens, several where drafts held."""

    def __init__(
        self, generation: Generation, assembler: TextAssembler, chooser: TokenChooser, ends: Sequence[int]
    ) -> None:
        self._generation = generation
        self._assembler = assembler
        self._chooser = chooser
        self._ends = ends
        self._count = 0
        self._prompt_passed = False
        self._waiting: list[tuple[int, TokenInfo]] = []  # where in the text they begin
        self._last: int | None = None

    def put(self, value: Tensor) -> None:
        if not self._prompt_passed:
            self._prompt_passed = True
            return
        for token in value.flatten().tolist():
            if not self._assembler.stopped:
                self._add(token)

    def _add(self, token: int) -> None:
        self._last = token
        self._count += 1
        info = self._chooser.reports.popleft() if self._chooser.reports else None
        if info is not None and token not in self._ends:
            self._waiting.append((self._assembler.received, info))
        text = self._assembler.add([token])
        self._generation.came(Piece(text, self._certain(len(self._assembler.text)), is_token=True))

    def end(self) -> None:
        text = self._assembler.finish()
        whole = len(self._assembler.text) if self._assembler.stopped else self._assembler.received + 1
        tokens = self._certain(whole)
        if text or tokens:
            self._generation.came(Piece(text, tokens))

    def _certain(self, length: int) -> tuple[TokenInfo, ...]:
        """The tokens that begin before this length of text, which are given out only once."""
        found = tuple(info for start, info in self._waiting if start < length)
        self._waiting = self._waiting[len(found) :]
        return found

    def ending(self, max_tokens: int) -> Ending:
        stop_text = self._assembler.stopped_by
        full = self._count >= max_tokens and stop_text is None and self._last not in self._ends
        return Ending("length" if full else "stop", stop_text, self._count)
