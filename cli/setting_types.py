"""The kinds of values that settings have: each says in its own words what it must be, and how --help shows it.

Values arrive as text (flags, environment, YAML scalars) and leave as the types of `swarm.core.config`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_settings import NoDecode

from swarm.core.span import Span
from swarm.routing.records import MAX_LEASE_S


@dataclass(frozen=True, slots=True)
class Shown:
    """How a setting stands on the command line, where the rules of `options.py` do not say it already.

    Attributes:
        metavar: placeholder of the value.
        flag: option name other than `--field-name`.
        positional: an argument instead of an option.
        default: what --help gives as the default.
    """

    metavar: str | None = None
    flag: str | None = None
    positional: bool = False
    default: str | None = None


def says(requirement: str) -> WrapValidator:
    """Whatever pydantic has against the value, the user reads `requirement`."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as exc:
            raise ValueError(requirement) from exc

    return WrapValidator(validate)


def split(value: object) -> object:
    """Addresses are written as a list, or as one text with commas or spaces between."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return [
        part
        for text in texts
        for part in (re.split(r"[,\s]+", text) if isinstance(text, str) else [text])
        if part
    ]


def _layers(value: object) -> object:
    return None if value == "auto" else Span.parse(value) if isinstance(value, str) else value


def _utf8(text: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text):  # how Python hands over bytes of argv that are not UTF-8
        raise ValueError("is not UTF-8 text")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has control characters")
    return text


def _ip(text: str) -> str:
    return str(ip_address("127.0.0.1" if text == "localhost" else text))


def _matching(pattern: str, requirement: str) -> Callable[[str], str]:
    def validate(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"{text!r} {requirement}")
        return text

    return validate


_PEER = _matching(
    r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/.+/p2p/[1-9A-HJ-NP-Za-km-z]+",
    "is not a peer address: it looks like /ip4/192.0.2.7/tcp/31330/p2p/12D3Koo..., as the other peer prints it",
)
_PUBLIC = _matching(
    r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/(tcp|udp)/\d+(/.*)?",
    "is not an address: it looks like /ip4/192.0.2.7/tcp/31330",
)

_ORIGIN = _matching(
    r"\*|https?://[^\s/]+", "is not where a page comes from: it looks like https://chat.example, or is *"
)


def _all(check: Callable[[str], str]) -> Callable[[object], object]:
    def validate(value: object) -> object:
        return (
            [check(text) if isinstance(text, str) else text for text in value]
            if isinstance(value, list)
            else value
        )

    return validate


Count = Annotated[int, Field(gt=0, lt=1 << 53), says("must be a positive integer")]
WholeNumber = Annotated[int, Field(ge=0, lt=1 << 53), says("must be an integer of at least 0")]
Counts = Annotated[
    tuple[Count, ...],
    Field(min_length=1),
    NoDecode,
    BeforeValidator(split),
    says("must be positive integers, such as 1,4,16"),
]
DelayMs = Annotated[
    float, Field(ge=0, le=10000, allow_inf_nan=False), says("must be milliseconds from 0 to 10000")
]
DemoLength = Annotated[int, Field(ge=40, le=1000), says("must be an integer from 40 to 1000")]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False), says("must be seconds, more than 0")]
Port = Annotated[int, Field(ge=0, le=65535), says("must be a port number from 0 (any free port) to 65535")]
Seed = Annotated[int, Field(ge=0, lt=1 << 63), says("must be an integer of at least 0")]
Temperature = Annotated[
    float, Field(ge=0, le=100, allow_inf_nan=False), says("must be a number of at least 0")
]
Probability = Annotated[float, Field(gt=0, le=1), says("must be a number more than 0 and at most 1")]
Switch = Annotated[bool, says("must be true or false")]
Text = Annotated[str, AfterValidator(_utf8)]
Host = Annotated[str, AfterValidator(_ip), says("must be an IP address, such as 0.0.0.0 or 127.0.0.1")]
LeaseSeconds = Annotated[
    float, Field(gt=0, le=MAX_LEASE_S), says(f"must be more than 0 and at most {MAX_LEASE_S:g} seconds")
]
ShortName = Annotated[
    str, Field(max_length=64), AfterValidator(_printable), says("must be at most 64 printable characters")
]
Url = Annotated[
    str, Field(pattern=r"^https?://[^\s/]+"), says("must be a URL, such as http://127.0.0.1:4318/v1/traces")
]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$"), says("must be auto, cpu, cuda, cuda:N or mps")
]
Layers = Annotated[Span | None, NoDecode, BeforeValidator(_layers)]
File = Annotated[
    Path, BeforeValidator(lambda value: Path(value).expanduser() if isinstance(value, str) else value)
]
PeerAddresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_all(_PEER)), BeforeValidator(split)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_all(_ORIGIN)), BeforeValidator(split)]
PublicAddresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_all(_PUBLIC)), BeforeValidator(split)]
