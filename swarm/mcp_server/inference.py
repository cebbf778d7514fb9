"""The tool `llm_inference_distributed`: a prompt continued by the model of the swarm."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from pydantic import BaseModel, ConfigDict, Field

from swarm.core.errors import SwarmUnavailable
from swarm.gateway.answer import Answer
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.events import Ending, Piece
from swarm.mcp_server.failure import told
from swarm.mcp_server.reach import Reach, Writer, chosen_peers

MOST_CHARACTERS = 1_000_000
MOST_ANSWERS = 16
REPORT_EVERY = 16  # tokens

Prompt = Annotated[
    str,
    Field(min_length=1, max_length=MOST_CHARACTERS, description="What the model answers or goes on from."),
]
ModelName = Annotated[
    str | None, Field(max_length=256, description="The model; this server generates with one only.")
]
Parallelism = Annotated[
    int,
    Field(
        ge=1, le=MOST_ANSWERS, description="How many answers to generate at once, as sessions of their own."
    ),
]
Nodes = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]] | None,
    Field(
        min_length=1,
        max_length=256,
        description="Names or ids of the only peers to use (see llm://nodes); together they must serve all layers.",
    ),
]


class SamplingOptions(BaseModel):
    """How tokens are chosen; what is left out is the model's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: Annotated[int, Field(ge=1, le=32768, description="Most new tokens of an answer.")] = 256
    temperature: Annotated[
        float | None, Field(ge=0, le=100, description="Randomness; 0 always takes the likeliest token.")
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63, description="Same seed, same text.")] = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(max_length=8, description="An answer ends before the first of these texts."),
    ] = []
    chat: Annotated[
        bool | None,
        Field(description="Put the prompt into the chat template; left out: if the model has one."),
    ] = None


class AnswerText(BaseModel):
    """One answer."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]


class ChainHop(BaseModel):
    """One peer's part of the chain."""

    peer_id: str
    name: str
    layers: tuple[int, int]


class InferenceResult(BaseModel):
    """All answers to one call; the chain is that of the first of them."""

    model: str
    prompt_tokens: int
    answers: list[AnswerText]
    chain: list[ChainHop]
    first_token_s: float
    total_s: float
    tokens_per_s: float


@dataclass(slots=True)
class _Coming:
    """Answers while they are generated."""

    texts: list[list[str]]
    endings: dict[int, Ending] = field(default_factory=dict)
    tokens: int = 0
    first_s: float | None = None


class Inference:
    """The tool."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def llm_inference_distributed(
        self,
        context: Context,
        prompt: Prompt,
        model: ModelName = None,
        parallelism: Parallelism = 1,
        nodes: Nodes = None,
        sampling: SamplingOptions | None = None,
    ) -> InferenceResult:
        """Let a language model that runs in layers on many machines answer a prompt.

        The chain of peers is the fastest one, or made of `nodes`. When a peer fails meanwhile, another one takes over
        and the text stays the same.
        """
        async with told():
            writer = await self._reach.writer(model)
            ask = await self._ask(writer, prompt, parallelism, nodes, sampling or SamplingOptions())
            began_s = time.perf_counter()
            async with writer.desk.open(ask) as answer:
                coming = await _collect(answer, ask, context)
                chain = _chain_of(writer, answer)
            return self._result(writer, ask, coming, chain, began_s)

    async def _ask(
        self, writer: Writer, prompt: str, parallelism: int, nodes: Nodes, sampling: SamplingOptions
    ) -> Ask:
        only = None
        if nodes is not None:
            [report] = await self._reach.reports(writer.uid)
            only = chosen_peers(report, nodes)
        chat = writer.templated if sampling.chat is None else sampling.chat
        prompter = writer.prompter
        ids = (
            prompter.chat([{"role": "user", "content": prompt}]).prompt
            if chat
            else prompter.plain([prompt])[0]
        )
        return Ask(
            prompts=(ids,),
            max_tokens=prompter.room([ids], sampling.max_tokens, "max_tokens"),
            sampling=Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed),
            stops=tuple(sampling.stop),
            count=parallelism,
            only=only,
        )

    def _result(
        self, writer: Writer, ask: Ask, coming: _Coming, chain: list[ChainHop], began_s: float
    ) -> InferenceResult:
        total_s = time.perf_counter() - began_s
        first_s = (coming.first_s or began_s) - began_s
        tokens = sum(ending.tokens for ending in coming.endings.values())
        self._reach.tally.add(ask.count, tokens, first_s, total_s)
        return InferenceResult(
            model=writer.name,
            prompt_tokens=len(ask.prompts[0]),
            answers=[
                AnswerText(text="".join(text), tokens=ending.tokens, finish_reason=ending.reason)
                for text, (_, ending) in zip(coming.texts, sorted(coming.endings.items()), strict=True)
            ],
            chain=chain,
            first_token_s=round(first_s, 4),
            total_s=round(total_s, 4),
            tokens_per_s=round(tokens / total_s, 3),
        )


async def _collect(answer: Answer, ask: Ask, context: Context) -> _Coming:
    """All events of an answer; the client hears how far it is."""
    coming = _Coming([[] for _ in range(ask.count)])
    async for index, event in answer.events():
        match event:
            case Piece():
                coming.texts[index].append(event.text)
                coming.tokens += event.is_token
                if coming.first_s is None:
                    coming.first_s = time.perf_counter()
                if event.is_token and coming.tokens % REPORT_EVERY == 0:
                    await context.report_progress(coming.tokens, ask.count * ask.max_tokens)
            case Ending():
                coming.endings[index] = event
    return coming


def _chain_of(writer: Writer, answer: Answer) -> list[ChainHop]:
    if answer.chain is None:
        raise SwarmUnavailable("the answer came over no chain: ask again")
    name = writer.model.swarm.peer_name
    return [
        ChainHop(peer_id=hop.peer_id, name=name(hop.peer_id), layers=(hop.span.start, hop.span.end))
        for hop in answer.chain.hops
    ]
