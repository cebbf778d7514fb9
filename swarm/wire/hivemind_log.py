"""What hivemind may write to the terminal: nothing, unless this package itself logs debug messages."""

from __future__ import annotations

import logging

from swarm.wire.hivemind_parts import use_hivemind_log_handler


def quiet_hivemind() -> None:
    """Send hivemind's messages to the root logger, and only the gravest of them."""
    use_hivemind_log_handler("nowhere")
    debug = logging.getLogger("swarm").isEnabledFor(logging.DEBUG)
    logging.getLogger("hivemind").setLevel(logging.DEBUG if debug else logging.CRITICAL)
