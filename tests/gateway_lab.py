"""Gateways for tests: over a local model in this process, or any other, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
import uvicorn
from transformers import AutoModelForCausalLM

from swarm.builtin import demo_path
from swarm.client.draft_length import DraftLength
from swarm.client.model import SwarmModel
from swarm.client.outlook import Outlook
from swarm.client.profile import StepProfile
from swarm.client.speculation import Speculation
from swarm.client.stats import ClientStats
from swarm.core.config import ModelConfig
from swarm.core.errors import SwarmError
from swarm.gateway.admission import Admission
from swarm.gateway.app import build_app
from swarm.gateway.desk import Desk
from swarm.gateway.door import Door
from swarm.gateway.generation import LinedModel
from swarm.gateway.lookout import Lookout
from swarm.gateway.meter import Meter
from swarm.gateway.pooling import Pooling
from swarm.gateway.prompts import Prompter
from swarm.gateway.routes import Gateway
from swarm.gateway.vocabulary import Vocabulary
from swarm.routing.chain import Chain
from swarm.routing.status import summarise
from swarm.shards.tokenizer import load_tokenizer
from tests.records import make_view
from tests.waiting import wait_for

BODY_BYTES = 1 << 20
DRAFT = 6  # tokens


class LocalLine:
    """A session that is none: the model runs in this process."""

    def __init__(self) -> None:
        self.arguments: Any = {}
        self.interrupted = False
        self.closed = False

    @property
    def chain(self) -> Chain | None:
        return None

    @property
    def sessions(self) -> tuple[str, ...]:
        return ()

    @property
    def profile(self) -> StepProfile:
        return StepProfile()

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True


class LocalNetwork:
    """A swarm that is none; it looks like `outlook`."""

    def __init__(self) -> None:
        self.outlook = Outlook(summarise(make_view()))

    def look(self) -> Future[Outlook]:
        found: Future[Outlook] = Future()
        found.set_result(self.outlook)
        return found


class LocalModel:
    """The demo model in this process, as the gateway wants it.

    Attributes:
        lines: every session that was opened.
        gate: generation waits until it is set.
        error: what a generation ends with, after it has begun.
    """

    def __init__(self) -> None:
        self._model = local_demo()
        self.config = self._model.config
        self.generation_config = self._model.generation_config
        self.swarm = LocalNetwork()
        self.lines: list[LocalLine] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: SwarmError | None = None

    def line(self, max_tokens: int, only: frozenset[str] | None = None, *, drafts: bool = False) -> LocalLine:
        line = LocalLine()
        self.lines.append(line)
        return line

    def pass_gate(self) -> None:
        """Wait until it is open; then fail if that is wanted."""
        self.gate.wait()
        if self.error is not None:
            raise self.error

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        self.pass_gate()
        return self._model.generate(inputs, **options)

    def encode(self, input_ids: Any, **cache: Any) -> Any:
        self.gate.wait()
        with torch.no_grad():
            return self._model.model(input_ids=input_ids)[0]


class ScriptedModel(LocalModel):
    """Writes what it is told to, token by token, whatever the prompt."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        self.pass_gate()
        streamer, criteria = options["streamer"], options["stopping_criteria"]
        streamer.put(inputs)
        tokens = [*demo_tokenizer()(self.text, add_special_tokens=False)["input_ids"], 2]
        for token in tokens[: options["max_new_tokens"]]:
            streamer.put(torch.tensor([token]))
            if bool(criteria(inputs, None).all()):
                break
        streamer.end()


class AlwaysDrafts(DraftLength):
    """Drafts whether it pays or not."""

    def choose(self, basis: int) -> int:
        return DRAFT


@cache
def local_demo() -> Any:
    """The whole demo model, which drafts as models of a swarm do."""
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(demo_path(), dtype=torch.float32, local_files_only=True)
    model.__class__ = type("LocalDemo", (SwarmModel, type(model)), {})
    model.speculation = Speculation(ClientStats(), True, AlwaysDrafts())
    return model


@cache
def demo_tokenizer() -> Any:
    return load_tokenizer(ModelConfig("demo"))


def local_text(messages: list[Any], tokens: int) -> str:
    """What the local model answers, greedily."""
    tokenizer = demo_tokenizer()
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    found = local_demo().generate(**encoded, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(found[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True))


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that serves `model`; `url` ends before `/v1`."""

    url: str
    gateway: Gateway
    model: Any
    server: uvicorn.Server

    @property
    def admission(self) -> Admission:
        return self.gateway.desk.admission


class SeenModel(LinedModel, Protocol):
    """A model whose swarm can be looked at."""

    swarm: Any


def make_gateway(
    model: SeenModel,
    sessions: int = 8,
    queue: int = 16,
    keys: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    pooling: Pooling | None = None,
    *,
    speculates: bool = False,
    silence_s: float = 10.0,
) -> Gateway:
    """A gateway over `model`, which has the demo's tokenizer."""
    vocabulary = Vocabulary(demo_tokenizer(), model.config, model.generation_config)
    admission = Admission(sessions, queue)
    stats = getattr(model, "stats", None) or ClientStats()
    meter = Meter(admission, stats, clock)
    desk = Desk(model, vocabulary, admission, meter, speculates=speculates)
    lookout = Lookout(model.swarm.look, admission, stats)
    return Gateway("demo", Prompter(vocabulary, "demo"), desk, Door(keys), meter, lookout, pooling, silence_s)


@contextmanager
def running(
    gateway: Gateway, *, pulse: bool = False, allowed_origins: Sequence[str] = ()
) -> Iterator[RunningGateway]:
    """Serve `gateway` from a thread of this process; at the end, all its books agree."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        build_app(gateway, BODY_BYTES, allowed_origins),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        beating = asyncio.create_task(gateway.pulse.run()) if pulse else None
        try:
            await server.serve(sockets=[listener])
        finally:
            if beating is not None:
                beating.cancel()
            await gateway.desk.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, 30, "the gateway listens")
        port = listener.getsockname()[1]
        yield RunningGateway(f"http://127.0.0.1:{port}", gateway, gateway.desk.model, server)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()
    assert gateway.desk.admission.running == 0
    gateway.desk.admission.check()
