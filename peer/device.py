"""Which device a peer computes on, and how much memory is free there."""

from __future__ import annotations

import psutil
import torch

from swarm.core.errors import ConfigError
from swarm.peer import cgroups


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: if the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ConfigError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: torch finds no Metal device here")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps")
    return device


def free_memory(device: torch.device) -> int:
    """Free bytes on the device; on the CPU also below the limits of containers and services."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    available, within = int(psutil.virtual_memory().available), cgroups.free_bytes()
    return available if within is None else min(available, within)
