"""The folder with a node's unix sockets: nothing of it outlives the process, however that ends.

hivemind's own sockets stay in /tmp after a `kill -9`. Ours stand in a folder per node, and three things remove it:

    `close`    when the node stops,
    a watcher  a `/bin/sh` in a session of its own that waits for the end of a pipe held by this process, and
               removes the folder then; so also after a `kill -9`, even of the whole process group,
    `sweep`    when the next node starts: folders that no living process has locked (the watcher was killed too).

The lock is the kernel's (flock), so that it vanishes with its holder and holds across PID namespaces.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from swarm.core.errors import NodeError

_ROOT = Path("/tmp")  # not $TMPDIR: a unix socket's path has room for 104 bytes
_PREFIX = "swarm-node-"
_WATCH = 'while read -r line; do :; done; rm -rf -- "$1"'


class SocketFolder:
    """A private folder for sockets and other short-lived files of one node."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._watcher: asyncio.subprocess.Process | None = None

    @classmethod
    async def create(cls) -> SocketFolder:
        """Make a folder, its lock and its watcher, and sweep away what dead processes left.

        Raises:
            NodeError: if that is impossible.
        """
        try:
            sweep()
            folder = cls(*_make_locked())
            try:
                await folder._watch()
            except BaseException:
                await folder.close()
                raise
        except OSError as exc:
            raise NodeError(f"cannot make a folder for sockets in {_ROOT}: {exc.strerror or exc}") from exc
        return folder

    async def _watch(self) -> None:
        self._watcher = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _WATCH,
            "swarm-watcher",
            str(self.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def close(self) -> None:
        """Remove the folder and end the watcher; idempotent."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.stdin.close()
            await self._watcher.wait()


def sweep() -> None:
    """Remove the folders of this user's dead processes."""
    for path in _ROOT.glob(f"{_PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # it has just been removed, or is no folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(lock)


def _make_locked() -> tuple[Path, int]:
    """A new folder of ours, locked for as long as this process lives.

    Another process may sweep the folder between its making and its locking: then another one is made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_ROOT))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            return path, lock
        os.close(lock)
