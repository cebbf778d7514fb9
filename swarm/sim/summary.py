"""Outcomes of several seeds as one row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np

from swarm.bench.report import Column, Figure, Report, Row
from swarm.sim.outcome import Outcome

_EXACT = 1e-6
_COLUMNS = (
    Column("scenario", "scenario"),
    Column("policy", "policy"),
    Column("covered", "covered", 4),
    Column("ratio", "served", 3),
    Column("worst", "worst", 3),
    Column("recovery", "+3 min", 2),
    Column("moves", "moves/h", 2),
    Column("p50_ms", "p50 ms", 0),
    Column("p99_ms", "p99 ms", 0),
    Column("routed", "routed", 2),
)
_NOTES = (
    "covered: part of the time.  served: tokens by what no placement of the same peers exceeds, mean and worst seed.",
    "+3 min: served three minutes after a loss by what is served later, worst seed.  moves/h: of one peer.",
    "ms: per token at 70% load.  routed: of 90% load, what callers get on the chains that they find.",
)


def reports(outcomes: Sequence[Outcome]) -> list[Report]:
    """A report for each number of peers; the outcomes are in the order of the table."""
    found = []
    for peers, group in groupby(outcomes, key=lambda one: one.peers):
        runs_here = list(group)
        alike = groupby(runs_here, key=lambda one: (one.scenario, one.policy))
        rows = tuple(_row(list(runs)) for _, runs in alike)
        found.append(
            Report(
                benchmark="simulate",
                title=f"{peers} peers",
                columns=_COLUMNS,
                rows=rows,
                figure=Figure("scenario", ("ratio",), "served/best"),
                notes=_NOTES,
                problems=tuple(_problems(runs_here)),
            )
        )
    return found


def _row(runs: Sequence[Outcome]) -> Row:
    first = runs[0]
    recovered = [run.recovery for run in runs if run.recovery is not None]
    routed = [run.routed for run in runs if run.routed is not None]
    token_ms = np.array([seconds * 1000 for run in runs for seconds in run.token_s])
    return {
        "scenario": first.scenario,
        "policy": first.policy,
        "peers": first.peers,
        "seeds": len(runs),
        "covered": _mean([run.covered for run in runs]),
        "ratio": _mean([run.ratio for run in runs]),
        "worst": min(run.ratio for run in runs),
        "recovery": min(recovered) if recovered else None,
        "moves": _mean([run.moves_per_hour for run in runs]),
        "p50_ms": float(np.percentile(token_ms, 50)) if token_ms.size else None,
        "p99_ms": float(np.percentile(token_ms, 99)) if token_ms.size else None,
        "routed": _mean(routed) if routed else None,
    }


def _problems(runs: Sequence[Outcome]) -> Iterator[str]:
    """What cannot be, and would mean that the simulation is wrong."""
    for run in runs:
        name = f"{run.scenario}, {run.policy}, {run.peers} peers, seed {run.seed}"
        if run.bound_error > _EXACT:
            yield f"{name}: the bound differs from the solver's by {run.bound_error:.2g}"
        if run.ratio > 1 + _EXACT:
            yield f"{name}: served {run.ratio:.4f} of what is possible"


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every run, without the samples of which the plots are made."""
    found = []
    for one in outcomes:
        run = asdict(one)
        del run["samples"]
        found.append(run | {"ratio": one.ratio, "moves_per_hour": one.moves_per_hour})
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
