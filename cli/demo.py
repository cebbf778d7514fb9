"""`swarm demo`: a small swarm on this machine that loses a peer in the middle of a sentence."""

from __future__ import annotations

from swarm.cli.client_settings import DemoSettings
from swarm.cli.options import command_of


def demo(settings: DemoSettings) -> None:
    """Start a small swarm on this machine, kill a peer in the middle of a sentence, and see the story go on.

    Four peers serve the built-in model, two of them the same layers. The text is compared with the local model's.
    """
    from swarm.cli.demo_play import play  # imports torch, transformers and hivemind: seconds

    play(settings)


command = command_of(DemoSettings, demo)
