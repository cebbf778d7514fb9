"""Where a running Python process is, looked at many times a second from outside, by py-spy.

Threads that compute are seen, and those that wait for a core, but not those that wait for anything else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from swarm.core.errors import ConfigError, SwarmError

RATE = 200
PLACES = {
    "products with weights": ("shards/products.py", "torch/nn/modules/linear.py"),
    "attention": ("sdpa_attention.py", "shards/flat_attention.py"),
    "cache": ("shards/room.py", "shards/cache.py", "shards/history.py", "transformers/cache_utils.py"),
    "rest of the layers": ("transformers/models/", "transformers/activations.py", "torch/"),
    "masks, generate()": ("transformers/",),
    "sessions and steps": ("swarm/shards/", "swarm/core/"),
    "hand-over between threads": ("threading.py", "concurrent/futures/", "queue.py", "peer/executor.py"),
    "peer: checks and queue": ("peer/",),
    "client: sessions": ("swarm/client/", "swarm/bench/"),
    "links and event loop": ("swarm/wire/", "asyncio/", "hivemind/", "event_loop.py", "selectors.py"),
}
OTHER = "other"
_GRACE_S = 30.0


def check_sampler() -> str:
    """The sampler's command.

    Raises:
        ConfigError: it is not installed.
    """
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise ConfigError("a profile needs py-spy: pip install 'layerswarm[bench]'")
    return found


class Sampler:
    """Looks at one process for some seconds, from now on."""

    def __init__(self, pid: int, seconds: int, file: Path) -> None:
        self._file = file
        command = [check_sampler(), "record", "--pid", str(pid), "--duration", str(seconds)]
        command += ["--rate", str(RATE), "--format", "raw", "--nonblocking", "--output", str(file)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def samples(self) -> Counter[str]:
        """How often the process was found at each of `PLACES`, once it was looked at.

        Raises:
            SwarmError: it could not be looked at; mostly that takes root.
        """
        _, said = self._process.communicate(timeout=_GRACE_S)
        if self._process.returncode or not self._file.exists():
            reason = " ".join(said.decode(errors="replace").split())[-200:]
            raise SwarmError(f"py-spy could not look at a process (it may need root): {reason}")
        return counted(self._file.read_text().splitlines())

    def stop(self) -> None:
        """Look no longer; harmless when it has ended."""
        if self.running:
            self._process.kill()
        self._process.wait()


def counted(lines: Iterable[str]) -> Counter[str]:
    """Samples at each place, of stacks in py-spy's raw format: `outer;...;inner COUNT`."""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        found[place_of(stack.split(";"))] += int(count)
    return found


def place_of(frames: list[str]) -> str:
    """The place of the innermost frame that has one: what it calls in other libraries is its own time."""
    for frame in reversed(frames):
        for place, files in PLACES.items():
            if any(file in frame for file in files):
                return place
    return OTHER
