"""Deaths while a long prompt is on its way in pieces: some done, some waiting at slow hops, some lost."""

from __future__ import annotations

import asyncio

import pytest

from swarm.wire.message import Message
from swarm.wire.step_messages import Output, StepFailed, StepMessage
from tests.in_process import Lab, Options
from tests.shard_lab import prompt

pytestmark = pytest.mark.slow

CHAIN = (("A", 0, 1), ("B", 1, 3), ("C", 3, 4), ("D", 4, 6))


class SlowHop:
    """A fate: a hop stands still after it passed two pieces on; when the second one reaches `victim`, that one dies."""

    def __init__(self, lab: Lab, slow: str, victim: str) -> None:
        self._lab, self._slow, self._victim = lab, slow, victim
        self.happened = False

    def __call__(self, source: str, sink: str, message: Message) -> int:
        if self.happened or not isinstance(message, StepMessage) or message.start != 4:
            return 1
        if source == self._slow:
            self._lab.peers[self._slow].executor.held = True
        if sink != self._victim:
            return 1
        self.happened = True
        self._lab.tasks.create_task(self._lab.kill(self._victim))
        self._lab.tasks.create_task(self._go_on())
        return 0

    async def _go_on(self) -> None:
        await asyncio.sleep(0.05)
        self._lab.peers[self._slow].executor.release()


@pytest.mark.parametrize(
    ("slow", "victim"), [("A", "B"), ("A", "C"), ("A", "D"), ("B", "C"), ("B", "D"), ("C", "D")]
)
def test_pieces_that_wait_at_a_slow_hop_do_not_disturb_the_repair_behind_it(slow: str, victim: str) -> None:
    with Lab(options=Options(chunk_bytes=4 * 32 * 4)) as lab:
        for name, start, end in CHAIN:
            lab.serve(name, start, end)
            lab.serve(name.lower(), start, end, cost=0.1)
        fate = lab.meadow.fate = SlowHop(lab, slow, victim)
        lab.check_exact(input_ids=prompt(24))
        assert fate.happened
        assert lab.loop.time() < 1001.0, "no deadline had to pass"


@pytest.mark.parametrize("seed", range(24))
def test_random_deaths_in_the_middle_of_pieces_change_no_token(seed: int) -> None:
    """Up to three hops die, each at a random message that reaches it; some devices stand still for a while."""
    import random

    dice = random.Random(seed)
    with Lab(options=Options(chunk_bytes=dice.choice([1, 3, 5]) * 32 * 4)) as lab:
        for name, start, end in CHAIN:
            lab.serve(name, start, end)
            lab.serve(name.lower(), start, end, cost=0.1)
        victims = {name: dice.randrange(1, 14) for name in dice.sample("ABCD", dice.randint(1, 3))}
        seen = dict.fromkeys(victims, 0)

        async def stand_still(name: str) -> None:
            lab.peers[name].executor.held = True
            await asyncio.sleep(dice.random())
            lab.peers[name].executor.release()

        def fate(source: str, sink: str, message: Message) -> int:
            if not isinstance(message, StepMessage | Output | StepFailed):
                return 1
            if dice.random() < 0.05 and source in lab.peers:
                lab.tasks.create_task(stand_still(source))
            if sink in victims and not lab.peers[sink].node.dead:
                seen[sink] += 1
                if seen[sink] == victims[sink]:
                    lab.tasks.create_task(lab.kill(sink))
                    return dice.choice([0, 1])
            return 1

        lab.meadow.fate = fate
        lab.check_exact(input_ids=prompt(21, rows=dice.choice([1, 2])), max_new_tokens=6)
