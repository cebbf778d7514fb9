"""What processes of a test leave behind: descendants that outlive them, and the files of their unix sockets.

Everything that a test session starts inherits a marker in its environment, so that an orphan is still recognised as
ours, and processes of others never are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import psutil

SESSION = "LAYERSWARM_TEST_SESSION"  # set for the zygote, so for all that a test session starts
SWARM = "LAYERSWARM_TEST_SWARM"  # set in a fork, so for what it starts: p2pd, watchers


def marked_processes(variable: str, marker: str) -> list[psutil.Process]:
    """Live processes whose environment at exec said `variable=marker`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def describe(process: psutil.Process) -> str:
    """One line about a process, for a failing assertion."""
    try:
        return f"process {process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid} (gone by now)"


@dataclass
class Traces:
    """Sockets (with the folder that a node keeps them in) and descendants of a process, noted while it lives, to be
    looked for after its death."""

    processes: dict[int, psutil.Process] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def note(self, pid: int) -> None:
        """Add what process `pid` and its descendants have now; a process that is gone adds nothing."""
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            self.processes[process.pid] = process
            try:
                connections = process.net_connections(kind="unix")
            except psutil.Error:
                continue
            for path in (str(connection.laddr) for connection in connections):
                if path.startswith("/"):
                    self.files.add(path)
                if (folder := os.path.dirname(path)).startswith("/tmp/swarm-"):
                    self.files.add(folder)

    def alive(self) -> list[psutil.Process]:
        """Noted processes that still run; a process id in use again is another process."""
        return [process for process in self.processes.values() if is_alive(process)]

    def left_files(self) -> list[str]:
        """Noted files and folders that still exist."""
        return sorted(path for path in self.files if os.path.lexists(path))
