"""Waiting for an answer without trusting that it comes: past the usual time, the hops are asked whether they live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarm.client.inbox import Answer, Expectation
from swarm.client.shared import Shared
from swarm.core.errors import PeerError, PeerTimeout
from swarm.wire.step_messages import Replayed

PROBE_TIMEOUT_S = 2.0


async def wait_for(
    shared: Shared, expectation: Expectation, tokens: int, resend: Callable[[], Awaitable[None]] | None = None
) -> Answer | Replayed:
    """The answer to `expectation`, which stands for `tokens` token rows of work.

    `resend` sends the step again when all hops live but nothing came; hops answer a repeated step from what they kept.

    Raises:
        PeerError: naming the peer that failed, hangs, or never finishes.
        RequestError: if a hop refused the step.
    """
    clock = asyncio.get_running_loop()
    allowed_s, patience_s = shared.deadline.allowed_s(tokens), shared.deadline.patience_s(tokens)
    last_s = clock.time() + patience_s
    while True:
        alarm = clock.call_later(allowed_s, expectation.late)
        try:
            return await expectation.future
        except TimeoutError:
            laggard = await _slowest(expectation)
            expectation.renew()
        finally:
            alarm.cancel()
        if clock.time() >= last_s:
            raise PeerTimeout(f"{laggard} did not finish a step in {patience_s:.0f} s", laggard)
        allowed_s *= 2
        if resend is not None:
            await resend()


async def _slowest(expectation: Expectation) -> str:
    """The first hop that has not done the step; raises the error of a hop that does not answer at all."""
    answers = await asyncio.gather(
        *(hop.inspect(PROBE_TIMEOUT_S) for hop in expectation.hops), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, PeerError):
            raise answer
        if isinstance(answer, BaseException):
            raise answer
    number = expectation.number if expectation.number is not None else 0
    for hop, answer in zip(expectation.hops, answers, strict=True):
        if not isinstance(answer, BaseException) and answer.step < number:
            return hop.peer_id
    return expectation.source.peer_id
