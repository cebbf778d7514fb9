"""What happens in a simulation, as YAML files describe it.

Times in seconds of the simulation, speeds in layers x tokens per second, positions in milliseconds one way.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarm.core.errors import ConfigError

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Speeds(_Part):
    """Log-normal around `median`; with `tail`, times a Pareto-distributed factor of this exponent."""

    median: _Positive = 150.0
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.5
    tail: _Positive | None = None


class Giant(_Part):
    """One peer unlike all others, which stays to the end: its share of the layers, and of the median speed."""

    layers_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    speed_factor: _Positive = 50.0


class PeerKind(_Part):
    """How peers are drawn.

    `layers` fit on one peer (from, to); loading one takes `load_s` (from, to) seconds. A peer stays `lifetime_s` on
    average (None: to the end); `replaced` ones are followed by new ones at the same rate. `crash_share` of them leave
    without a word, and their records live on until their lease ends. `claim_error` is by how much a peer misjudges its
    own speed when it joins (sigma).
    """

    speeds: Speeds = Speeds()
    layers: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (4, 16)
    load_s: tuple[_Positive, _Positive] = (0.5, 2.0)
    lifetime_s: _Positive | None = None
    replaced: bool = True
    crash_share: _Share = 0.5
    claim_error: Annotated[float, Field(ge=0, le=1)] = 0.1
    giant: Giant | None = None

    @model_validator(mode="after")
    def _ranges_ascend(self) -> PeerKind:
        if self.layers[0] > self.layers[1] or self.load_s[0] > self.load_s[1]:
            raise ValueError("a range is written [smallest, largest]")
        return self


class Event(_Part):
    """Something that happens to `share` of the peers between `at_s` and `at_s + within_s`.

    join: peers that were not there at the start come. leave: peers leave for good. lose: the peers of a region (as many
    as the share says, the nearest to its middle first) vanish without a word, all at once. slow: speeds fall to
    `factor`, and are back after `lasting_s`.
    """

    kind: Literal["join", "leave", "lose", "slow"]
    at_s: Annotated[float, Field(ge=0)]
    share: _Share
    within_s: Annotated[float, Field(ge=0)] = 0.0
    factor: _Positive = 1.0
    lasting_s: _Positive = 300.0
    repeat_s: _Positive | None = None


class Requests(_Part):
    """Callers: how much they want at `load` times what the best placement serves, and how long their texts are.

    Lengths are log-normal with these medians; a token of the prompt costs `prompt_cost` of a new one. One session takes
    at most `most_tokens_per_s`; callers that would get less than `least_tokens_per_s` are told to come back later.
    """

    load: _Positive = 1.3
    prompt_tokens: _Positive = 300.0
    new_tokens: _Positive = 150.0
    sigma: Annotated[float, Field(ge=0, le=3)] = 1.0
    prompt_cost: Annotated[float, Field(ge=0, le=1)] = 0.05
    most_tokens_per_s: _Positive = 5.0
    least_tokens_per_s: _Positive = 1.0

    @property
    def mean_tokens(self) -> float:
        """What a request costs on average, in new tokens."""
        median = self.new_tokens + self.prompt_cost * self.prompt_tokens
        return float(median * np.exp(self.sigma**2 / 2))

    def draw(self, rng: np.random.Generator) -> float:
        """What the next request costs, in new tokens."""
        prompt, new = np.exp(rng.normal(0.0, self.sigma, 2)) * (self.prompt_tokens, self.new_tokens)
        return float(new + self.prompt_cost * prompt)


class Region(_Part):
    """A part of the world: the share of peers there, its middle, and how far they lie around it."""

    share: _Share
    x_ms: float
    y_ms: float
    spread_ms: Annotated[float, Field(ge=0)] = 8.0


class Scenario(_Part):
    """One story, for any number of peers."""

    name: str
    description: str
    n_layers: Annotated[int, Field(ge=1, le=1000)] = 80
    duration_s: _Positive = 3600.0
    steady_from_s: Annotated[float, Field(ge=0)] = 900.0
    at_start: _Share = 1.0
    peers: PeerKind = PeerKind()
    requests: Requests = Requests()
    regions: Annotated[tuple[Region, ...], Field(min_length=1)] = (
        Region(share=0.4, x_ms=0, y_ms=0),
        Region(share=0.3, x_ms=45, y_ms=10),
        Region(share=0.3, x_ms=70, y_ms=60),
    )
    events: tuple[Event, ...] = ()

    @property
    def loss_at_s(self) -> float | None:
        """When a region is lost, if one is."""
        return next((event.at_s for event in self.events if event.kind == "lose"), None)


SCENARIOS = ("flash_crowd", "slow_decay", "regional_loss", "stragglers", "heavy_tail", "giant")


def load_scenario(name: str) -> Scenario:
    """A built-in scenario by its name, or one from a YAML file by its path.

    Raises:
        ConfigError: there is none, or it is wrong, with the field and the reason.
    """
    if name in SCENARIOS:
        text = (files("swarm.sim") / "scenarios" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            known = ", ".join(SCENARIOS)
            raise ConfigError(f"scenario {name}: neither a readable file nor one of {known}") from exc
    try:
        return Scenario.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as exc:
        raise ConfigError(f"scenario {name}: this is not YAML") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"scenario {name}: {place}: {first['msg']}") from exc
