"""A server on 127.0.0.1 that answers the few hub requests which reading a checkpoint needs."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

COMMIT = "c0ffee" * 6 + "0123"


class FakeHub:
    """Serves the files of `folder` as repository `tiny/model`; use as a context manager.

    Attributes:
        sent: names of the files whose content was asked for, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # no kept connection survives the server

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        """The address that takes the place of https://huggingface.co."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        """One request: the list of files, or a file."""
        path = request.path.split("?")[0]
        resolve = f"/tiny/model/resolve/{COMMIT}/"
        if path.startswith("/api/models/tiny/model"):
            self._send(
                request, json.dumps(self._listing()).encode(), {"Content-Type": "application/json"}, body=body
            )
        elif path.startswith(resolve) and (self.folder / path.removeprefix(resolve)).is_file():
            self._send_file(request, path.removeprefix(resolve), body=body)
        else:
            kind = "EntryNotFound" if path.startswith(resolve) else "RepoNotFound"
            self._send(request, b"{}", {"X-Error-Code": kind}, body=body, status=404)

    def _listing(self) -> dict[str, object]:
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        siblings: list[dict[str, object]] = []
        for path in files:
            entry: dict[str, object] = {
                "rfilename": path.name,
                "size": path.stat().st_size,
                "blobId": _digest(path)[:40],
            }
            if path.suffix == ".safetensors":
                entry["lfs"] = {"sha256": _digest(path), "size": path.stat().st_size, "pointerSize": 1}
            siblings.append(entry)
        return {"id": "tiny/model", "modelId": "tiny/model", "sha": COMMIT, "siblings": siblings}

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, *, body: bool) -> None:
        path = self.folder / name
        data = path.read_bytes()
        if body:
            self.sent.append(name)
        etag = _digest(path) if path.suffix == ".safetensors" else _digest(path)[:40]
        self._send(request, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        data: bytes,
        headers: dict[str, str],
        *,
        body: bool,
        status: int = 200,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
