"""Which settings make a peer fastest on this machine: real forwards of real layers, in rounds that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from swarm.bench.fed_shard import feed
from swarm.bench.plan import Tell
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.turn_taking import Times, clear_best, take_turns
from swarm.core.config import PeerLimits, Precision, Quantization
from swarm.core.errors import ConfigError, SwarmError
from swarm.core.span import Span
from swarm.shards.products import limit_threads
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource

SHARED_BY = 4
BUDGETS = (64, 128, 256, 512, 1024, 2048)
SESSIONS = (1, 2, 4, 8, 16, 32)
PAST = 64
_PROMPT = 32
_STEPS = 16
_TRIED_BYTES = 512 << 20
_MOST_LAYERS = 4
_ENOUGH_ROUNDS = 3
_SHARES = (0.4, 0.5, 1.0)  # of the time that is left, for each of the three questions
_COLUMNS = (
    Column("who", "tried"),
    Column("speed", "tokens/s", 0),
    Column("spread", "rounds"),
    Column("count", "of them"),
    Column("chosen", ""),
)


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are kept, as the options `--dtype` and `--quantize` say it."""

    dtype: Precision
    quantize: Quantization | None = None

    @classmethod
    def of(cls, dtype: str, quantize: str | None = None) -> Form:
        """From names that were checked before."""
        return cls(cast(Precision, dtype), cast(Quantization | None, quantize))

    def __str__(self) -> str:
        return self.dtype if self.quantize is None else f"{self.dtype}+{self.quantize}"


@dataclass(frozen=True, slots=True)
class Setup:
    """A form, and how many CPU threads compute; None leaves them as they are."""

    form: Form
    threads: int | None

    def __str__(self) -> str:
        return f"{self.form}" if self.threads is None else f"{self.form}, {self.threads} threads"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is tried; the first of equals is preferred."""

    forms: Sequence[Form]
    threads: Sequence[int | None]
    device: torch.device
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found best. `max_sessions` None: more sessions are always faster together, as far as was tried."""

    form: Form
    threads: int | None
    batch_tokens: int
    max_sessions: int | None


def tried_span(source: ModelSource) -> Span:
    """A few of the first layers: all layers of a model take the same time, nearly."""
    layer = max(source.layer_bytes(Span(0, 1)), 1)
    count = max(min(_TRIED_BYTES // layer, _MOST_LAYERS, source.n_layers), 1)
    return source.inseparable if Span(0, count).cuts(source.inseparable) else Span(0, count)  # type: ignore[return-value]


def tune(
    source: ModelSource, wanted: Wanted, tell: Tell, clock: Callable[[], float] = time.monotonic
) -> tuple[Tuned, list[Report]]:
    """Try everything, in about `wanted.seconds` and the time that loading takes.

    Raises:
        ConfigError: no form can be loaded.
    """
    span, deadline_s = tried_span(source), clock() + wanted.seconds
    shards = _load(source, span, wanted, tell)

    def turns(share: float, trials: Mapping[object, Callable[[], float]]) -> dict[object, Times]:
        return take_turns(trials, share * max(deadline_s - clock(), 0.0), clock, tell)

    setups = [Setup(form, threads) for form in shards for threads in wanted.threads]
    mixed = turns(_SHARES[0], {setup: _mixed(shards[setup.form], setup) for setup in setups})
    setup = clear_best({setup: mixed[setup].median_s for setup in setups})
    shard = shards[setup.form]
    _use(setup)
    budgets = [size for size in BUDGETS if size <= _most_positions(shard)]
    long = turns(
        _SHARES[1],
        {(size, by): _prompts(shard, size, by) for size in budgets for by in (1, SHARED_BY)},
    )
    both = {size: long[size, 1].median_s + long[size, SHARED_BY].median_s for size in budgets}
    batch_tokens = clear_best(both)
    many = turns(_SHARES[2], {count: _decoding(shard, count) for count in SESSIONS})
    gain = clear_best({count: many[count].median_s for count in SESSIONS})
    most = None if gain == SESSIONS[-1] else max(gain, PeerLimits().max_sessions_per_client)
    tuned = Tuned(setup.form, setup.threads, batch_tokens, most)
    return tuned, [
        _report("setups", f"Prompts and answers of {SHARED_BY} sessions", mixed, setup),
        _report("prompts", "Prompts, so many tokens at once", _named(long), None, batch_tokens),
        _report("sessions", f"A token for each of many sessions after {PAST}", _counted(many), None, gain),
    ]


def _load(source: ModelSource, span: Span, wanted: Wanted, tell: Tell) -> dict[Form, Shard]:
    """A shard of each form that can be loaded; libraries are chosen for the most threads that are tried."""
    limits = [threads for threads in wanted.threads if threads is not None]
    if limits:
        limit_threads(max(limits))
    found: dict[Form, Shard] = {}
    problems: list[str] = []
    for form in wanted.forms:
        tell(f"loading layers {span} as {form}")
        dtype = source.dtype(form.dtype)
        try:
            shard = Shard.load(source, span, dtype=dtype, device=wanted.device, quantize=form.quantize)
            feed([shard.open(span, rollback=True)], 1)
        except SwarmError as error:
            problems.append(f"{form}: {error}")
        else:
            found[form] = shard
    if not found:
        raise ConfigError("; ".join(problems))
    for problem in problems:
        tell(f"left out, {problem}")
    return found


def _use(setup: Setup) -> None:
    if setup.threads is not None:
        limit_threads(setup.threads)


def _fresh(shard: Shard, count: int, past: int = 0) -> list[ShardSession]:
    sessions = [shard.open(shard.span, rollback=True) for _ in range(count)]
    if past:
        feed(sessions, past)
    return sessions


def _timed(shard: Shard, work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    if shard.device.type == "cuda":
        torch.cuda.synchronize(shard.device)
    return time.perf_counter() - began_s


def _mixed(shard: Shard, setup: Setup) -> Callable[[], float]:
    def work(sessions: list[ShardSession]) -> None:
        feed(sessions, _PROMPT)
        for _ in range(_STEPS):
            feed(sessions, 1)

    def trial() -> float:
        _use(setup)
        sessions = _fresh(shard, SHARED_BY)
        return _timed(shard, lambda: work(sessions)) / (SHARED_BY * (_PROMPT + _STEPS))

    return trial


def _prompts(shard: Shard, tokens: int, sessions: int) -> Callable[[], float]:
    def trial() -> float:
        fresh, each = _fresh(shard, sessions), tokens // sessions
        return _timed(shard, lambda: feed(fresh, each, piece=each)) / (each * sessions)

    return trial


def _decoding(shard: Shard, count: int) -> Callable[[], float]:
    def trial() -> float:
        sessions = _fresh(shard, count, PAST)

        def work() -> None:
            for _ in range(_STEPS // 4):
                feed(sessions, 1)

        return _timed(shard, work) / (count * (_STEPS // 4))

    return trial


def _most_positions(shard: Shard) -> int:
    return int(getattr(shard.config, "max_position_embeddings", None) or BUDGETS[-1])


def _named(times: Mapping[object, Times]) -> dict[object, Times]:
    found: dict[object, Times] = {}
    for name, each in times.items():
        assert isinstance(name, tuple)
        found[f"{name[0]} of {'one session' if name[1] == 1 else f'{name[1]} sessions'}"] = each
    return found


def _counted(times: Mapping[object, Times]) -> dict[object, Times]:
    return {f"{count} session{'s' * (count != 1)}": each for count, each in times.items()}


def _report(
    name: str, title: str, times: Mapping[object, Times], chosen: object, number: int | None = None
) -> Report:
    rows: list[Row] = [
        {
            "who": str(who),
            "speed": 1 / each.median_s,
            "spread": each.rate_spread(),
            "count": len(each.rounds),
            "rounds_s": each.rounds,
            "chosen": "<" if who == chosen or str(who).split(" ")[0] == str(number) else "",
        }
        for who, each in times.items()
    ]
    few = min(len(each.rounds) for each in times.values()) < _ENOUGH_ROUNDS
    notes = (
        (f"Fewer than {_ENOUGH_ROUNDS} rounds: give more --seconds for numbers to rely on.",) if few else ()
    )
    return Report(name, title, _COLUMNS, tuple(rows), Figure("who", ("speed",), "tokens/s"), notes)
