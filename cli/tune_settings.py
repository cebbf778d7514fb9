"""Options of `swarm tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from swarm.cli.setting_types import Count, Device, File, Seconds, Shown, says, split
from swarm.cli.settings import ModelSettings, PeersSettings

TriedPrecision = Literal["float32", "bfloat16", "float16", "int8", "nf4"]
Precisions = Annotated[
    tuple[TriedPrecision, ...],
    NoDecode,
    BeforeValidator(split),
    says(f"must be some of {', '.join(get_args(TriedPrecision))}, with commas between"),
]

ThreadCounts = Annotated[
    tuple[Count, ...],
    NoDecode,
    BeforeValidator(split),
    says("must be positive integers, such as 1,2,8"),
]


class TuneSettings(PeersSettings, ModelSettings):
    """`swarm tune MODEL`."""

    PANEL = "Options"

    out: Annotated[
        File, Shown("FILE.yaml"), Field(description="Where the settings go; a file that is there stays.")
    ] = Path("swarm-peer.yaml")
    seconds: Annotated[
        Seconds, Field(description="How long to try, besides loading; longer means less noise.")
    ] = 60.0
    device: Annotated[Device, Shown("DEVICE"), Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    precisions: Annotated[
        Precisions,
        Shown(
            "P,P,...", default="the checkpoint's own, float32, bfloat16; on GPUs float16 instead of float32"
        ),
        Field(description="What to try; int8 and nf4 keep the weights in fewer bits, which costs quality."),
    ] = ()
    threads: Annotated[
        ThreadCounts,
        Shown("N,N,...", default="1, half of the cores, and all of them"),
        Field(description="CPU threads to try."),
    ] = ()
