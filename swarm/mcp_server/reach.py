"""The swarm as an MCP server reaches it: looked at and joined when a client first asks, whatever runs by then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch

from swarm.client.model import SwarmModel
from swarm.client.swarm_survey import SwarmSurvey
from swarm.core.errors import ConfigError
from swarm.gateway.admission import Admission
from swarm.gateway.desk import Desk
from swarm.gateway.meter import Meter
from swarm.gateway.prompts import Prompter
from swarm.gateway.vocabulary import Vocabulary
from swarm.mcp_server.config import McpConfig
from swarm.mcp_server.lazy import Lazy
from swarm.mcp_server.tally import Tally
from swarm.routing.status import PeerRow, StatusReport
from swarm.shards.source import ModelSource
from swarm.shards.tokenizer import load_tokenizer


class Writer:
    """A model of the swarm that generates.

    Attributes:
        name: what peers call it.
    """

    def __init__(self, config: McpConfig, model: SwarmModel) -> None:
        source = ModelSource.open(config.model)
        vocabulary = Vocabulary(load_tokenizer(config.model), model.config, model.generation_config)
        self.name = source.short_name
        self.uid = source.uid
        self.model = model
        self.templated = bool(vocabulary.tokenizer.chat_template)
        self.prompter = Prompter(vocabulary, self.name)
        self.admission = Admission(config.sessions, config.queue)
        self.desk = Desk(model, vocabulary, self.admission, Meter(self.admission, model.stats))


class Reach:
    """For one event loop.

    Attributes:
        tally: what this server has generated.
    """

    def __init__(self, config: McpConfig) -> None:
        self.config = config
        self.tally = Tally()
        self._survey = Lazy(lambda: SwarmSurvey.start(config.peers))
        self._writer = Lazy(self._open_writer)

    async def reports(self, model: str | None = None) -> list[StatusReport]:
        """What the swarm says of itself now.

        Raises:
            SwarmError: it cannot be reached, or serves no such model.
        """
        return await (await self._survey.get()).look(model)

    async def writer(self, model: str | None = None) -> Writer:
        """What generates; loaded by the first call.

        Raises:
            ConfigError: `model` is another one.
            SwarmError: it cannot be loaded now.
        """
        own = self.config.model.name
        if model not in (None, own, own.rpartition("/")[2]):
            raise ConfigError(f"this server generates with {own}, not with {model}")
        return await self._writer.get()

    @property
    def open_writer(self) -> Writer | None:
        """What generates, if anybody has asked for it yet."""
        return self._writer.value

    async def _open_writer(self) -> Writer:
        config = self.config

        def load() -> Writer:
            torch.set_num_threads(1)
            model = SwarmModel.from_pretrained(
                config.model.name,
                peers=config.peers,
                dtype=config.dtype,
                revision=config.model.revision,
                token=config.model.token,
                cache_dir=config.model.cache_dir,
                config=config.client,
            )
            try:
                return Writer(config, model)
            except BaseException:
                model.close()
                raise

        return await asyncio.to_thread(load)

    async def close(self) -> None:
        """Leave the swarm."""
        writer, survey = await self._writer.settled(), await self._survey.settled()
        if writer is not None:
            await writer.desk.close()
            await asyncio.to_thread(writer.model.close)
        if survey is not None:
            await survey.stop()


def chosen_peers(report: StatusReport, nodes: Sequence[str]) -> frozenset[str]:
    """The ids of peers that are named by their names or ids.

    Raises:
        ConfigError: there is no such peer, or together they lack layers.
    """
    rows = [row for node in nodes for row in _matching(report, node)]
    missing = sorted(
        set(range(report.n_layers)) - {layer for row in rows for layer in range(row.span.start, row.span.end)}
    )
    if missing:
        raise ConfigError(
            f"nodes: {', '.join(nodes)} do not serve layer {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
        )
    return frozenset(row.peer_id for row in rows)


def _matching(report: StatusReport, node: str) -> list[PeerRow]:
    found = [row for row in report.peers if node in (row.name, row.peer_id)]
    if not found:
        known = ", ".join(row.name or row.peer_id for row in report.peers)
        raise ConfigError(f"nodes: there is no peer {node}; {report.model_name} is served by {known}")
    return found
