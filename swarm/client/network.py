"""What a loaded model runs on: sessions on chains of peers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from torch import Tensor

from swarm.client.chain_session import ChainSession
from swarm.client.deadline import StepDeadline
from swarm.client.engine import Engine
from swarm.client.entrance import Entrance
from swarm.client.joint_head import Meeting
from swarm.client.outlook import Outlook
from swarm.client.profile import StepProfile
from swarm.client.shared import LoadedModel, Shared
from swarm.client.stats import ClientStats
from swarm.core.config import ClientConfig, Wire
from swarm.core.errors import Interrupted, NodeError
from swarm.core.precision import dtype_of
from swarm.core.span import Span
from swarm.routing.chain import Chain, Hop
from swarm.shards.step import Step
from swarm.wire.link import Link
from swarm.wire.traffic import Traffic


class Network:
    """Opens sessions on chains of peers; a `RemoteRunner`. Usable from several threads.

    Args:
        entrance: where this client has joined the swarm, or is about to; closed with this.
        layers: how many the model has.
        together: those of them that must run on one peer.

    Raises:
        NodeError, SwarmUnavailable: if it cannot join; see `Entrance.arrive`.
    """

    def __init__(self, entrance: Entrance, config: ClientConfig, layers: int, together: Span | None) -> None:
        self.stats = ClientStats()
        self._entrance = entrance
        self._engine = entrance.engine
        self._model: LoadedModel | None = None
        self._latest: ChainSession | None = None
        self._lock = threading.Lock()
        arrival = entrance.arrive()
        arrival.navigator.together = together
        self._shared = Shared(
            node=arrival.node,
            inbox=arrival.inbox,
            navigator=arrival.navigator,
            config=config,
            deadline=StepDeadline(config.step_timeout_s),
            layers=layers,
            model_uid=entrance.model_uid,
            stats=self.stats,
        )

    @property
    def wire(self) -> Wire:
        """How activations travel."""
        return self._shared.config.wire

    def dtypes(self) -> set[str]:
        """The dtypes in which peers of this model compute now."""
        return {dtype_of(precision) for precision in self._shared.navigator.view.precisions()}

    def attach(self, model: LoadedModel) -> None:
        """Say which model's sessions will be opened."""
        self._model = model

    def open(self, *, max_tokens: int, rollback: bool, only: frozenset[str] | None = None) -> NetworkSession:
        """A new session; its hops are opened with its first step, on peers of `only` if that is given."""
        assert self._model is not None, "attach the loaded model first"
        session = ChainSession(self._shared, self._model, max_tokens=max_tokens, rollback=rollback, only=only)
        with self._lock:
            self._latest = session
        return NetworkSession(self._engine, session, self._shared.profile, self._model.meeting)

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

    @property
    def links(self) -> list[Link]:
        """The links to peers that are open now."""
        return self._shared.node.links()

    @property
    def traffic(self) -> Traffic:
        """Bytes over all links there ever were."""
        return self._shared.node.traffic

    def peer_name(self, peer_id: str) -> str:
        """The name a peer gave itself, or an empty string."""
        record = self._shared.navigator.view.get(peer_id)
        return record.name if record is not None else ""

    def look(self) -> Future[Outlook]:
        """Begin to gather what is known of the swarm now.

        Raises:
            NodeError: if this is closed.
        """
        return self._engine.begin(self._shared.navigator.look())

    def close(self) -> None:
        """Leave the swarm; idempotent."""
        self._entrance.close()


class NetworkSession:
    """A `RemoteSession`: hands the calls of the generating thread to the session on the engine's loop.

    Any thread may interrupt it: the step that runs then, and every later one, raises `Interrupted`.
    """

    def __init__(
        self, engine: Engine, session: ChainSession, profile: StepProfile, meeting: Meeting | None
    ) -> None:
        self._engine = engine
        self._session = session
        self._profile = profile
        self._meeting = meeting
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
            running = self._running = self._engine.begin(
                self._stepped(step, keep_last, threading.get_ident())
            )
        try:
            return self._engine.wait(running)
        except NodeError as error:
            if self._interrupted:
                raise Interrupted("the generation was interrupted") from error
            raise

    async def _stepped(self, step: Step, keep_last: int, thread: int) -> Tensor:
        hidden = await self._session.step(step, keep_last)
        if self._meeting is not None and step.tensors.hidden.shape[:2] == (1, 1):
            self._meeting.announce(thread)
        return hidden

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
    def sessions(self) -> tuple[str, ...]:
        """The ids of this session on the hops of its chain, as the peers' logs have them."""
        return tuple(hop.session.hex() for hop in list(self._session.hops))

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
