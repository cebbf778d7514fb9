"""What speculative decoding saves over long links, on text that repeats itself."""

from __future__ import annotations

from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.long_links import LongLinks
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name

LOOPS = "Loops: the prompt repeats eight tokens sixteen times. Drafting: the same with generate(speculate='auto')."
_LENGTH = 128


def speculation(lab: Lab, plan: Plan, links: LongLinks) -> tuple[list[Row], list[str]]:
    """Rows of the same chain without and with speculation, which take turns; and what was not as promised."""
    plain: list[Timed] = []
    drafting: list[Timed] = []
    local: list[Timed] = []
    stats = links.model.stats
    for i in range(plan.rounds + 1):
        lab.tell(f"wan, loops: {round_name(i, plan.rounds)}")
        ids = lab.loop_prompt(_LENGTH, seed=i)
        local.append(timed(lab.local, ids, plan.tokens))
        plain.append(timed(links.model, ids, plan.tokens))
        drafting.append(timed(links.model, ids, plan.tokens, speculate="auto"))
    steps = {"loops": [run.step_s for run in plain[1:]], "drafting": [run.step_s for run in drafting[1:]]}
    gain = ratio(steps["loops"], steps["drafting"])
    rows: list[Row] = [
        {
            "who": name,
            "peers": plan.peers,
            "step_ms": 1000 * median(found),
            "tokens_per_s": 1 / median(found),
        }
        for name, found in steps.items()
    ]
    accepted = {"drafted": stats.drafted_tokens, "accepted": stats.accepted_tokens}
    rows[1] = {**rows[1], **accepted, "gain": gain.median, "spread": gain.spread, "gains": gain.rounds}
    return rows, differences(plain, local) + differences(drafting, local)
