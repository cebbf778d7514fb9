"""Deaths, broken edges, lost and doubled messages, devices that stand still, all at once: no token may change."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from swarm.core.config import ClientConfig
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, StepMessage
from tests.in_process import Lab, Options
from tests.shard_lab import left_padded, prompt

pytestmark = pytest.mark.slow

SPANS = ((0, 1), (1, 3), (3, 4), (4, 6))
WAYS: list[dict[str, Any]] = [
    {"input_ids": prompt(21)},
    left_padded((15, 9)),
    {"input_ids": prompt(14), "num_beams": 3},
    {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3},
]


class Chaos:
    """A fate by dice: up to five of twelve peers die, the rest only suffer."""

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self._lab, self._dice = lab, dice
        doomed = dice.sample("ABCDabcd", dice.randint(1, 5))
        self._lives = {name: dice.randrange(1, 25) for name in doomed}

    def __call__(self, source: str, sink: str, message: Message) -> int:
        lab, dice = self._lab, self._dice
        is_work = isinstance(message, StepMessage | Output)
        if source in lab.peers and dice.random() < 0.01:
            lab.tasks.create_task(self._stand_still(source))
        if source in lab.peers and sink in lab.peers and dice.random() < 0.004:
            lab.tasks.create_task(lab.meadow.wall(source, sink))
        if sink in self._lives:
            self._lives[sink] -= 1
            if self._lives[sink] == 0:
                lab.tasks.create_task(lab.kill(sink))
                return dice.choice([0, 1])
        luck = dice.random()
        return 0 if is_work and luck < 0.004 else 2 if is_work and luck < 0.014 else 1

    async def _stand_still(self, name: str) -> None:
        device = self._lab.peers[name].executor
        device.held = True
        await asyncio.sleep(self._dice.random() * 5)
        device.release()


@pytest.mark.parametrize("seed", range(20))
def test_no_token_changes_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    config = ClientConfig(step_timeout_s=20.0, unavailable_timeout_s=200.0)
    model_type = dice.choice(["llama", "llama", "gemma2", "qwen3_next"])
    ways = WAYS[:3] if model_type == "qwen3_next" else WAYS
    with Lab(model_type, Options(config, chunk_bytes=dice.choice([1, 3, 5, 100]) * 32 * 4)) as lab:
        for index, (start, end) in enumerate(SPANS):
            for copies, cost in ((1, 0.001), (2, 0.1)):
                lab.serve("ABCD"[index] * copies, start, end, cost=cost)
            lab.serve("abcd"[index], start, end, cost=0.05)
        lab.meadow.fate = Chaos(lab, dice)
        lab.check_exact(**dice.choice(ways), max_new_tokens=8)
