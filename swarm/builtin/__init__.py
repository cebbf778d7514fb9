"""The built-in demo model: a tiny Llama checkpoint that tells little stories and adds numbers.

The checkpoint lies in `demo/`; `python -m swarm.builtin.train` makes it anew. Importing this package is cheap:
torch is only needed by the modules that train and measure.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["demo_path"]


def demo_path() -> Path:
    """Folder of the shipped checkpoint: config.json, model.safetensors and the tokenizer's files."""
    return Path(str(files(__name__) / "demo"))
