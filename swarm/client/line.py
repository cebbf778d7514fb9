"""One generation's own line into the swarm, which other threads may watch and cut."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from swarm.client.network import Network, NetworkSession
from swarm.client.profile import StepProfile
from swarm.core.errors import Interrupted
from swarm.routing.chain import Chain
from swarm.shards.causal import cache_argument
from swarm.shards.remote import RemoteCache
from swarm.shards.remote_layers import RemoteLayers
from swarm.shards.traits import ModelTraits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Line:
    """Hand `arguments` to `generate()`; closing the line ends its session on every hop.

        with model.line(max_tokens=512) as line:
            model.generate(ids, **line.arguments)

    Args:
        cache_name: the argument under which the model takes its cache.
        max_tokens: positions that the generation needs at most, prompt included.
        only: the ids of the only peers to use; None allows all.
        drafts: whether tokens will be taken back, as verifying drafts does.
    """

    def __init__(
        self,
        network: Network,
        traits: ModelTraits,
        cache_name: str,
        max_tokens: int,
        only: frozenset[str] | None = None,
        *,
        drafts: bool = False,
    ) -> None:
        self._network = network
        self._only = only
        self._session: NetworkSession | None = None
        self._lock = threading.Lock()
        self._interrupted = False
        self._cache = RemoteCache(self, traits, max_tokens=max_tokens, rollback=drafts)
        self.arguments = {cache_name: self._cache}

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        network: Network,
        max_tokens: int,
        only: frozenset[str] | None,
        *,
        drafts: bool,
    ) -> Self:
        """A line for a client's model."""
        layers = cast(RemoteLayers, model.__dict__["remote_layers"])
        traits: ModelTraits = layers.__dict__["traits"]
        return cls(network, traits, cache_argument(type(model)), max_tokens, only, drafts=drafts)

    def open(self, *, max_tokens: int, rollback: bool) -> NetworkSession:
        """As a `RemoteRunner`, for the cache."""
        with self._lock:
            if self._interrupted:
                raise Interrupted("the generation was interrupted")
            session = self._session = self._network.open(
                max_tokens=max_tokens, rollback=rollback, only=self._only
            )
        return session

    def interrupt(self) -> None:
        """Let the generation end with `Interrupted`, even in the middle of a step; from any thread."""
        with self._lock:
            self._interrupted = True
            session = self._session
        if session is not None:
            session.interrupt()

    @property
    def chain(self) -> Chain | None:
        """The hops; None before the first step and after the end."""
        return self._session.chain if self._session is not None else None

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids of the session on these hops."""
        return self._session.sessions if self._session is not None else ()

    @property
    def profile(self) -> StepProfile:
        """Where the time of the decode steps went."""
        return self._session.profile if self._session is not None else StepProfile()

    def close(self) -> None:
        """End the session in the background; idempotent."""
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
