"""Stands in for `swarm` where the harness itself is tested: a node that is ready at once, and misbehaves on request.

serve MODEL [--layers A:B] [--ready-file PATH] ... and, as MODEL: `good`, `broken` (exits with 3), `orphan` (leaves a
child process), `socket` (leaves a unix socket), `deaf` (ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path


def main() -> int:
    """Behave as the first operand says."""
    command, model, *options = sys.argv[1:]
    if command == "echo":
        print(sys.stdin.read() + model, file=sys.stderr)
        return 0
    if model == "broken":
        print("error: this peer is broken", file=sys.stderr)
        return 3
    stop = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if model == "deaf" else lambda *_: stop.set())
    if model == "orphan":
        subprocess.Popen(["sleep", "60"])
    if model == "socket":
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(os.path.join(tempfile.gettempdir(), "left.sock"))
    ready = {"peer_id": "Qm", "addresses": ["/ip4/127.0.0.1/tcp/1/p2p/Qm"], "span": None, "pid": os.getpid()}
    if "--layers" in options:
        ready["span"] = options[options.index("--layers") + 1]
    Path(options[options.index("--ready-file") + 1]).write_text(json.dumps(ready))
    stop.wait()
    return 0
