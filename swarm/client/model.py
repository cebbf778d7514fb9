"""`SwarmModel`: a transformers model whose layers run on the peers of a swarm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from swarm.core.config import ClientConfig, ModelConfig
from swarm.core.lasting import lasting
from swarm.core.late_imports import late_imports
from swarm.shards.checkpoint_index import CheckpointIndex

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from swarm.client.dialogue import Dialogue
    from swarm.client.line import Line
    from swarm.client.network import Network
    from swarm.client.speculation import Speculation
    from swarm.client.stats import ClientStats
    from swarm.routing.chain import Chain

    class _Base(PreTrainedModel):  # type: ignore[no-untyped-call]
        """What every instance is besides a `SwarmModel`; transformers' own signatures name a protocol.

        The attributes stand here because transformers evaluates the annotations of a class when it is made.
        """

        swarm: Network
        source_name: str
        speculation: Speculation

        def generate(self, inputs: torch.Tensor | None = None, **options: Any) -> Any: ...

        def _get_candidate_generator(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any: ...

else:
    _Base = object


class SwarmModel(_Base):  # type: ignore[no-untyped-call] # PreTrainedModel.__init_subclass__
    """A causal language model of transformers, complete but for its layers: they run on peers.

    `from_pretrained` returns an instance of the checkpoint's own class (`LlamaForCausalLM`, ...) that is also a
    `SwarmModel`: `generate()`, `forward()` and everything else are transformers' own. May be used from several threads
    at once; close it, or use it as a context manager.

    Attributes:
        swarm: the network it runs on.
        source_name: the model as it was asked for.
        speculation: what it has learned about drafting.
    """

    @classmethod
    def from_pretrained(  # type: ignore[override] # other arguments, on purpose
        cls,
        model: str | os.PathLike[str],
        *,
        peers: Sequence[str] | str,
        dtype: str = "auto",
        device: str = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        config: ClientConfig = ClientConfig(),  # noqa: B008 - frozen
    ) -> Self:
        """Join the swarm that serves `model` and load what runs here: embeddings, final norm and head.

        Args:
            model: `demo`, a local folder in the Hugging Face format, or a hub id.
            peers: addresses of any nodes of the swarm, as `swarm serve` prints them.
            dtype: `auto` (what the peers compute in), `float32`, `bfloat16` or `float16`.
            device: where the client's part runs.

        Raises:
            ConfigError: if an argument is wrong.
            ModelError: if the checkpoint cannot be used.
            NodeError: if none of `peers` can be reached.
            SwarmUnavailable: if no peer serves this checkpoint.
        """
        where = ModelConfig(
            os.fspath(model), revision, token, Path(cache_dir) if cache_dir is not None else None
        )
        index = CheckpointIndex.open(where)
        addresses = (peers,) if isinstance(peers, str) else tuple(peers)
        with ExitStack() as undo:
            with lasting("torch"):
                from swarm.client.entrance import Entrance, WantedModel

                entrance = Entrance(WantedModel(index.uid, index.short_name), addresses, config)
                undo.callback(entrance.close)
                with late_imports():
                    from swarm.client.loading import LoadOptions, load
                    from swarm.shards.source import ModelSource

                    source = ModelSource(index.name, index.files)  # imports the classes of the model
            loaded = load(source, entrance, LoadOptions(dtype, device, config), mixin=cls)
            undo.pop_all()
        return cast(Self, loaded)

    def generate(self, inputs: torch.Tensor | None = None, *, speculate: Any = "off", **options: Any) -> Any:
        """transformers' `generate`, and one more option.

        Args:
            speculate: `ngram` drafts tokens from the text itself and verifies several in one pass through the chain,
                `auto` does so where that is possible, `off` does not; an assistant model drafts by itself.

        Raises:
            ConfigError: if this speculation is not possible here.
            SwarmUnavailable: if layers stay unserved; nothing of the cache is lost.
        """
        given = inputs if inputs is not None else options.get("input_ids", options.get("inputs_embeds"))
        rows = 1 if given is None else given.shape[0]
        options.setdefault("synced_gpus", False)  # or transformers imports FSDP to find out
        with self.speculation.arranged(speculate, options, rows) as arguments:
            return super().generate(inputs, **arguments)

    def encode(self, input_ids: torch.Tensor, **cache: Any) -> torch.Tensor:
        """The hidden state `[B, S, H]` after the final norm, which embedding models make their vectors of.

        Args:
            cache: the arguments of a line, if the session is to be watched.
        """
        import torch  # loaded long before there is an instance

        stack = self.__dict__["remote_stack"]
        with torch.no_grad():
            output = stack(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **cache)
        return cast(torch.Tensor, output[0])

    def line(self, max_tokens: int, only: frozenset[str] | None = None, *, drafts: bool = False) -> Line:
        """A session of one generation's own, for up to `max_tokens` positions, which other threads may cut.

        Args:
            only: the ids of the only peers to use; None allows all.
            drafts: whether `generate` will `speculate` on it.
        """
        from swarm.client.line import Line  # imports torch

        return Line.of(self, self.swarm, max_tokens, only, drafts=drafts)

    def dialogue(self) -> Dialogue:
        """A session for a conversation, which keeps its cache from one call of `generate()` to the next."""
        from swarm.client.dialogue import Dialogue  # imports torch

        return Dialogue.of(self)

    def _get_candidate_generator(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        if self.speculation.drafts_ngrams:
            return self.speculation.drafts(generation_config.max_length, generation_config._eos_token_tensor)
        return super()._get_candidate_generator(generation_config, *args, **kwargs)

    @property
    def chain(self) -> Chain | None:
        """The peers of the session opened last, in order; None while there is none."""
        return self.swarm.chain

    @property
    def stats(self) -> ClientStats:
        """Steps, failovers, replayed tokens and stalls so far."""
        return self.swarm.stats

    def close(self) -> None:
        """End all sessions and leave the swarm; idempotent."""
        self.swarm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        chain = self.chain
        route = str(chain) if chain is not None else "no session"
        wire = "" if self.swarm.wire == "model" else f", {self.swarm.wire} on the wire"
        return f"SwarmModel({self.source_name!r}, {type(self).__name__}, {route}{wire})"
