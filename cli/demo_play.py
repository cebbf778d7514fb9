"""The demo from the first peer's start to the last one's end."""

from __future__ import annotations

import logging
import random
import re
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from swarm import SwarmModel
from swarm.bench.local_swarm import LocalSwarm
from swarm.builtin.corpus import held_out_sums
from swarm.cli.client_settings import DemoSettings
from swarm.cli.completion import Completion, complete
from swarm.cli.demo_accident import Accident
from swarm.cli.event_loop import run_async
from swarm.cli.prompt import Prompt
from swarm.cli.sampling import Sampling
from swarm.cli.status_table import render
from swarm.cli.swarm_survey import SwarmSurvey
from swarm.core.config import ModelConfig
from swarm.core.errors import SwarmError
from swarm.core.span import Span
from swarm.routing.status import StatusReport
from swarm.shards.source import ModelSource
from swarm.shards.tokenizer import load_tokenizer

MODEL = ModelConfig("demo")
CAST = ("ada", "ben", "cleo")
STANDBY = "dora"  # serves the same layers as the second of the cast
SUMS = 5
_SUM_TOKENS = 8
_KILL_AFTER_TOKENS = 24

console = Console(highlight=False)


def play(settings: DemoSettings) -> None:
    """Run the demo.

    Raises:
        SwarmError: something went otherwise than promised; nothing is left running in any case.
    """
    torch.set_num_threads(1)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("swarm").setLevel(logging.ERROR)  # the failover is told by the demo itself
    source = ModelSource.open(MODEL)
    console.print(f"[bold]Starting {len(CAST) + 1} peers on this machine[/], one thread each ...")
    with LocalSwarm() as swarm:
        addresses = _start(swarm, thirds(source.n_layers))
        console.print(render([run_async(_see_all(addresses))], console.width))
        with SwarmModel.from_pretrained(MODEL.name, peers=addresses) as model:
            tokenizer = load_tokenizer(MODEL)
            accident = Accident(swarm, model, (CAST[1], STANDBY), _KILL_AFTER_TOKENS)
            told = _tell(model, tokenizer, settings, accident)
            _add(model, tokenizer)
            local = _local(source, tokenizer, settings)
            _compare(told, local)
            _report(told, local, accident, model)
    console.print("All peers have left; no process and no file remains.")


def thirds(layers: int) -> list[Span]:
    """Three spans as equal as possible, longer ones first."""
    cuts = [0, *(-(-layers * part // 3) for part in (1, 2)), layers]
    return [Span(a, b) for a, b in pairwise(cuts)]


def _start(swarm: LocalSwarm, spans: list[Span]) -> list[str]:
    """Start the cast and the standby; one address of each."""
    first = swarm.serve(CAST[0], MODEL.name, str(spans[0]))
    way_in = swarm.wait_ready(first)[:1]
    others = [(CAST[1], spans[1]), (CAST[2], spans[2]), (STANDBY, spans[1])]
    started = [swarm.serve(name, MODEL.name, str(span), way_in) for name, span in others]
    return way_in + [swarm.wait_ready(peer)[0] for peer in started]


async def _see_all(addresses: list[str]) -> StatusReport:
    """What a newcomer sees once every peer's announcement can be found."""
    survey = await SwarmSurvey.start(addresses)
    try:
        return await survey.look_until(MODEL.name, peers=len(addresses))
    finally:
        await survey.stop()


def _tell(model: Any, tokenizer: Any, settings: DemoSettings, accident: Accident) -> Completion:
    console.print(f"[bold]A story over the swarm:[/] {settings.prompt}", end="")
    told = complete(
        model, tokenizer, Prompt(settings.prompt), Sampling(settings.max_tokens, 0), accident.show
    )
    console.print()
    if not accident.happened:
        raise SwarmError("the story ended before a peer could be killed: begin it with another --prompt")
    return told


def _local(source: ModelSource, tokenizer: Any, settings: DemoSettings) -> Completion:
    """The same story by the whole model in this process."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=source.dtype("auto"))
    sampling = Sampling(settings.max_tokens, 0)
    return complete(model, tokenizer, Prompt(settings.prompt), sampling, lambda text: None)


def _compare(told: Completion, local: Completion) -> None:
    if told.tokens != local.tokens:
        raise SwarmError(f"the story differs from the local model's, which is: {local.text!r}")
    console.print(f"[green]The same {len(told.tokens)} tokens as from the local model[/], one by one.")


def _add(model: Any, tokenizer: Any) -> None:
    """Ask the swarm sums that the model has never seen."""
    lines = []
    for a, b in held_out_sums(SUMS, seed=random.SystemRandom().randrange(1 << 30)):
        said = complete(model, tokenizer, Prompt(f"{a} + {b} ="), Sampling(_SUM_TOKENS, 0), lambda text: None)
        number = re.match(r"\s*(\d+)", said.text)
        good = number is not None and int(number[1]) == a + b
        lines.append(
            f"{a} + {b} = {said.text.strip()} " + ("[green]right[/]" if good else f"[red]no, {a + b}[/]")
        )
    console.print("[bold]Sums that it has never seen:[/] " + ", ".join(lines), soft_wrap=True)


def _report(told: Completion, local: Completion, accident: Accident, model: Any) -> None:
    gaps = [b - a for a, b in pairwise(told.times)]
    stall_s = gaps.pop(accident.token_index)
    console.print(
        f"{accident.victim} was killed after token {accident.token_index + 1}; the next one came "
        f"[bold]{stall_s * 1000:.0f} ms[/] later (usually {1000 * sum(gaps) / len(gaps):.0f} ms): "
        f"{model.stats.failovers} failover, {model.stats.replayed_tokens} positions replayed.",
        soft_wrap=True,
    )
    console.print(
        f"{len(gaps) / sum(gaps):.0f} tokens/s over three processes, {local.tokens_per_s:.0f} in one."
    )
