"""`swarm tune`: the settings with which a peer is fastest on this machine, as a file for `swarm serve --config`."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import typer
import yaml
from rich.console import Console

from swarm.cli.bench import show_report
from swarm.cli.consoles import result_console
from swarm.cli.event_loop import run_async
from swarm.cli.options import command_of
from swarm.cli.tune_settings import TuneSettings
from swarm.core.errors import ConfigError, SwarmUnavailable

if TYPE_CHECKING:
    from swarm.bench.tuning import Form, Tuned, Wanted
    from swarm.shards.source import ModelSource

QUANTIZED = ("int8", "nf4")


def tune(settings: TuneSettings) -> None:
    """Find the fastest settings for a peer on this machine, and write them into a file for `swarm serve --config`.

    Tries precisions, threads, how many tokens of prompts run at once, and how many sessions, with a few layers of the
    model. What is not clearly faster (5%) is noise, and the usual is kept. With --peers, only precisions that the
    swarm computes this model in are tried, because a chain has one.
    """
    if settings.out.exists():
        raise ConfigError(f"--out {settings.out}: this file is there already; give another one")
    if not os.access(settings.out.absolute().parent, os.W_OK):
        raise ConfigError(f"--out {settings.out}: give a file in a folder that exists and is yours")
    from swarm.bench.tuning import tune as tune_shard  # imports torch and transformers: seconds
    from swarm.shards.source import ModelSource

    console, progress = result_console(), Console(stderr=True, highlight=False)
    with progress.status("reading the model ...") as status:
        source = ModelSource.open(settings.model_source())
        wanted = _wanted(settings, source)
        tuned, reports = tune_shard(source, wanted, lambda text: status.update(f"{text} ..."))
    for report in reports:
        show_report(console, report)
    found = config_of(settings, tuned)
    settings.out.write_text(_HEAD + yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    typer.echo(f"Written to {settings.out}: {', '.join(f'{key} {value}' for key, value in found.items())}")
    typer.echo(f"  swarm serve --config {shlex.quote(str(settings.out))}")


_HEAD = "# written by `swarm tune`, for `swarm serve --config`; further options may be added\n"


def config_of(settings: TuneSettings, tuned: Tuned) -> dict[str, object]:
    """The options of `swarm serve` that were given or found, by their names in a file."""
    source = settings.model_source()
    found: dict[str, object] = {
        "model": source.name,
        "revision": source.revision,
        "cache_dir": None if source.cache_dir is None else str(source.cache_dir),
        "peers": list(settings.peers) or None,
        "device": None if settings.device == "auto" else settings.device,
        "dtype": tuned.form.dtype,
        "quantize": tuned.form.quantize,
        "threads": tuned.threads,
        "batch_tokens": tuned.batch_tokens,
        "max_sessions": tuned.max_sessions,
    }
    return {name: value for name, value in found.items() if value is not None}


def _wanted(settings: TuneSettings, source: ModelSource) -> Wanted:
    from swarm.bench.tuning import Wanted
    from swarm.peer.device import choose_device

    device = choose_device(settings.device)
    is_cpu = device.type == "cpu"
    if settings.threads and not is_cpu:
        raise ConfigError(f"--threads is for the CPU, and this peer would compute on {device}")
    cores = os.cpu_count() or 1
    threads = settings.threads or tuple(sorted({1, max(cores // 2, 1), cores}, reverse=True))
    forms = _forms(settings, source, is_cpu=is_cpu)
    served = _served(settings)
    if served:
        forms = [form for form in forms if str(form) in served]
        if not forms:
            raise ConfigError(
                f"--precisions: the swarm serves {settings.model} in {', '.join(sorted(served))} only; try that"
            )
    return Wanted(forms, threads if is_cpu else (None,), device, settings.seconds)


def _forms(settings: TuneSettings, source: ModelSource, *, is_cpu: bool) -> list[Form]:
    """The checkpoint's own precision first: it is kept unless another one is clearly faster."""
    from swarm.bench.tuning import Form

    own = str(source.dtype("auto")).removeprefix("torch.")
    usual = ("float32", "bfloat16") if is_cpu else ("float16", "bfloat16")
    names: tuple[str, ...] = settings.precisions or tuple(dict.fromkeys((own, *usual)))
    dtypes = {"float32", "bfloat16", "float16"}
    return [
        Form.of(own, quantize=name) if name in QUANTIZED else Form.of(name)
        for name in sorted(names, key=lambda name: (name != own, name not in dtypes))
    ]


def _served(settings: TuneSettings) -> set[str]:
    """The precisions in which the swarm computes this model; empty if there is no swarm, or nobody serves it."""
    if not settings.peers:
        return set()

    async def look() -> set[str]:
        from swarm.client.swarm_survey import SwarmSurvey

        survey = await SwarmSurvey.start(settings.peers)
        try:
            reports = await survey.look(settings.model)
        except SwarmUnavailable:
            return set()
        finally:
            await survey.stop()
        return {peer.precision for report in reports for peer in report.peers}

    return run_async(look())


command = command_of(TuneSettings, tune)
