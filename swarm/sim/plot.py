"""Outcomes drawn into one picture: what is served over time in each scenario, and how the policies compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swarm.core.errors import ConfigError
from swarm.sim.outcome import Outcome

_COLOURS = {"ours": "tab:blue", "petals": "tab:orange", "random": "tab:gray"}
_COLUMNS = 2


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw runs of the smallest swarm, first seed, over time; below them, means over the seeds, a row for each size.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure as Picture  # without pyplot: needs no display and leaves no state

    sizes = sorted({one.peers for one in outcomes})
    names = list(dict.fromkeys(one.scenario for one in outcomes))
    rows = -(-len(names) // _COLUMNS)
    picture: Any = Picture(figsize=(10, 2.4 * (rows + len(sizes))), layout="constrained")
    axes = picture.subplots(rows + len(sizes), _COLUMNS, squeeze=False)
    stories = [one for one in outcomes if one.peers == sizes[0] and one.seed == 0]
    for axis, name in zip(axes[:rows].flat, names, strict=False):
        _story(axis, [one for one in stories if one.scenario == name])
    for axis in list(axes[:rows].flat)[len(names) :]:
        axis.set_visible(False)
    for (served, moves), size in zip(axes[rows:], sizes, strict=True):
        shown = [one for one in outcomes if one.peers == size]
        _bars(served, shown, names, "ratio", f"served / best, {size} peers")
        _bars(moves, shown, names, "moves_per_hour", f"moves per peer and hour, {size} peers")
    axes[0, 0].legend(fontsize=7, loc="lower right")
    try:
        picture.savefig(path, dpi=80)
    except OSError as exc:
        raise ConfigError(f"--plot: cannot write {path}: {exc.strerror}") from exc


def _story(axis: Any, runs: Sequence[Outcome]) -> None:
    for run in runs:
        minutes = [sample.at_s / 60 for sample in run.samples]
        if run is runs[0]:
            best = [sample.best for sample in run.samples]
            axis.plot(minutes, best, color="black", linewidth=1, linestyle="dashed", label="best possible")
            axis.set_title(f"{run.scenario}, {run.peers} peers, seed {run.seed}", fontsize=9)
        served = [sample.served for sample in run.samples]
        axis.plot(minutes, served, color=_COLOURS.get(run.policy), linewidth=1, label=run.policy)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("minutes", fontsize=7)
    axis.set_ylabel("tokens/s", fontsize=7)
    axis.tick_params(labelsize=7)


def _bars(axis: Any, runs: Sequence[Outcome], names: Sequence[str], value: str, title: str) -> None:
    policies = list(dict.fromkeys(run.policy for run in runs))
    width = 0.8 / len(policies)
    for i, policy in enumerate(policies):
        heights = [
            float(
                np.mean([getattr(run, value) for run in runs if (run.scenario, run.policy) == (name, policy)])
            )
            for name in names
        ]
        shift = (i - (len(policies) - 1) / 2) * width
        places = [n + shift for n in range(len(names))]
        axis.bar(places, heights, width, label=policy, color=_COLOURS.get(policy))
    axis.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_title(title, fontsize=9)
