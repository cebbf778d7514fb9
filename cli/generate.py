"""`swarm generate`: text over the swarm, as it comes or as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from swarm.cli.client_settings import GenerateSettings
from swarm.cli.options import command_of
from swarm.cli.prompt import Prompt, read_prompt
from swarm.cli.sampling import Sampling

if TYPE_CHECKING:
    from swarm import SwarmModel
    from swarm.cli.completion import Completion


def generate(settings: GenerateSettings) -> None:
    """Generate text over the swarm; prints it as it comes."""
    prompt = Prompt(
        read_prompt(settings.prompt), bool(settings.chat) or settings.system is not None, settings.system
    )
    settings.require_peers()
    started = time.perf_counter()
    with _open_model(settings) as model:
        load_s = time.perf_counter() - started
        completion = _complete(model, settings, prompt)
        if settings.json_output:
            typer.echo(json.dumps(_as_json(model, completion, load_s), ensure_ascii=False))
        else:
            typer.echo("" if completion.text.endswith("\n") else "\n", nl=False)
            if sys.stderr.isatty():
                typer.secho(_summary(model, completion), dim=True, err=True)


def _open_model(settings: GenerateSettings) -> SwarmModel:
    from swarm import SwarmModel  # imports torch, transformers and hivemind: seconds

    return SwarmModel.from_pretrained(
        settings.model,
        peers=settings.peers,
        revision=settings.revision,
        token=settings.token,
        cache_dir=settings.cache_dir,
        dtype=settings.dtype,
        config=settings.client_config(),
    )


def _complete(model: Any, settings: GenerateSettings, prompt: Prompt) -> Completion:
    from swarm.cli.completion import complete, load_tokenizer

    sampling = Sampling(
        settings.max_tokens,
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.seed,
        settings.stop,
    )
    tokenizer = load_tokenizer(settings.model_source())
    return complete(model, tokenizer, prompt, sampling, _ignore if settings.json_output else _print)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ignore(text: str) -> None:
    pass


def _as_json(model: Any, completion: Completion, load_s: float) -> dict[str, Any]:
    chain = model.chain
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "timings": {"load_s": round(load_s, 4), **completion.timings()},
        "chain": [
            {"peer_id": hop.peer_id, "name": model.swarm.peer_name(hop.peer_id), "span": str(hop.span)}
            for hop in (chain.hops if chain else ())
        ],
        "failovers": model.stats.failovers,
        "stalled_s": round(model.stats.stalled_s, 4),
    }


def _summary(model: Any, completion: Completion) -> str:
    rate = completion.tokens_per_s
    speed = f", {rate:.1f} tokens/s" if rate is not None else ""
    hops = f", {len(model.chain.hops)} peers" if model.chain else ""
    failovers = f", {model.stats.failovers} failovers" if model.stats.failovers else ""
    return f"{len(completion.tokens)} tokens{speed}{hops}{failovers}"


command = command_of(GenerateSettings, generate)
