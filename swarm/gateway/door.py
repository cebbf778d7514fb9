"""Who may come in: API keys and their limits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from swarm.core.errors import ConfigError
from swarm.gateway.api_error import ApiError
from swarm.gateway.key_file import KeyEntry, digest, read_keys
from swarm.gateway.rate import RateBucket

logger = logging.getLogger(__name__)


class Caller:
    """The holder of one key; or everybody, where no keys are asked for."""

    def __init__(self, entry: KeyEntry | None = None) -> None:
        self.entry = entry
        limit = entry.requests_per_minute if entry is not None else None
        self._bucket = RateBucket(limit) if limit is not None else None
        self._inside = 0

    @contextmanager
    def visit(self) -> Iterator[None]:
        """One request, from its beginning to the end of its answer.

        Raises:
            ApiError: 429, it is one too many.
        """
        most = self.entry.concurrent if self.entry is not None else None
        if most is not None and self._inside >= most:
            raise ApiError(
                429, f"this key may ask {most} things at once", code="rate_limit_exceeded", retry_after_s=1
            )
        wait_s = self._bucket.take(time.monotonic()) if self._bucket is not None else 0.0
        if wait_s:
            text = "this key has asked as often as it may in a minute"
            raise ApiError(429, text, code="rate_limit_exceeded", retry_after_s=wait_s)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Door:
    """Knows the keys of a file, and notices when it changes.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, keys: Path | None) -> None:
        self._path = keys
        self._everybody = Caller()
        self._callers: dict[str, Caller] = {}
        self._version: tuple[int, int] | None = None
        if keys is not None:
            self._load(keys)

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Who sends a request with these headers.

        Raises:
            ApiError: 401, the key is missing or wrong.
        """
        if self._path is None:
            return self._everybody
        self._refresh(self._path)
        secret = _secret(headers)
        if secret is None:
            raise ApiError(
                401, "no API key: send it as Authorization: Bearer KEY, or as x-api-key", code="missing_key"
            )
        caller = self._callers.get(digest(secret))
        if caller is None:
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")
        return caller

    def _refresh(self, path: Path) -> None:
        """A file that cannot be read now leaves things as they are, and is tried again with the next request."""
        try:
            stat = path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._version:
                self._load(path)
        except (OSError, ConfigError) as error:
            logger.warning("the API keys stay as they were: %s", error)

    def _load(self, path: Path) -> None:
        entries = read_keys(path)
        stat = path.stat()
        self._version = (stat.st_mtime_ns, stat.st_size)
        known = self._callers
        self._callers = {}
        for entry in entries:
            caller = known.get(entry.sha256)
            unchanged = caller is not None and caller.entry == entry
            self._callers[entry.sha256] = caller if caller is not None and unchanged else Caller(entry)


def _secret(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None
