"""Outcomes of several seeds as one row of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np

from swarm.bench.report import Column, Figure, Report, Row
from swarm.sim.outcome import Outcome

_COLUMNS = (
    Column("scenario", "scenario"),
    Column("policy", "policy"),
    Column("covered", "covered", 4),
    Column("ratio", "served/best", 3),
    Column("worst", "worst seed", 3),
    Column("recovery", "3 min after loss", 3),
    Column("moves", "moves/peer/h", 3),
    Column("p50_ms", "p50 ms/token", 0),
    Column("p99_ms", "p99 ms/token", 0),
    Column("routed", "routed", 3),
)


def reports(outcomes: Sequence[Outcome]) -> list[Report]:
    """A report for each number of peers; the outcomes are in the order of the table."""
    found = []
    for peers, group in groupby(outcomes, key=lambda one: one.peers):
        alike = groupby(group, key=lambda one: (one.scenario, one.policy))
        rows = tuple(_row(list(runs)) for _, runs in alike)
        found.append(
            Report(
                benchmark="simulate",
                title=f"{peers} peers",
                columns=_COLUMNS,
                rows=rows,
                figure=Figure("scenario", ("ratio",), "served/best"),
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
