"""Settings of a command: flag > SWARM_* environment variable > --config FILE.yaml > default.

A command's settings are one subclass of `Settings`; `options.py` makes its flags from the same fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from swarm.cli.setting_types import File, PeerAddresses, Shown, Text
from swarm.cli.yaml_source import YamlSource
from swarm.core.config import ModelConfig
from swarm.core.errors import ConfigError

ENV_PREFIX = "SWARM_"


class Settings(BaseSettings):
    """What every command has. Build instances with `load`. `PANEL` is where --help shows a class's own fields."""

    PANEL: ClassVar[str] = "Options"

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    config: Annotated[
        File | None,
        Shown(metavar="FILE.yaml"),
        Field(description="Read further options from this YAML file."),
    ] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlSource(settings_cls)

    @classmethod
    def load(cls, flags: Mapping[str, Any]) -> Self:
        """Settings from all sources; a flag that is None or empty was not given.

        Raises:
            ConfigError: one line that names each wrong key as the user wrote it, and what it must be.
        """
        given = {name: value for name, value in flags.items() if value is not None and value != []}
        try:
            return cls(**given)
        except ValidationError as exc:
            problems = {_problem(cls, error, given): None for error in exc.errors()}
            raise ConfigError("; ".join(problems)) from exc

    @classmethod
    def shown(cls, name: str) -> Shown:
        return next((m for m in cls.model_fields[name].metadata if isinstance(m, Shown)), Shown())

    @classmethod
    def written_as(cls, name: str) -> str:
        """How the setting is written on the command line: `MODEL` or `--cache-tokens`."""
        shown = cls.shown(name)
        if shown.positional:
            return shown.metavar or name.upper()
        return shown.flag or "--" + name.replace("_", "-")


def _problem(settings: type[Settings], error: ErrorDetails, flags: Mapping[str, Any]) -> str:
    reason = str(error.get("ctx", {}).get("error") or error["msg"].replace("Input should be", "must be"))
    if not error["loc"]:
        return reason
    name = str(error["loc"][0])
    written = settings.written_as(name)
    if error["type"] == "missing":
        return f"{written} is missing: give it on the command line, as {ENV_PREFIX}{name.upper()} or in a --config file"
    if name in flags:
        return f"{written}: {reason}"
    if os.environ.get(ENV_PREFIX + name.upper()):
        return f"{ENV_PREFIX}{name.upper()}: {reason}"
    return f"{flags.get('config') or os.environ.get('SWARM_CONFIG')}: {name}: {reason}"


class ModelSettings(Settings):
    """Which checkpoint."""

    PANEL = "Hugging Face"

    model: Annotated[
        Text,
        Shown("MODEL", positional=True),
        Field(description="demo (built in), a local folder, or a Hugging Face model id."),
    ]
    revision: Annotated[
        Text | None, Field(description="Branch, tag or commit of a Hugging Face model.", min_length=1)
    ] = None
    token: Annotated[
        Text | None, Field(description="Hugging Face access token, for private models.", min_length=1)
    ] = None
    cache_dir: Annotated[File | None, Field(description="Folder that keeps downloaded models.")] = None

    def model_source(self) -> ModelConfig:
        return ModelConfig(self.model, self.revision, self.token, self.cache_dir)


class PeersSettings(Settings):
    """How a node finds the swarm."""

    PANEL = "Network"

    peers: Annotated[
        PeerAddresses,
        Shown("ADDR"),
        Field(description="Address of any peer of the swarm; may be given several times."),
    ] = ()

    def require_peers(self) -> tuple[str, ...]:
        """The addresses.

        Raises:
            ConfigError: none was given.
        """
        if not self.peers:
            raise ConfigError(
                "--peers is missing: give the address that a peer prints when it starts "
                "(--peers /ip4/.../p2p/..., or SWARM_PEERS)"
            )
        return self.peers
