"""The identity of one exact checkpoint, without reading all of it."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from swarm.core.errors import ModelError
from swarm.shards.file_errors import reading

# written by whoever saved the file, without meaning for the computation
_VOLATILE = ("_name_or_path", "transformers_version", "_commit_hash")
_SAMPLED_TENSORS = 4096
_SAMPLE = 64
_MAX_HEADER = 100 << 20


def model_uid(config: dict[str, object], fingerprints: list[str]) -> str:
    """A digest of the configuration and of what identifies the weight files, as 32 hexadecimal digits."""
    meaning = {key: value for key, value in config.items() if key not in _VOLATILE}
    text = json.dumps([meaning, fingerprints], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def local_fingerprint(path: Path) -> str:
    """Content hash of a file in a hub cache; else a digest of size, header and samples of every tensor.

    At most 4096 tensors of a file are sampled, 64 bytes at three places each.
    """
    cached = cached_hash(path)
    return cached if cached is not None else _sampled_digest(path)


def cached_hash(path: Path) -> str | None:
    """The hub's hash of a file that lies in a hub cache, where files link to `blobs/HASH`."""
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and len(target.name) in (40, 64):
        return target.name
    return None


def _sampled_digest(path: Path) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with reading(path), path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(_MAX_HEADER, size):
            raise ModelError(f"{path} is not a safetensors file, or it is truncated")
        header = file.read(length)
        digest.update(struct.pack("<Q", size))
        digest.update(header)
        for start, end in _spread(_offsets(path, header), _SAMPLED_TENSORS):
            for at in (start, (start + end) // 2, end - _SAMPLE):
                at = max(start, min(at, end - _SAMPLE))
                file.seek(8 + length + at)
                digest.update(file.read(min(_SAMPLE, end - at)))
    return digest.hexdigest()


def _offsets(path: Path, header: bytes) -> list[tuple[int, int]]:
    try:
        entries = json.loads(header)
        found = [entry["data_offsets"] for key, entry in entries.items() if key != "__metadata__"]
        return sorted((int(start), int(end)) for start, end in found)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelError(f"the header of {path} is damaged; fetch the file again") from exc


def _spread(offsets: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """At most `count` of them, evenly."""
    if len(offsets) <= count:
        return offsets
    return [offsets[i * len(offsets) // count] for i in range(count)]
