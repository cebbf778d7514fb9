"""A client's connection to the swarm of one model: node, picture of the swarm, and sessions on chains."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from swarm.client.chain_session import ChainSession
from swarm.client.deadline import StepDeadline
from swarm.client.engine import Engine
from swarm.client.inbox import Inbox
from swarm.client.navigator import Navigator
from swarm.client.profile import StepProfile
from swarm.client.shared import LoadedModel, Shared
from swarm.client.stats import ClientStats
from swarm.core.config import ClientConfig, NodeConfig
from swarm.core.errors import ConfigError, Interrupted, NodeError, SwarmUnavailable
from swarm.core.precision import dtype_of
from swarm.core.span import Span
from swarm.routing.announcement import claims, decode
from swarm.routing.chain import Chain, Hop
from swarm.routing.records import BUCKETS, directory_key
from swarm.security.identity import Identity
from swarm.shards.step import Step
from swarm.wire.node import Node

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which checkpoint the network is for; the layers `together` must run on one peer."""

    uid: str
    name: str
    layers: int
    together: Span | None = None


class Network:
    """Opens sessions on chains of peers; a `RemoteRunner`. Usable from several threads.

    Args:
        peers: addresses of any nodes of the swarm.
    """

    def __init__(self, facts: ModelFacts, peers: tuple[str, ...], config: ClientConfig) -> None:
        if not peers:
            raise ConfigError(
                "no peers given: pass the address of any node of the swarm (peers=[...] or --peers)"
            )
        self.stats = ClientStats()
        self._facts = facts
        self._config = config
        self._model: LoadedModel | None = None
        self._latest: ChainSession | None = None
        self._lock = threading.Lock()
        self._engine = Engine()
        try:
            self._shared = self._engine.run(self._start(peers))
        except BaseException:
            self._engine.close(_nothing)
            raise

    async def _start(self, peers: tuple[str, ...]) -> Shared:
        inbox = Inbox()
        node = await Node.start(
            NodeConfig(peers=peers, host="127.0.0.1", listen=False),
            Identity.ephemeral(),
            handler=inbox.handle,
            inspect=claims,
        )
        facts = self._facts
        try:
            navigator = Navigator(node, facts.uid, self._config, facts.together)
            await navigator.refresh()
            if not navigator.view.peers:
                raise SwarmUnavailable(await _nobody(node, facts))
        except BaseException:
            await node.stop()
            raise
        self._node = node
        self._refresher = asyncio.create_task(navigator.run())
        deadline = StepDeadline(self._config.step_timeout_s)
        return Shared(
            node=node,
            inbox=inbox,
            navigator=navigator,
            config=self._config,
            deadline=deadline,
            layers=facts.layers,
            model_uid=facts.uid,
            stats=self.stats,
        )

    def dtypes(self) -> set[str]:
        """The dtypes in which peers of this model compute now."""
        return {dtype_of(precision) for precision in self._shared.navigator.view.precisions()}

    def attach(self, model: LoadedModel) -> None:
        """Say which model's sessions will be opened."""
        self._model = model

    def open(self, *, max_tokens: int, rollback: bool) -> NetworkSession:
        """A new session; its hops are opened with its first step."""
        assert self._model is not None, "attach the loaded model first"
        session = ChainSession(self._shared, self._model, max_tokens=max_tokens, rollback=rollback)
        with self._lock:
            self._latest = session
        return NetworkSession(self._engine, session, self._shared.profile)

    @property
    def chain(self) -> Chain | None:
        """The chain of the session that was opened last; None before its first step and after its end."""
        with self._lock:
            latest = self._latest
        return chain_of(latest) if latest is not None else None

    @property
    def profile(self) -> StepProfile:
        """Where the time of decode steps went so far; meaningful while one session runs at a time."""
        return self._shared.profile

    def peer_name(self, peer_id: str) -> str:
        """The name a peer gave itself, or an empty string."""
        record = self._shared.navigator.view.get(peer_id)
        return record.name if record is not None else ""

    def close(self) -> None:
        """Leave the swarm; idempotent."""
        self._engine.close(self._leave)

    async def _leave(self) -> None:
        self._refresher.cancel()
        await self._shared.navigator.close()
        await self._node.stop()


class NetworkSession:
    """A `RemoteSession`: hands the calls of the generating thread to the session on the engine's loop.

    Any thread may interrupt it: the step that runs then, and every later one, raises `Interrupted`.
    """

    def __init__(self, engine: Engine, session: ChainSession, profile: StepProfile) -> None:
        self._engine = engine
        self._session = session
        self._profile = profile
        self._ended_s = time.perf_counter()
        self._lock = threading.Lock()
        self._running: Future[Tensor] | None = None
        self._interrupted = False

    def step(self, step: Step, *, keep_last: int) -> Tensor:
        """See `ChainSession.step`.

        Raises:
            Interrupted: if another thread has interrupted this session.
        """
        began_s = time.perf_counter()
        profile, chain_s = self._profile, self._profile.chain_s
        hidden = self._run(step, keep_last)
        now_s = time.perf_counter()
        if profile.chain_s > chain_s:  # a decode step
            profile.handover_s += now_s - began_s - (profile.chain_s - chain_s)
            profile.client_s += began_s - self._ended_s
        self._ended_s = now_s
        return hidden

    def _run(self, step: Step, keep_last: int) -> Tensor:
        with self._lock:
            if self._interrupted:
                raise Interrupted("the generation was interrupted")
            running = self._running = self._engine.submit(self._session.step(step, keep_last))
        try:
            return self._engine.wait(running)
        except NodeError as error:
            if self._interrupted:
                raise Interrupted("the generation was interrupted") from error
            raise

    def interrupt(self) -> None:
        """End the step that runs, and refuse further ones; from any thread."""
        with self._lock:
            self._interrupted = True
            running = self._running
        if running is not None:
            running.cancel()

    @property
    def chain(self) -> Chain | None:
        """The hops of this session; None before its first step and after its end."""
        return chain_of(self._session)

    @property
    def profile(self) -> StepProfile:
        """Where the time of this session's decode steps went."""
        return self._session.profile

    def close(self) -> None:
        """End the session in the background."""
        self._engine.start(self._session.close)


def chain_of(session: ChainSession) -> Chain | None:
    """The hops of a session as a chain; None while it has none."""
    hops = list(session.hops)
    if not hops:
        return None
    return Chain(tuple(Hop(hop.peer_id, hop.span) for hop in hops), 0.0, hops[0].precision)


async def _nothing() -> None:
    """Nothing is left to end."""


async def _nobody(node: Node, facts: ModelFacts) -> str:
    """Why there are no peers: what the swarm serves instead."""
    bodies = await node.directory.fetch([directory_key(bucket) for bucket in range(BUCKETS)])
    others = sorted({(record.model_name, record.model_uid) for record in map(decode, bodies)})
    text = f"no peer of this swarm serves {facts.name} (checkpoint {facts.uid[:12]})"
    if not others:
        return (
            f"{text}: the swarm has no peers yet; start one with `swarm serve {facts.name} --peers ADDRESS`"
        )
    served = ", ".join(f"{name} (checkpoint {uid[:12]})" for name, uid in others[:8])
    if any(name == facts.name for name, _ in others):
        return (
            f"{text}: its peers have another checkpoint; use the same files on all machines. Served: {served}"
        )
    return f"{text}; it serves {served}"
