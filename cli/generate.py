"""`swarm generate`: text over the swarm, as it comes or as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from swarm.cli.client_settings import GenerateSettings
from swarm.cli.options import command_of
from swarm.cli.profile_table import show_profile
from swarm.cli.prompt import Prompt, read_prompt
from swarm.cli.text_source import open_model, sampling_of

if TYPE_CHECKING:
    from swarm import SwarmModel
    from swarm.cli.completion import Completion
    from swarm.routing.chain import Chain, Hop


def generate(settings: GenerateSettings) -> None:
    """Generate text over the swarm; prints it as it comes."""
    prompt = Prompt(
        read_prompt(settings.prompt), bool(settings.chat) or settings.system is not None, settings.system
    )
    settings.require_peers()
    started = time.perf_counter()
    with open_model(settings) as model:
        load_s = time.perf_counter() - started
        output = Output(model, streams=not settings.json_output)
        try:
            completion = _complete(model, settings, prompt, output)
        finally:
            output.end_line()
        if settings.profile:
            show_profile(model.swarm)
        if settings.json_output:
            typer.echo(json.dumps(_as_json(output, completion, load_s), ensure_ascii=False))
        elif sys.stderr.isatty():
            typer.secho(_summary(output, completion), dim=True, err=True)


class Output:
    """Prints text as it comes, if `streams`, and remembers over which chain it came.

    The session ends with `generate()`, so the chain is looked at with every token.
    """

    def __init__(self, model: SwarmModel, *, streams: bool) -> None:
        self.model = model
        self.chain: Chain | None = None
        self._streams = streams
        self._in_line = False

    def show(self, text: str, tokens: int) -> None:
        self.chain = self.model.chain or self.chain
        if self._streams and text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")

    def end_line(self) -> None:
        """So that whatever is printed next, errors too, stands on a line of its own."""
        if self._in_line:
            print(flush=True)

    @property
    def hops(self) -> tuple[Hop, ...]:
        return self.chain.hops if self.chain is not None else ()


def _complete(model: SwarmModel, settings: GenerateSettings, prompt: Prompt, output: Output) -> Completion:
    from swarm.cli.completion import complete
    from swarm.shards.tokenizer import load_tokenizer

    sampling = sampling_of(settings)
    tokenizer = load_tokenizer(settings.model_source())
    return complete(model, tokenizer, prompt, sampling, output.show)


def _as_json(output: Output, completion: Completion, load_s: float) -> dict[str, Any]:
    name, stats = output.model.swarm.peer_name, output.model.stats
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "timings": {"load_s": round(load_s, 4), **completion.timings()},
        "chain": [{"peer_id": h.peer_id, "name": name(h.peer_id), "span": str(h.span)} for h in output.hops],
        "wire": output.model.swarm.wire,
        "failovers": stats.failovers,
        "handovers": stats.handovers,
        "stalled_s": round(stats.stalled_s, 4),
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
    }


def _summary(output: Output, completion: Completion) -> str:
    rate, failovers = completion.tokens_per_s, output.model.stats.failovers
    wire = output.model.swarm.wire
    parts = [f"{len(completion.tokens)} tokens"]
    parts += [f"{rate:.1f} tokens/s"] if rate is not None else []
    parts += [f"{len(output.hops)} peers"] if len(output.hops) != 1 else ["1 peer"]
    parts += [f"{wire} on the wire"] if wire != "model" else []
    parts += [f"{failovers} failovers"] if failovers else []
    return ", ".join(parts)


command = command_of(GenerateSettings, generate)
