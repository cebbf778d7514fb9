"""Options of the commands that use a swarm: generate, status, check and demo."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from swarm.cli.setting_types import (
    Count,
    DemoLength,
    Probability,
    Seconds,
    Seed,
    Shown,
    Switch,
    Temperature,
    Text,
)
from swarm.cli.settings import ModelSettings, PeersSettings, Settings
from swarm.core.config import ClientConfig, Precision, Wire

_CLIENT = ClientConfig()


class GenerateSettings(PeersSettings, ModelSettings):
    """`swarm generate MODEL PROMPT`."""

    PANEL = "Options"

    prompt: Annotated[
        Text, Shown("PROMPT", positional=True), Field(description="Text to go on from; - reads stdin.")
    ]
    max_tokens: Annotated[Count, Field(description="Most new tokens.")] = 128
    temperature: Annotated[
        Temperature | None,
        Shown(default="the model's own"),
        Field(description="Randomness; 0 always takes the likeliest token."),
    ] = None
    top_p: Annotated[
        Probability | None,
        Field(description="Choose among the likeliest tokens that make up this probability."),
    ] = None
    top_k: Annotated[Count | None, Field(description="Choose among so many likeliest tokens.")] = None
    seed: Annotated[Seed | None, Field(description="Same seed, same text.")] = None
    stop: Annotated[
        tuple[Text, ...], Shown("TEXT"), Field(description="Stop at this text; may be given several times.")
    ] = ()
    speculate: Annotated[
        Text,
        Shown("auto|off|ngram|MODEL"),
        Field(
            description="Draft tokens and verify several at once: from the text itself (ngram; auto where that is "
            "possible and no --seed asks for the same sampled text again), or by a small MODEL on this machine."
        ),
    ] = "auto"
    chat: Annotated[Switch | None, Field(description="Put the prompt into the model's chat template.")] = None
    system: Annotated[Text | None, Field(description="System message of the chat; implies --chat.")] = None
    profile: Annotated[Switch, Field(description="Say at the end where a token's time went, hop by hop.")] = (
        False
    )
    json_output: Annotated[
        Switch,
        Shown(flag="--json"),
        Field(description="Print text, tokens, timings and the chain as JSON, at the end."),
    ] = False
    dtype: Annotated[Precision, Field(description="Precision of what this side computes.")] = "auto"
    wire: Annotated[
        Wire,
        Field(
            description="How activations travel: in the model's dtype, or rounded to int8, which changes the text a "
            "little and takes a quarter to a half of the bytes."
        ),
    ] = _CLIENT.wire
    step_timeout_s: Annotated[
        Seconds, Field(description="How long a step may take until a peer's usual time is known.")
    ] = _CLIENT.step_timeout_s
    open_timeout_s: Annotated[
        Seconds, Field(description="How long opening a session on a peer may take.")
    ] = _CLIENT.open_timeout_s
    unavailable_timeout_s: Annotated[
        Seconds, Field(description="How long to wait for layers that nobody serves.")
    ] = _CLIENT.unavailable_timeout_s
    refresh_s: Annotated[Seconds, Field(description="How often to look for new peers.")] = _CLIENT.refresh_s

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.system is not None and self.chat is False:
            raise ValueError("--system contradicts --no-chat: a system message needs the chat template")
        for name in ("top_p", "top_k", "seed"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} contradicts --temperature 0, which leaves nothing to choose"
                )
        return self

    def client_config(self) -> ClientConfig:
        return ClientConfig(
            step_timeout_s=self.step_timeout_s,
            open_timeout_s=self.open_timeout_s,
            unavailable_timeout_s=self.unavailable_timeout_s,
            refresh_s=self.refresh_s,
            wire=self.wire,
        )


class StatusSettings(PeersSettings):
    """`swarm status [MODEL]`."""

    PANEL = "Options"

    model: Annotated[
        Text | None,
        Shown("[MODEL]", positional=True),
        Field(description="Name or uid of a model; without it, all models of the swarm."),
    ] = None
    watch: Annotated[Switch, Field(description="Show it again every few seconds until Ctrl-C.")] = False
    interval_s: Annotated[Seconds, Field(description="Seconds between two looks of --watch.")] = 2.0
    json_output: Annotated[
        Switch, Shown(flag="--json"), Field(description="Print JSON, with --watch one line a look.")
    ] = False


class CheckSettings(ModelSettings):
    """`swarm check MODEL`."""

    PANEL = "Options"

    splits: Annotated[Count, Field(description="Cut the model into so many spans.")] = 3
    dtype: Annotated[Precision, Field(description="Precision to compare in; auto: the checkpoint's own.")] = (
        "auto"
    )
    max_layers: Annotated[
        Count | None,
        Shown(default="what fits into memory twice"),
        Field(description="Compare the first layers only."),
    ] = None
    seed: Annotated[Seed, Field(description="Seed of the random prompts.")] = 0


class DemoSettings(Settings):
    """`swarm demo`."""

    prompt: Annotated[Text, Field(description="How the story begins.")] = "Once upon a time"
    max_tokens: Annotated[DemoLength, Field(description="Length of the story in tokens, at least 40.")] = 160
