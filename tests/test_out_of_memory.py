"""Memory that does not suffice is said so, whoever notices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from swarm.builtin import demo_path
from swarm.shards.out_of_memory import is_out_of_memory

LOAD = """
import resource, sys
import psutil, torch
from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource

def load():
    source = ModelSource.open(ModelConfig(sys.argv[1]))
    return Shard.load(source, Span(0, 8), dtype=torch.float32, device=torch.device("cpu"))

load()  # all that loading imports is there
limit = psutil.Process().memory_info().vms + (2 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load()
except ModelError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_a_model_error() -> None:
    run = [sys.executable, "-c", LOAD, str(demo_path())]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "memory does not suffice" in done.stdout or "are free: serve fewer layers" in done.stdout


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("unable to mmap 820 bytes from file: Cannot allocate memory (12)"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
